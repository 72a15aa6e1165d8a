"""Latent search: any product of spaces, by Adam or L-BFGS, under the data terms alone.

The plain searches that papers compare themselves with: over (w+, content, noise), written
(W+, S, B) in the SPHInX paper (Subramanyam et al. 2022), (z+, content, noise), or one space
alone ::

    J = λ_pix |y - A G(u)|² + λ_vgg |φ(y) - φ(A G(u))|²

Steps are in units of each variable's own spread: of w, s; of the others, 1.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import reduce
from operator import and_
from typing import Any, ClassVar, cast

from gprior.checks import InputError
from gprior.priors import HasFilters, Prior
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
    fidelity,
    minimise_by_lbfgs,
    perceptual,
)
from gprior.solvers.base import Solver
from gprior.solvers.styles import spread

__all__ = ["Latent"]

LATENTS = ("z", "z+", "w", "w+", "w++")
EXTRAS = ("content", "noise")


@dataclass(frozen=True)
class Latent(Solver):
    """Search a product of spaces under the data terms alone.

    Parameters
    ----------
    spaces : tuple of str
        At most one of "z", "z+", "w", "w+" and "w++" (one style per output filter), and
        any of "content" and "noise". Without the first kind the styles stay as they start.
    optimizer : {"adam", "lbfgs"}
        L-BFGS has a strong-Wolfe line search of its own for each image, and solves one
        image after the other.
    pixel : float
        λ_pix, on the mean of (y - A x)² over observed entries.
    feature : float
        λ_vgg, on the perceptual distance in units of its median over prior samples.
    lr, lr_content, lr_noise : float
        Adam's steps of the latent (of w, w+ and w++ in units of s), the content and the
        noise maps; L-BFGS has its own.
    steps, init, perceptual, max_batch
        See `Solver`. With L-BFGS a step is one evaluation, of its line search too.

    Raises
    ------
    ValueError
        If a space or an optimizer is unknown, or there are two latents.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"z"})
    steps: int = 500
    init: Init = "random"
    spaces: str | tuple[str, ...] = ("w+",)
    optimizer: str = "adam"
    pixel: float = GRAY_LEVEL
    feature: float = 1.0
    lr: float = 0.1
    lr_content: float = 0.01
    lr_noise: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        given = tuple(self.names)
        unknown = [name for name in given if name not in LATENTS + EXTRAS]
        if unknown or not given or len(set(given)) != len(given):
            raise InputError(
                f"spaces must be different names among {LATENTS + EXTRAS}, got {self.spaces!r}"
            )
        if len(set(given) & set(LATENTS)) > 1:
            raise InputError(f"spaces must have one latent at most, got {self.spaces!r}")
        if self.optimizer not in ("adam", "lbfgs"):
            raise InputError(f"optimizer must be 'adam' or 'lbfgs', got {self.optimizer!r}")
        object.__setattr__(self, "spaces", given)

    @property
    def names(self) -> tuple[str, ...]:
        """The spaces, as a tuple."""
        return (self.spaces,) if isinstance(self.spaces, str) else self.spaces

    def required(self) -> frozenset[str]:
        """Return the inputs that these spaces set."""
        own = {
            "z+": {"w"}, "w": {"w"}, "w+": {"w"}, "w++": {"filters"},
            "content": {"w", "content"}, "noise": {"w", "noise"},
        }  # fmt: skip
        return self.needs.union(*(own.get(name, set()) for name in self.names))

    def run(self, problem: Problem, watch: Watch) -> Outcome:
        """Minimise J over the product."""
        space = self.space(problem.prior)
        objective = Objective(fidelity(self.pixel), perceptual(self.feature))
        if self.optimizer == "lbfgs":
            start, cost = self.begin(problem, objective, space)
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
