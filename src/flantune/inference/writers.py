"""Models that write: prompts are read when rows come in, then every step adds a token to every row."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from flantune.inference.asked import asking
from flantune.inference.crossing import WIDEST, Absorbed, Crossing
from flantune.inference.encoded import NothingProjected, scaled
from flantune.inference.encoder import Encoder
from flantune.inference.logits import Logits, OutputMatrix
from flantune.inference.memory import Budget, cache_bytes, free_memory
from flantune.inference.plain_decoder import Reader
from flantune.inference.prefix_tree import build_tree, is_worth_sharing_in_steps, share_nothing
from flantune.inference.rows import Several, Shared, Slab, SlabRow, Step, shared_runs
from flantune.inference.t5_step import T5Step, is_stock
from flantune.inference.waves import Segment, Sink, Store, Wave
from flantune.models.attention import READY
from flantune.models.encdec import start_id
from flantune.types import Tokens

_TRIED = 2  # steps of several tokens; after them more are likely enough that keys and values will pay for themselves
_KEYS_SHARE = 0.25  # of the memory that is free, for them


class Writer(Protocol):
    """Rows are numbered 0 to n - 1; each belongs to one of the prompts."""

    splits: bool  # a prompt can be read in parts

    def order(self) -> list[int]:
        """The prompts, so that those with much in common come together."""
        ...

    def tokens_to_read(self, prompts: Sequence[int]) -> int:
        """Of these prompts, what is not held by now."""
        ...

    def tokens_held(self, prompt: int) -> int:
        """About how many tokens' keys and values a row of this prompt keeps before it writes."""
        ...

    def add(self, prompts: Sequence[int]) -> Logits | None:
        """One row more for each. Logits of their first tokens; None: `step` gives them too."""
        ...

    def step(self, tokens: Sequence[int | None]) -> Logits:
        """Append a token to every row, None before the first. Logits of what follows."""
        ...

    def drop(self, row: int) -> None:
        """The last row takes its number."""
        ...

    def finish(self, prompt: int) -> None:
        """No row of it is there or will come, but for those announced at the start that are left."""
        ...


@runtime_checkable
class Checker(Writer, Protocol):
    """One that can be given several tokens of a row at once."""

    def check(self, tokens: Sequence[Sequence[int]]) -> Logits:
        """Append tokens to every row, one or more. Logits of what follows each. `keep` is next."""
        ...

    def keep(self, counts: Sequence[int]) -> None:
        """Of the tokens given to `check`, so many of each row stay."""
        ...


