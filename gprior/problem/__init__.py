"""What is to be solved: all data of every row, A seen row by row, and when a row stops."""

from __future__ import annotations

from gprior.problem.build import BACKGROUND, build_problem, pseudo_inverse
from gprior.problem.forward import Forward, Leaves, as_leaves
from gprior.problem.problem import (
    PerceptualTerm,
    Problem,
    entries as entries,
    root_mean_square as root_mean_square,
)
from gprior.problem.stopping import AllSteps, Discrepancy, HoldOut, Rule, hold_out, informative

__all__ = [
    "BACKGROUND",
    "AllSteps",
    "Discrepancy",
    "Forward",
    "HoldOut",
    "Leaves",
    "PerceptualTerm",
    "Problem",
    "Rule",
    "as_leaves",
    "build_problem",
    "hold_out",
    "informative",
    "pseudo_inverse",
]
