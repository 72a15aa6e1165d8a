"""Latent search: any product of spaces, by Adam or L-BFGS, with the data terms alone.

Papers compare their methods with these plain searches: over (w+, content, noise), which the
SPHInX paper (Subramanyam et al. 2022) writes as (W+, S, B), over (z+, content, noise), or over one
space alone. The objective is ::

    J = λ_pix |y - A G(u)|² + λ_vgg |φ(y) - φ(A G(u))|²

The term |y - A G(u)|_1 and -log D(G(u)), the adversarial loss of the reviews of
Xia et al. 2022 (arXiv:2101.05278) and Zimand 2025, can be added. They are off by default.

Step sizes of w are in units of its spread s. The other variables have a spread of about 1, so
their step sizes need no unit.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import reduce
from operator import and_
from typing import Any, ClassVar, cast

from gprior.checks import InputError
from gprior.priors import HasFilters, Prior, spread
from gprior.problem import Problem
from gprior.search import (
    GRAY_LEVEL,
    Adam,
    Content,
    Filters,
    FixedStyles,
    Init,
    Noise,
    Objective,
    Outcome,
    Space,
    W,
    Watch,
    WPlus,
    Z,
    ZPlus,
    absolute,
    fidelity,
    minimise_by_lbfgs,
    perceptual,
    realism,
)
from gprior.solvers.base import Solver

__all__ = ["Latent"]

LATENTS = ("z", "z+", "w", "w+", "w++")
EXTRAS = ("content", "noise")


@dataclass(frozen=True)
class Latent(Solver):
    """Search a product of spaces with the data terms alone.

    Parameters
    ----------
    spaces : str or tuple of str
        At most one of "z", "z+", "w", "w+" and "w++" (one style per output filter), and
        any of "content" and "noise". Without one of the first five, the styles keep their starting
        values.
    optimizer : {"adam", "lbfgs"}
        L-BFGS does a separate strong-Wolfe line search for each image, and solves one image
        after the other.
    pixel : float
        Weight λ_pix ≥ 0 of the mean of (y - A x)² over the observed entries, for images in [0, 1].
    absolute : float
        Weight λ_abs ≥ 0 of the mean of |y - A x|.
    feature : float
        Weight λ_vgg ≥ 0 of the perceptual distance, in units of its median over prior samples.
    realism : float
        Weight ≥ 0 of -log D(x), where D is the discriminator of the prior.
    lr, lr_content, lr_noise : float
        Step sizes of Adam for the latent (in units of s for w, w+ and w++), for the content and for
        the noise maps. L-BFGS does not use them.
    steps, init, perceptual, max_batch
        See `Solver`. With L-BFGS, every evaluation counts as a step, also those of the line search.

    Raises
    ------
    InputError
        If a space or the optimizer is unknown, or there are two latents.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"z"})
    steps: int = 500
    init: Init = "random"
    spaces: str | tuple[str, ...] = ("w+",)
    optimizer: str = "adam"
    pixel: float = GRAY_LEVEL
    absolute: float = 0.0
    feature: float = 1.0
    realism: float = 0.0
    lr: float = 0.1
    lr_content: float = 0.01
    lr_noise: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        names = tuple(self.names)
        unknown = [name for name in names if name not in LATENTS + EXTRAS]
        if unknown or not names or len(set(names)) != len(names):
            raise InputError(
                f"spaces must be different names among {LATENTS + EXTRAS}, got {self.spaces!r}"
            )
        if len(set(names) & set(LATENTS)) > 1:
            raise InputError(
                f"spaces must have one latent at most (of {LATENTS}), got {self.spaces!r}"
            )
        if self.optimizer not in ("adam", "lbfgs"):
            raise InputError(f"optimizer must be 'adam' or 'lbfgs', got {self.optimizer!r}")
        object.__setattr__(self, "spaces", names)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the spaces, as a tuple."""
        return (self.spaces,) if isinstance(self.spaces, str) else self.spaces

    def required(self) -> frozenset[str]:
        """Return the inputs of the prior that these spaces set."""
        inputs = {
            "z+": {"w"}, "w": {"w"}, "w+": {"w"}, "w++": {"filters"},
            "content": {"w", "content"}, "noise": {"w", "noise"},
        }  # fmt: skip
        return self.needs.union(*(inputs.get(name, set()) for name in self.names))

    def run(self, problem: Problem, watch: Watch) -> Outcome:
        """Minimise J over the product of the spaces."""
        space = self.space(problem.prior)
        objective = Objective(
            fidelity(self.pixel),
            absolute(self.absolute),
            perceptual(self.feature),
            realism(self.realism, problem.prior),
        )
        if self.optimizer == "lbfgs":
            start, cost = self.starting_point(problem, objective, space)
            outcome = minimise_by_lbfgs(problem, space, objective, start, self.total, watch)
            return replace(outcome, evaluations=outcome.evaluations + cost)
        unit = spread(problem.prior) if {"w", "w+", "w++"} & set(self.names) else 1.0
        rates = {"z": self.lr, "z+": self.lr, "w": self.lr * unit}
        adam = Adam({**rates, "content": self.lr_content, "noise": self.lr_noise})
        return self.search(problem, watch, objective, (space, adam))

    def space(self, prior: Prior) -> Space:
        """Return the product of the spaces."""
        make: dict[str, Any] = {
            "z": Z,
            "z+": lambda: ZPlus(prior),
            "w": W,
            "w+": WPlus,
            "w++": lambda: Filters(cast(HasFilters, prior).num_filters),
            "content": Content,
            "noise": Noise,
        }
        parts: list[Space] = [make[name]() for name in self.names]
        if not set(self.names) & set(LATENTS):
            parts.insert(0, FixedStyles())
        return reduce(and_, parts)