class CausalWriter:
    """Decoders. `both_ways`: prompts are read as wholes, their tokens seeing each other both ways."""

    def __init__(
        self, model: Any, prompts: Sequence[Tokens], rows: Sequence[int], budget: Budget, *, both_ways: bool = False
    ) -> None:
        """`rows`: how many each prompt will have."""
        self.model, self.both_ways, self.device, self.budget = model, both_ways, model.device, budget
        self.splits = not both_ways
        self.tree = build_tree(
            prompts, None if both_ways else budget.tokens, share_nothing if both_ways else is_worth_sharing_in_steps
        )
        self.store, self.slab = Store(), Slab()
        self._reader, self._output = Reader(model), OutputMatrix(model)
        self.paths: list[tuple[int, ...]] = []  # of each row: the runs it shares
        self.ends: dict[int, Tensor] = {}  # last hidden state of runs at whose end rows begin
        self._users: Counter[int] = Counter()  # rows to come or at work below each run
        self._ending: Counter[int] = Counter()
        for leaf, count in zip(self.tree.last, rows, strict=True):
            self._ending[leaf] += count
            self._users.update(dict.fromkeys(self.tree.path(leaf), count))
        nodes = self.tree.nodes
        self._own = {leaf for leaf, n in self._ending.items() if n == 1 and nodes[leaf].end == leaf + 1}
        self._shared: list[Shared] | None = None

    def order(self) -> list[int]:
        return sorted(range(len(self.tree.last)), key=lambda i: (self.tree.last[i], i))

    def tokens_to_read(self, prompts: Sequence[int]) -> int:
        wanted = {node for p in prompts for node in self.tree.path(self.tree.last[p]) if node not in self.store}
        return sum(len(self.tree.nodes[node].tokens) for node in wanted)

    def tokens_held(self, prompt: int) -> int:
        leaf = self.tree.last[prompt]
        return len(self.tree.nodes[leaf].tokens) if leaf in self._own else 0

    def add(self, prompts: Sequence[int]) -> Logits | None:
        nodes = self.tree.nodes
        leaves = [self.tree.last[p] for p in prompts]
        first = self.slab.add_rows([len(nodes[leaf].tokens) if leaf in self._own else 0 for leaf in leaves])
        try:
            self._read(leaves, first)
        except BaseException:
            self.slab.cut_rows(first)
            raise
        self.paths += [tuple(n for n in self.tree.path(leaf) if n not in self._own) for leaf in leaves]
        self._shared = None
        states = torch.stack([self.ends[leaf] for leaf in leaves])
        for leaf in leaves:
            if leaf in self._own:
                del self.ends[leaf]
        return self._output.logits(states)

    def _read(self, leaves: Sequence[int], first: int) -> None:
        """What of the ways down to these leaves was not read yet; own runs go to the rows from `first` on."""
        nodes = self.tree.nodes
        row_of = {leaf: first + i for i, leaf in enumerate(leaves) if leaf in self._own}
        wanted = sorted({n for leaf in leaves for n in self.tree.path(leaf) if n not in self.store})
        wave: list[int] = []
        tokens = 0
        for n in wanted:
            if wave and tokens + len(nodes[n].tokens) > self.budget.tokens:
                self._read_wave(wave, row_of)
                wave, tokens = [], 0
            wave.append(n)
            tokens += len(nodes[n].tokens)
        if wave:
            self._read_wave(wave, row_of)

    def _read_wave(self, wanted: Sequence[int], row_of: Mapping[int, int]) -> None:
        nodes = self.tree.nodes
        segments = [
            Segment(
                tokens=nodes[n].tokens,
                start=nodes[n].start,
                ancestors=self.tree.path(n)[:-1],
                key=n,
                both_ways=self.both_ways,
            )
            for n in wanted
        ]
        sinks: list[Sink | None] = [SlabRow(self.slab, row_of[n]) if n in row_of else None for n in wanted]
        keep = frozenset(n for n in wanted if n not in row_of)
        wave = Wave(segments, self.store, self.device, keep, sinks)
        ending = [i for i, n in enumerate(wanted) if n in self._ending]
        try:
            states = self._reader.states(wave.ids, wave.positions, wave, wave.ends[ending] - 1)
        except BaseException:
            for n in keep:  # some layers of them, not all
                self.store.drop(n)
            raise
        for i, state in zip(ending, states, strict=True):
            self.ends[wanted[i]] = state.clone()

    def step(self, tokens: Sequence[int | None]) -> Logits:
        places = self._places()
        if self._shared is None:
            self._shared = shared_runs(self.paths, places, self.device)
        else:
            self._shared = [Shared(s.key, s.rows, s.places + 1) for s in self._shared]
        layout = Step(self.slab, self.store, self._shared, self.device)
        ids, positions = torch.tensor(tokens, device=self.device), torch.from_numpy(places).to(self.device)
        logits = self._output.logits(self._reader.step(ids, positions, layout))
        self.slab.lengths = self.slab.lengths + 1
        return logits

    def check(self, tokens: Sequence[Sequence[int]]) -> Logits:
        several = Several([len(given) for given in tokens], self.device)
        places = self._places()[several.row] + several.ahead
        shared = shared_runs([self.paths[row] for row in several.row], places, self.device)
        layout = Step(self.slab, self.store, shared, self.device, several=several)
        ids, positions = _flat(tokens, self.device), torch.from_numpy(places).to(self.device)
        return self._output.logits(self._reader.step(ids, positions, layout))

    def keep(self, counts: Sequence[int]) -> None:
        self.slab.lengths = self.slab.lengths + np.array(counts)
        self._shared = None

    def _places(self) -> Any:
        stops = [self.tree.nodes[path[-1]].stop if path else 0 for path in self.paths]
        return self.slab.lengths + np.array(stops, dtype=np.int64)

    def drop(self, row: int) -> None:
        self.slab.drop_row(row)
        self.paths[row] = self.paths[-1]
        self.paths.pop()
        self._shared = None

    def finish(self, prompt: int) -> None:
        for node in self.tree.path(self.tree.last[prompt]):
            self._users[node] -= 1
            if self._users[node] == 0:
                self.store.drop(node)
                self.ends.pop(node, None)


