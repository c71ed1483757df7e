"""What draws come to in tokens: a sample of every task in every format, rendered, pruned, trimmed and counted."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

from flantune.errors import StateError
from flantune.mixtures import Draw, Mixture
from flantune.mixtures.counted import SAMPLE, Pair, Yield, sample_sizes
from flantune.mixtures.row_order import RowOrder
from flantune.mixtures.sequence import mix, name_key
from flantune.recipe import TokensSpec
from flantune.tokens.encode import EncodedBatch
from flantune.tokens.tokenizer import Tokenizer
from flantune.whole import write_json

VERSION = 1  # of the sample: raised when equal data would give other counts
_BATCH = 4096  # draws encoded together
_KEPT_EVERY = 8192  # sampled draws after which the counts are written: a kill loses no more

OnProgress = Callable[[int, int], None]  # draws sampled, of


@dataclass(frozen=True)
class Sampler:
    """Samples the draws of one mixture's tasks. `made_from` names the store's content."""

    mixture: Mixture
    order: RowOrder
    encode: Callable[[Sequence[Draw]], EncodedBatch]
    tokenizer: Tokenizer
    spec: TokensSpec
    made_from: str

    def yields(self, file: Path, on_progress: OnProgress | None = None) -> dict[Pair, Yield]:
        """What each task yields in each of its formats. Counts in `file` that were made from the same are taken from
        there and new ones added: other weights, caps or format weights sample again only what they draw more often.
        """
        wanted = sample_sizes(self.mixture.leaves, SAMPLE)
        names = {pair: self._name(pair, draws) for pair, draws in wanted.items()}
        stamp = self._stamp()
        known = read_counts(file, stamp)
        missing = {pair: draws for pair, draws in wanted.items() if names[pair] not in known}
        done, total, unsaved = 0, sum(missing.values()), 0
        for pair, draws in missing.items():
            known[names[pair]] = self._sample(pair, draws)
            done, unsaved = done + draws, unsaved + draws
            if on_progress:
                on_progress(done, total)
            if unsaved >= _KEPT_EVERY:
                write_counts(file, stamp, known)
                unsaved = 0
        if unsaved:
            write_counts(file, stamp, known)
        return {pair: known[name] for pair, name in names.items()}

    def _sample(self, pair: Pair, draws: int) -> Yield:
        examples = inputs = targets = 0
        sampled = self._draws(pair, draws)
        while some := list(islice(sampled, _BATCH)):
            for example in self.encode(some).examples:
                examples += 1
                inputs += len(example.inputs)
                targets += len(example.targets)
        return Yield(draws, examples, inputs, targets)

    def _draws(self, pair: Pair, draws: int) -> Iterator[Draw]:
        task, format = pair
        leaf = next(leaf for leaf in self.mixture.leaves if leaf.task == task)
        key = name_key("sample", self.mixture.seed, task, json.dumps(asdict(format)))
        for number in range(draws):
            row = self.order.row(task, number, draws)
            yield self.mixture.draw_for(leaf, format, row, mix(key + number), number)

    def _name(self, pair: Pair, draws: int) -> str:
        task, format = pair
        parts = [task, asdict(format), draws, self.mixture.wording_digest(task), self.order.fingerprint(task)]
        return hashlib.blake2b(json.dumps(parts).encode(), digest_size=16).hexdigest()

    def _stamp(self) -> str:
        spec = self.spec
        lengths = (*spec.example_lens, spec.few_shot_margin)
        parts = [VERSION, self.made_from, self.tokenizer.fingerprint, self.mixture.seed, lengths]
        return hashlib.blake2b(json.dumps(parts).encode(), digest_size=16).hexdigest()


def read_counts(file: Path, stamp: str) -> dict[str, Yield]:
    """Counts by name; none where the file is not there or was made from something else. StateError: none of ours."""
    if not file.exists():
        return {}
    try:
        raw = json.loads(file.read_text(encoding="utf-8"))
        return {n: Yield(*map(int, y)) for n, y in raw["yields"].items()} if raw["made_from"] == stamp else {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:
        raise StateError(f"{file}: cannot be read: {e!r}. Delete it: its counts are made again.") from None


def write_counts(file: Path, stamp: str, counts: Mapping[str, Yield]) -> None:
    """[draws, examples, input tokens, target tokens] of each sampled task and format."""
    rows = {n: [y.draws, y.examples, y.input_tokens, y.target_tokens] for n, y in sorted(counts.items())}
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, {"made_from": stamp, "yields": rows})
