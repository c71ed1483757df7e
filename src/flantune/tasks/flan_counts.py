"""What the catalog counts beside the paper's figures, why they differ, and which of its tasks lie on this machine."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from flantune.tasks.flan import CatalogTask, catalog
from flantune.tasks.held_out import MMLU_NUMBERS


@dataclass(frozen=True, slots=True, kw_only=True)
class PaperFigures:
    tasks: int
    datasets: int
    categories: int


# Chung et al. 2022, figure 2.
PAPER: Mapping[str, PaperFigures] = {
    "muffin": PaperFigures(tasks=80, datasets=69, categories=27),
    "t0_sf": PaperFigures(tasks=193, datasets=55, categories=14),
    "niv2": PaperFigures(tasks=1554, datasets=372, categories=108),
    "cot": PaperFigures(tasks=9, datasets=9, categories=1),
}
PAPER_TOTAL = PaperFigures(tasks=1836, datasets=473, categories=146)
PAPER_EXCLUDED = 44


@dataclass(frozen=True, slots=True, kw_only=True)
class MixtureCount:
    """One mixture's tasks; datasets and categories are those of the counted tasks."""

    mixture: str
    tasks: int
    datasets: int
    categories: int
    inverted: int
    excluded: int
    paper: PaperFigures


def mixture_counts() -> tuple[MixtureCount, ...]:
    """In the paper's order: Muffin, T0-SF, NIV2, CoT."""
    return tuple(_count(m, [t for t in catalog() if t.mixture == m], paper) for m, paper in PAPER.items())


def total_count() -> MixtureCount:
    return _count("total", catalog(), PAPER_TOTAL)


def _count(mixture: str, tasks: Iterable[CatalogTask], paper: PaperFigures) -> MixtureCount:
    tasks = tuple(tasks)
    counted = [t for t in tasks if t.counted]
    return MixtureCount(
        mixture=mixture,
        tasks=len(counted),
        datasets=len({t.dataset for t in counted}),
        categories=len({t.category for t in counted}),
        inverted=sum(t.inverted for t in tasks),
        excluded=sum(t.excluded for t in tasks),
        paper=paper,
    )


def deviations() -> tuple[str, ...]:
    """A sentence or two for each figure that is not the paper's, or that means something else than it seems to."""
    by_mixture = {c.mixture: c for c in mixture_counts()}
    total = total_count()
    muffin, t0, niv2, cot = (by_mixture[m] for m in PAPER)
    pairs = len({(t.dataset, t.category) for t in catalog() if t.mixture == "t0_sf"})
    excluded = [t for t in catalog() if t.excluded]
    examples = sum(t.examples or 0 for t in excluded)
    low, high = min(MMLU_NUMBERS), max(MMLU_NUMBERS)
    return (
        f"niv2: {niv2.tasks:,} tasks, the paper says {niv2.paper.tasks:,}. The published taxonomy has {niv2.tasks:,} "
        f"rows, all different; which {niv2.tasks - niv2.paper.tasks} the paper left out is not published.",
        f"niv2: {niv2.excluded} tasks are excluded, the paper says {PAPER_EXCLUDED}. The published code excludes every "
        f"task made from MMLU (numbers {low}-667 and 685-{high}, {examples:,} examples: 56 subjects and a mixed one); "
        f"the list behind {PAPER_EXCLUDED} is not published. The taxonomy has no row for any of the {niv2.excluded}.",
        f"total: {total.tasks:,} tasks, the paper says {total.paper.tasks:,}; the difference is niv2's.",
        f"total: {total.inverted} rows of the taxonomy are inverted tasks (answer to question and the like): "
        f"{muffin.inverted} of muffin, {cot.inverted} of cot. The paper's figures do not count them.",
        "muffin: mnli counts twice, for its matched and its mismatched set, though the taxonomy's two rows are equal. "
        "trivia_qa_wiki_missing is counted but not active in the public code; task_master and the five program "
        "synthesis tasks are counted but not in it.",
        f"t0_sf: its {t0.tasks} tasks are prompts of P3. By the paper's own definition, a dataset and a category, they "
        f"are {pairs}; several of its {t0.datasets} datasets are prompt names cut at an underscore (quoref_Answer).",
        f"datasets: {total.datasets} names over all counted tasks, the paper says {total.paper.datasets}; muffin has "
        f"{muffin.datasets} against {muffin.paper.datasets}. How the paper joined names (anli_r1, wmt16_..., the "
        "four of DrRepair) is not published.",
        f"categories: {total.categories} over all counted tasks, the paper says {total.paper.categories}; "
        + ", ".join(f"{c.mixture} {c.categories} against {c.paper.categories}" for c in (muffin, t0, cot))
        + ". The paper takes all of CoT for one category; its other groupings are not published.",
    )


# The names our readers give Muffin's data sets where they are not the taxonomy's.
MUFFIN_NAMES: Mapping[str, str] = {
    "boolq": "bool_q",
    "boolq_icl": "bool_q",
    "copa_icl": "copa",
    "e2e_nlg_dev": "e2e_nlg",
    "e2e_nlg_test": "e2e_nlg",
    "e2e_nlg_train": "e2e_nlg",
    "nq_open": "natural_questions",
    "openbook_qa": "openbookqa",
    "wikidialog": "wiki_dialog",
    "code_contests": "dmcc_python",
    "taskmaster": "task_master",
}
REPAIR_VARIANTS = ("error_comments", "line_numbers", "no_errors", "plain_code")


def catalog_name(task: str, dataset: str = "") -> str | None:
    """The catalog's name for a task as a reader names it ("muffin/boolq" -> "muffin/bool_q"); None without one.

    Muffin's dialog and code files are named after the file; then the data set tells, and DrRepair's variant.
    """
    mixture, _, name = task.partition("/")
    names = _names()
    if mixture == "muffin":
        variants = [f"{dataset}_{v}" for v in REPAIR_VARIANTS if name.endswith(f"_{v}")]
        asked = [MUFFIN_NAMES.get(n, n) for n in (name, *variants, dataset)]
        return next((names[f"muffin/{_plain(n)}"] for n in asked if f"muffin/{_plain(n)}" in names), None)
    if mixture == "niv2_early":
        mixture = "niv2"
    if mixture == "niv2" and f"niv2/{_plain(name)}" not in names:
        name = name.partition(".")[0]  # the taxonomy cuts three names at their first dot: task1637_doqa2.1_...
    return names.get(f"{mixture}/{_plain(name)}")


def _plain(name: str) -> str:
    """The taxonomy writes underscores where some of Natural Instructions' file names have dashes or dots."""
    return re.sub(r"[-.]", "_", name)


@functools.cache
def _names() -> dict[str, str]:
    return {_plain(t.name): t.name for t in catalog()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Presence:
    """Which catalog tasks some collections hold."""

    found: Mapping[str, tuple[str, ...]]  # catalog name -> names of the tasks read
    others: tuple[str, ...]  # tasks read that the collection does not have

    def usable(self, task: CatalogTask) -> bool:
        """Whether it can be trained on: an inverted task where its forward one is there, an excluded one never."""
        return not task.excluded and task.forward in self.found


def presence(tasks: Mapping[str, str]) -> Presence:
    """`tasks`: name -> data set of the tasks that were read and have an example."""
    found: dict[str, tuple[str, ...]] = {}
    others = []
    for name, dataset in tasks.items():
        known = catalog_name(name, dataset)
        if known is None:
            others.append(name)
        else:
            found[known] = (*found.get(known, ()), name)
    return Presence(found=found, others=tuple(others))
