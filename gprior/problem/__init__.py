"""What is to be solved: all data of every row, and A seen row by row."""

from __future__ import annotations

from gprior.problem.forward import Forward, Leaves, as_leaves
from gprior.problem.problem import PerceptualTerm, Problem, entries as entries, informative, split

__all__ = [
    "Forward",
    "Leaves",
    "PerceptualTerm",
    "Problem",
    "as_leaves",
    "informative",
    "split",
]
