"""Make the embedded base models: prose from the world, pretraining, and the results in bfloat16 in the package.

    python scripts/pretrain_demo_base.py [--base demo|demo-small] [--threads N] [--runs DIR] [--out DIR]

Both bases when none is named. Stopped at any moment, the same command goes on. Nothing of it is an instruction: see
flantune/demo/prose.py. The small one takes the tokenizer of the first.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import tokenizers
import torch
from transformers import AutoModelForSeq2SeqLM

from flantune.cli.console import ProgressLine
from flantune.demo.files import write_prose, write_world
from flantune.models.load import embedded_base
from flantune.pipeline.folder import open_run
from flantune.pipeline.training import base_model
from flantune.recipe import DEMO, DEMO_SMALL, load_recipe
from flantune.tokens.tokenizer import put_space_before
from flantune.whole import atomic_folder

RECIPES = {DEMO: "demo-base.yaml", DEMO_SMALL: "demo-base-small.yaml"}
DOCUMENTS = 400_000
KEPT = ("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", choices=tuple(RECIPES), action="append", help="which; both when not given")
    parser.add_argument("--threads", type=int, default=None, help="CPU threads; the recipe's when not given")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--out", type=Path, default=None, help="folder of one base; the package's when not given")
    arguments = parser.parse_args()
    names = arguments.base or list(RECIPES)
    if arguments.out is not None and len(names) != 1:
        parser.error("--out is the folder of one base: name it with --base")

    world, prose = arguments.runs / "demo-world", arguments.runs / "demo-prose.txt"
    write_world(world)
    if not prose.exists():
        write_prose(prose, DOCUMENTS)
    for name in names:
        overrides = {"runs": str(arguments.runs), "vars.world": str(world), "vars.prose": str(prose)}
        if name != DEMO:
            overrides["vars.tokenizer"] = str(embedded_base())
        if arguments.threads:
            overrides["pretrain.threads"] = arguments.threads
        recipe = load_recipe(Path(__file__).parent.parent / "recipes" / RECIPES[name], overrides)
        progress = ProgressLine()
        base = Path(base_model(recipe, open_run(recipe), progress))
        progress.close()
        ship(base, arguments.out or embedded_base(name))


def ship(base: Path, out: Path) -> None:
    """The base as it lies in the package: bfloat16 weights and the tokenizer, nothing else.

    The first base's pretraining read whole documents; prompts and answers are read as if they stood inside one.
    """
    with atomic_folder(out) as temporary:
        model = AutoModelForSeq2SeqLM.from_pretrained(base, dtype=torch.bfloat16, use_safetensors=True)
        model.save_pretrained(temporary)
        for name in KEPT:
            if not (temporary / name).exists():
                shutil.copy(base / name, temporary / name)
        tokenizer = tokenizers.Tokenizer.from_file(str(base / "tokenizer.json"))
        put_space_before(tokenizer)
        tokenizer.save(str(temporary / "tokenizer.json"))
    size = sum(p.stat().st_size for p in out.iterdir())
    print(f"{out}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
