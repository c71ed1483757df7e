"""The benchmarks there are, by name."""

from __future__ import annotations

from collections.abc import Mapping

from flantune.evals.bbh import Bbh
from flantune.evals.benchmark import Benchmark
from flantune.evals.ceval import CEval
from flantune.evals.competition_math import CompetitionMath
from flantune.evals.cruxeval import CruxEval
from flantune.evals.gsm8k import Gsm8k
from flantune.evals.mgsm import Mgsm
from flantune.evals.mmlu import Mmlu
from flantune.evals.mutual import MuTual
from flantune.evals.natural_instructions import NaturalInstructions
from flantune.evals.tydiqa import TyDiQa
from flantune.evals.word_problems import AsDiv, Mawps, MultiArith, Svamp

# Benchmarks that are read from files. Held-out tasks of a collection are `Tasks(store, names)`.
BENCHMARKS: Mapping[str, Benchmark] = {
    b.name: b
    for b in (
        Mmlu(),
        Mmlu(name="mmlu_original", style="original", modes=("direct",)),
        Bbh(),
        Gsm8k(),
        Mgsm(),
        Mgsm(name="mgsm_en_cot", english=True),
        Svamp(),
        Mawps(),
        AsDiv(),
        MultiArith(),
        CompetitionMath(),
        CEval(),
        TyDiQa(),
        NaturalInstructions(),
        CruxEval(),
        MuTual(),
    )
}
