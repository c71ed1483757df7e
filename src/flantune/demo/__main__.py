"""Write the embedded worlds as files that recipes can name.

python -m flantune.demo DIR        DIR/world, the demo's tasks; DIR/abilities, the world of abilities
"""

from __future__ import annotations

import argparse
from pathlib import Path

from flantune.demo.files import write_abilities, write_world


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m flantune.demo", description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    print(write_world(folder / "world"))
    print(write_abilities(folder / "abilities"))


if __name__ == "__main__":
    main()
