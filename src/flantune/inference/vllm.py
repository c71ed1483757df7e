"""vLLM as a backend, for decoders: it schedules and samples; prompts and options are tokenised as our engine does.

Options are scored from the log-probabilities of the prompt's own tokens, one row per option; prefixes that rows share
are vLLM's to reuse. Sampling is vLLM's own: equal seeds give other draws than our engine's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from flantune.errors import ModelError, RecipeError
from flantune.inference.backends import Capabilities, Local, Prices, Refused
from flantune.inference.engine import Engine
from flantune.inference.requests import Generated, GenerateRequest, Scored, ScoreRequest
from flantune.inference.stops import cut_at
from flantune.types import Tokens

if TYPE_CHECKING:
    from flantune.tokens.tokenizer import Tokenizer

AT_ONCE = 512  # requests per call: vLLM answers a call as a whole, and what is answered must reach the disk


class _Words(Engine):
    """Our engine's way with prompts and options, without a model."""

    def __init__(self, tokenizer: Tokenizer, max_inputs: int, prompt_eos: bool, prompt_bos: int | None) -> None:
        self.tokenizer, self.max_inputs = tokenizer, max_inputs
        self.prompt_eos, self.prompt_bos = prompt_eos, prompt_bos
        self.family, self.trained_inputs, self._told_of_length = "causal", None, False


class VLLM(Local):
    """`model`: a folder or hub id; `fingerprint`: of its weights and tokenizer. A prompt longer than `max_inputs` is
    cut as our engine cuts it, and said so."""

    capabilities = Capabilities()
    prices: Prices | None = None

    def __init__(
        self,
        model: str,
        tokenizer: Tokenizer,
        fingerprint: str,
        *,
        max_inputs: int,
        prompt_eos: bool,
        prompt_bos: int | None = None,
        dtype: str = "auto",
        **options: Any,
    ) -> None:
        super().__init__(tokenizer, max_inputs, prompt_eos)
        vllm = _import_vllm()
        self._vllm = vllm
        self._words = _Words(tokenizer, max_inputs, prompt_eos, prompt_bos)
        self._llm = vllm.LLM(model=model, tokenizer=model, dtype=dtype, enable_prefix_caching=True, **options)
        self.identity: Mapping[str, Any] = {
            "backend": "vllm",
            "model": fingerprint,
            "max_inputs": max_inputs,
            "prompt_eos": prompt_eos,
            "prompt_bos": prompt_bos,
            "precision": dtype,
            "version": getattr(vllm, "__version__", "unknown"),
        }

    def generate(self, requests: Sequence[GenerateRequest]) -> Iterator[Generated | Refused]:
        for first in range(0, len(requests), AT_ONCE):
            some = requests[first : first + AT_ONCE]
            prompts, cut = self._words._encode_prompts(some)
            outputs = self._llm.generate(self._rows(prompts), [self._params(r) for r in some], use_tqdm=False)
            for place, (request, output) in enumerate(zip(some, outputs, strict=True)):
                told = sorted(output.outputs, key=lambda o: o.index)
                texts = tuple(cut_at(o.text, request.stop) for o in told)
                new = sum(len(o.token_ids) for o in told)
                yield Generated(first + place, texts, cut[place], len(prompts[place]), new)

    def score(self, requests: Sequence[ScoreRequest]) -> Iterator[Scored | Refused]:
        params = self._vllm.SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=0)
        for first in range(0, len(requests), AT_ONCE):
            some = requests[first : first + AT_ONCE]
            prompts, options, cut = self._words._encode_options(some)
            rows = [[*p.tolist(), *o.tolist()] for p, own in zip(prompts, options, strict=True) for o in own]
            outputs = iter(self._llm.generate(self._rows(rows), params, use_tqdm=False))
            for place, (prompt, own) in enumerate(zip(prompts, options, strict=True)):
                scores = tuple(_sum_of(next(outputs).prompt_logprobs, len(prompt), option) for option in own)
                yield Scored(first + place, scores, cut[place], len(prompt))

    def _rows(self, prompts: Sequence[Any]) -> list[Any]:
        return [self._vllm.TokensPrompt(prompt_token_ids=[int(t) for t in prompt]) for prompt in prompts]

    def _params(self, request: GenerateRequest) -> Any:
        drawn = request.sampling
        return self._vllm.SamplingParams(
            n=request.samples,
            temperature=drawn.temperature,
            top_k=drawn.top_k or 0,
            top_p=1.0 if drawn.top_p is None else drawn.top_p,
            seed=drawn.seed + request.first if drawn.temperature > 0 else None,
            max_tokens=request.max_new_tokens,
            stop=list(request.stop) or None,
        )


def _import_vllm() -> Any:
    try:
        import vllm
    except ImportError:
        raise RecipeError(
            "--backend vllm needs vLLM and a GPU it runs on, which is not installed here: pip install vllm. Our own "
            "engine needs neither: --backend ours."
        ) from None
    return vllm


def _sum_of(logprobs: Any, start: int, option: Tokens) -> float:
    """vLLM gives one entry per token of the row, by token id; the first is None."""
    if logprobs is None or len(logprobs) != start + len(option):
        raise ModelError("vLLM gave no log-probabilities of the prompt's tokens; is its version 0.6 or later?")
    told = [logprobs[start + place].get(int(token)) for place, token in enumerate(option)]
    if any(entry is None for entry in told):
        raise ModelError("vLLM left a token of an option out of its log-probabilities.")
    return float(sum(entry.logprob for entry in told))
