"""flantune: instruction finetuning, from task collections to an evaluated model."""

__version__ = "0.1.0"
