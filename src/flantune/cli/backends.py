"""Who answers an evaluation: our engine here, or in several processes, or another backend."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flantune.errors import ModelError, RecipeError
from flantune.inference.backends import Backend, BackendName, Local
from flantune.inference.openai import OpenAIServer, Server
from flantune.recipe import EvalSpec

if TYPE_CHECKING:
    from flantune.pipeline.parallel import Workers

DEFAULT_INPUTS = 2048  # tokens of a prompt for a model that does not say; the recipe's training length, spec 3.6


@dataclass(frozen=True, slots=True, kw_only=True)
class Answering:
    """`model`: a folder or hub id, or the name that a server knows it by. `tokenizer`: of a server's model, to measure
    prompts and word chats here."""

    model: str
    backend: BackendName = "ours"
    max_inputs: int | None = None
    tokenizer: str | None = None
    server: Server | None = None  # of backend "openai", which needs one
    workers: Workers | None = None


@contextmanager
def opened_backend(asked: Answering) -> Iterator[Backend]:
    """Ready to be asked, and closed afterwards. Raises RecipeError for what does not go together."""
    if asked.tokenizer is not None and asked.backend != "openai":
        raise RecipeError("--tokenizer is for --backend openai; other models bring their own.")
    if asked.backend == "mock":
        from flantune.inference.mock import Mock

        yield Mock(asked.model, max_inputs=asked.max_inputs)
    elif asked.backend == "openai":
        assert asked.server is not None
        server = OpenAIServer(asked.server, _local(asked))
        try:
            yield server
        finally:
            server.close()
    elif asked.backend == "vllm":
        yield _vllm(asked)
    elif asked.workers is not None:
        from flantune.pipeline.asking import Shared

        with Shared(asked.model, inputs_len(asked), asked.workers) as shared:
            yield shared
    else:
        from flantune.pipeline.evaluation import open_backend

        yield open_backend(asked.model, EvalSpec(), inputs_len(asked))


def inputs_len(asked: Answering) -> int:
    """Tokens that a prompt may have: as asked, else what the model was tuned with, else a decoder's positions, else
    2048."""
    from flantune.models.place import context_length, how_to_ask, located

    where = located(asked.model)
    tuned_with = how_to_ask(where, one_sided=False).inputs_len
    return asked.max_inputs or tuned_with or context_length(where) or DEFAULT_INPUTS


def _local(asked: Answering) -> Local | None:
    if asked.tokenizer is None:
        if asked.max_inputs is not None:
            raise RecipeError("--max-inputs counts tokens: give the --tokenizer of the server's model too.")
        return None
    from flantune.tokens.tokenizer import load_tokenizer

    return Local(load_tokenizer(asked.tokenizer), asked.max_inputs)


def _vllm(asked: Answering) -> Any:
    from flantune.inference.vllm import VLLM
    from flantune.models.family import family_of_type
    from flantune.models.place import how_to_ask, located, model_type
    from flantune.pipeline.evaluation import model_fingerprint
    from flantune.tokens.tokenizer import load_tokenizer

    where = located(asked.model)
    one_sided = family_of_type(model_type(where), where=where).one_sided
    asking = how_to_ask(where, one_sided)
    if not one_sided:
        raise ModelError(f"{where}: vLLM runs no encoder-decoder models; our own engine does: --backend ours.")
    if asking.attention != "causal":
        raise ModelError(f"{where}: was trained as a prefix-LM, which vLLM does not run: --backend ours.")
    words = load_tokenizer(where)
    bos = None if asking.prompt_eos else words.leading_bos
    fingerprint = model_fingerprint(where, words.fingerprint) if Path(where).is_dir() else where
    return VLLM(where, words, fingerprint, max_inputs=inputs_len(asked), prompt_eos=asking.prompt_eos, prompt_bos=bos)
