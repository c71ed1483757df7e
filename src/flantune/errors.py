"""Every error a user may see: where, which field, what was expected, what came, how to mend it."""

from __future__ import annotations


class FlantuneError(Exception):
    """Base of all errors that are the input's or the machine's, not ours. Exit code 1 unless `exit_code` says else."""

    exit_code = 1


class RecipeError(FlantuneError):
    """The call was wrong: an unknown key, an empty selection, a path that is not there. Exit code 2."""

    exit_code = 2


class DataError(FlantuneError):
    """One place in the user's data is not what its format says.

    >>> str(DataError("rte.jsonl:17", field="label", expected="0 or 1", got=2, mend="Is the label new?"))
    "rte.jsonl:17: field 'label': expected 0 or 1, got 2. Is the label new?"
    """

    def __init__(self, where: str, *, field: str, expected: object, got: object, mend: str = "") -> None:
        self.where, self.field, self.expected, self.got, self.mend = where, field, str(expected), shorten(got), mend
        message = f"{where}: field '{field}': expected {expected}, got {self.got}."
        super().__init__(f"{message} {mend}".rstrip())


class TemplateError(FlantuneError):
    """A pattern names a slot that no field fills, or is no pattern at all."""

    exit_code = 2


class ModelError(FlantuneError):
    """A model folder or tokenizer cannot serve: no weights, no EOS, an unsupported architecture."""


class StateError(FlantuneError):
    """What lies in the run folder is not what this recipe would have left there."""


def shorten(value: object, limit: int = 80) -> str:
    """`repr`, short enough for one line of an error."""
    text = repr(value)
    return text if len(text) <= limit else f"{text[: limit - 3]}..."
