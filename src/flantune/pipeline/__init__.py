"""The stages of a run, in order: read, tokenizer, pretrain, build, train, evaluate, report.

Each reads only files that earlier stages left in the run's folder and can be stopped and run again.
"""

from flantune.pipeline.data import build, open_store
from flantune.pipeline.evaluation import evaluate_run
from flantune.pipeline.folder import RunFolder, open_run
from flantune.pipeline.run import run
from flantune.pipeline.training import base_model, finetune

__all__ = [
    "RunFolder",
    "base_model",
    "build",
    "evaluate_run",
    "finetune",
    "open_run",
    "open_store",
    "run",
]