class EncodedWriter:
    """Encoder-decoders. A prompt is encoded once. Where several rows have it, the keys and values of cross-attention
    are kept for all of them; a row that is alone with its prompt looks at the encoder's states themselves."""

    splits = False

    def __init__(self, model: Any, prompts: Sequence[Tokens], rows: Sequence[int]) -> None:
        self.model, self.device = model, model.device
        self.prompts = prompts
        self.store, self.slab = Store(), Slab()
        self.paths: list[tuple[int, ...]] = []  # of each row: the prompt it shares
        self._users = list(rows)
        self._start = start_id(model)
        self._cross = [block.layer[1].EncDecAttention for block in model.get_decoder().block]
        self._cache = NothingProjected(model)
        self._nothing = torch.zeros(1, 1, model.config.d_model, device=model.device)
        self._encoder = Encoder(model)
        self._quick = T5Step(model) if is_stock(model.get_decoder()) else None
        self._output = OutputMatrix(model)
        self._shared: list[Shared] | None = None
        narrow = model.config.d_model <= WIDEST.get(self.device.type, 0)
        self._alone = {p for p, count in enumerate(rows) if count == 1 and narrow}
        self._crossing, self._checks = Crossing(self.device), 0
        self._absorbed = {int(m.layer_idx): Absorbed(m) for m in self._cross} if self._alone else {}
        # One state a token instead of keys and values in every layer.
        self._state_share = 4 * model.config.d_model / cache_bytes(model)

    def order(self) -> list[int]:
        return sorted(range(len(self.prompts)), key=lambda i: (-len(self.prompts[i]), i))

    def tokens_to_read(self, prompts: Sequence[int]) -> int:
        return sum(len(self.prompts[p]) for p in set(prompts) if p not in self.store)

    def tokens_held(self, prompt: int) -> int:
        if prompt in self._alone:
            return math.ceil(len(self.prompts[prompt]) * self._state_share)
        return -(-len(self.prompts[prompt]) // max(1, self._users[prompt]))

    def add(self, prompts: Sequence[int]) -> Logits | None:
        wanted = [p for p in dict.fromkeys(prompts) if p not in self.store]
        first = len(self.paths)
        try:
            if wanted:
                self._encode(wanted, {p: first + i for i, p in enumerate(prompts)})
        except BaseException:
            for p in wanted:
                self.store.drop(p)
            for row in range(first, first + len(prompts)):
                self._crossing.drop(row)
            raise
        self.slab.add_rows([0] * len(prompts))
        self.paths += [() if p in self._alone else (p,) for p in prompts]
        self._shared = None
        return None

    def _encode(self, wanted: Sequence[int], row_of: Mapping[int, int]) -> None:
        lengths = np.array([len(self.prompts[p]) for p in wanted], dtype=np.int32)
        states = self._encoder.states([self.prompts[p] for p in wanted], lengths)
        runs = dict(zip(wanted, states.split(lengths.tolist()), strict=True))
        alone = [p for p in wanted if p in self._alone]
        if alone:
            self._crossing.add([row_of[p] for p in alone], [runs[p] for p in alone])
            self._crossing.has_room_for_keys = False  # it has to be seen anew
        for p in wanted:
            if p not in self._alone:
                self._project(p, runs[p])

    def _project(self, prompt: int, states: Tensor) -> None:
        for attention in self._cross:
            heads, width = attention.n_heads, attention.key_value_proj_dim
            keys, values = (m(states).view(-1, heads, width).transpose(0, 1) for m in (attention.k, attention.v))
            self.store.put(prompt, 0, int(attention.layer_idx), keys.contiguous(), values.contiguous())

    def step(self, tokens: Sequence[int | None]) -> Logits:
        if self._shared is None:
            self._shared = shared_runs(self.paths, self.slab.lengths, self.device)
        layout = Step(self.slab, self.store, self._shared, self.device, self._crossing, self._absorbed)
        ids = torch.tensor([self._start if token is None else token for token in tokens], device=self.device)
        logits = self._logits(ids, layout)
        self.slab.lengths = self.slab.lengths + 1
        return logits

    def check(self, tokens: Sequence[Sequence[int]]) -> Logits:
        several = Several([len(given) for given in tokens], self.device)
        places = self.slab.lengths[several.row] + several.ahead
        shared = shared_runs([self.paths[row] for row in several.row], places, self.device)
        self._checks += 1
        if self._checks > _TRIED and not self._crossing.has_room_for_keys:
            wanted = self._crossing.tokens * cache_bytes(self.model)
            self._crossing.has_room_for_keys = wanted < _KEYS_SHARE * free_memory(self.device)
        layout = Step(self.slab, self.store, shared, self.device, self._crossing, self._absorbed, several)
        return self._logits(_flat(tokens, self.device), layout)

    def keep(self, counts: Sequence[int]) -> None:
        self.slab.lengths = self.slab.lengths + np.array(counts)
        self._shared = None

    def _logits(self, ids: Tensor, layout: Step) -> Logits:
        quick = None if torch.is_autocast_enabled(self.device.type) else self._quick
        states = self._by_modules(ids, layout) if quick is None else quick.states(ids, layout)
        return self._output.logits(scaled(self.model, states))

    def _by_modules(self, ids: Tensor, layout: Step) -> Tensor:
        with asking(self.model):
            states: Tensor = self.model.get_decoder()(
                input_ids=ids[None],
                attention_mask=READY.to(self.device),
                encoder_hidden_states=self._nothing,
                encoder_attention_mask=READY.to(self.device),
                past_key_values=self._cache,
                use_cache=True,
                packed=layout,
            ).last_hidden_state[0]
        return states

    def drop(self, row: int) -> None:
        self.slab.drop_row(row)
        last = len(self.paths) - 1
        self._crossing.drop(row)
        if row != last:
            self._crossing.rename(last, row)
        self.paths[row] = self.paths[-1]
        self.paths.pop()
        self._shared = None

    def finish(self, prompt: int) -> None:
        self._users[prompt] -= 1
        if self._users[prompt] == 0:
            self.store.drop(prompt)


def _flat(tokens: Sequence[Sequence[int]], device: torch.device) -> Tensor:
    return torch.tensor([token for given in tokens for token in given], device=device)
