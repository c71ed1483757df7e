"""Catalogs of tasks: the store of their examples, what is held out of training, and the check of a collection."""

from flantune.tasks.check import CheckReport, FileCheck, check_collections
from flantune.tasks.held_out import MMLU_NUMBERS, HeldOutSplit, is_mmlu, matching_names, split_held_out
from flantune.tasks.store import ExampleStore, Progress, build_store

__all__ = [
    "MMLU_NUMBERS",
    "CheckReport",
    "ExampleStore",
    "FileCheck",
    "HeldOutSplit",
    "Progress",
    "build_store",
    "check_collections",
    "is_mmlu",
    "matching_names",
    "split_held_out",
]
