"""Tk-Instruct's protocol (definition, two positive examples, the first 100 instances, ROUGE-L) over the twenty tasks
that study-niv2-tasks.yaml holds out, in place of the official test categories."""

from pathlib import Path

from flantune.evals.natural_instructions import NaturalInstructions

HELD_OUT = tuple(Path(__file__).with_name("niv2-held-out.txt").read_text().split())
BENCHMARK = NaturalInstructions(name="niv2_rouge_l", chosen=HELD_OUT)
