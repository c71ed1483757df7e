"""The pure rules of few-shot selection: which exemplars share the query's template, which fit, what parts them."""

from __future__ import annotations

import random
from collections.abc import Sequence

MIXED_SEPARATORS = ("\n", "\n\n", "\n\n\n")


def same_template_positions(
    query_template: int, stream_offset: int = 0, num_templates: int = 10, drawn: int = 25
) -> tuple[int, ...]:
    """Positions, among `drawn` exemplars, of those whose template is the query's. Spec 3.4, single template.

    The exemplar stream's template indices run cyclically 0..num_templates-1 from `stream_offset`: 25 drawn under ten
    templates leave two or three.

    >>> same_template_positions(3), same_template_positions(7)
    ((3, 13, 23), (7, 17))
    """
    return tuple(p for p in range(drawn) if (stream_offset + p) % num_templates == query_template)


def kept_exemplars(query_tokens: int, exemplar_tokens: Sequence[int], budget: int) -> int:
    """How many exemplars stay: exemplar j iff the tokens of exemplars 0..j are at most `budget` - query. Spec 3.6.

    `exemplar_tokens` are input and target tokens of each exemplar, without EOS. Cumulative: after the first that does
    not fit all later ones go, short ones too. 0 means the training example is dropped.

    >>> kept_exemplars(320, [700, 600, 500, 10], budget=1920)
    2
    """
    left = budget - query_tokens
    for count, tokens in enumerate(exemplar_tokens):
        left -= tokens
        if left < 0:
            return count
    return len(exemplar_tokens)


def draw_separator(rng: random.Random) -> str:
    """One, two or three line breaks. The recipe's code drew it once per task, unseeded; per example is reproducible."""
    return rng.choice(MIXED_SEPARATORS)
