"""Write the embedded worlds as files that recipes can name.

python -m flantune.demo DIR        DIR/world, the demo's tasks; DIR/abilities, the world of abilities; DIR/prose.txt,
                                   what the first says as plain text
"""

from __future__ import annotations

import argparse
from pathlib import Path

from flantune.demo.files import write_abilities, write_prose, write_world

PROSE = 40_000  # documents, 5 MB: more than the studies' models read


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m flantune.demo", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    print(write_world(folder / "world"))
    print(write_abilities(folder / "abilities"))
    print(write_prose(folder / "prose.txt", PROSE))


if __name__ == "__main__":
    main()
