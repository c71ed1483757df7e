"""The same items as niv2_rouge_l.py, asked in the same words, scored by exact match after normalisation: every answer
is found among those kept, none is written twice."""

from pathlib import Path

from flantune.evals.natural_instructions import NaturalInstructions

HELD_OUT = tuple(Path(__file__).with_name("niv2-held-out.txt").read_text().split())
BENCHMARK = NaturalInstructions(name="niv2_exact_match", chosen=HELD_OUT, metric="exact_match")
