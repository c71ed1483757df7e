"""The fuzzer's own code, from scripts/: the tests account for rows as it does."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

PATH = Path(__file__).parents[2] / "scripts" / "fuzz_readers.py"
_spec = importlib.util.spec_from_file_location("fuzz_readers", PATH)
assert _spec is not None and _spec.loader is not None
module = sys.modules["fuzz_readers"] = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(module)

Outcome = module.Outcome
csv_places = module.csv_places
fuzz = module.fuzz
read_and_account = module.read_and_account
run_case = module.run_case
seeds_of = module.seeds_of
Seed = module.Seed
