"""What is trained on and in which order: weights, caps and formats as a pure function of an index."""

from flantune.mixtures.mixture import Draw, Mixture
from flantune.mixtures.weights import Leaf, find_leaves

__all__ = ["Draw", "Leaf", "Mixture", "find_leaves"]
