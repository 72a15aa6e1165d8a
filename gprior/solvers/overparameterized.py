"""The overparameterized StyleGAN2: one style per output filter, the same for all layers.

Poirier-Ginter, Lessard, Smith and Lalonde 2022, "Overparameterization improves StyleGAN
inversion", section 3.2. The generator is trained with one latent per output filter, see the
argument ``overparameterized`` of `gprior.priors.StyleGAN2`. The search is over the matrix W of
styles that its mapping network makes. Row i of W modulates output filter i of every layer. The
objective (equation 5) is ::

    J = λ_pix |y - A G(W, ..., W)|² + λ_vgg |φ(y) - φ(A G(W, ..., W))|²

Adam minimises J. Every row starts at the mean style w̄. Before each step of the first half of the
run, every row is truncated::

    W_i ← w̄ + 0.9 (W_i - w̄)

For super-resolution (section 5.1: nearest-neighbour downsampling by 16) the paper truncates until
the end, which is ``until=1.0``. Two switches give the other spaces of the paper's table 2:
``by_layer=True`` is W⁺, with a matrix for each layer, and ``by_filter=False, by_layer=True`` on an
ordinary prior is the baseline, w⁺ with the same optimizer and the same truncation.

Differs from the authors' code
------------------------------
- The paper inverts images by LPIPS alone. gprior adds the pixel term, because a measurement need
  not be an image. If it is an image, ``pixel=0`` gives the paper's objective.
- The step size is in units of s, the spread of an entry of w. The authors' 0.05 is 0.11 s at
  s = 0.45.
- The search also works with an ordinary StyleGAN2, whose rows were equal during its training. The
  paper argues that the generator has to be trained with different rows.
- gprior returns the best iterate by the stopping criterion, not the last iterate.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, cast

from gprior.checks import InputError
from gprior.priors import HasFilters, Prior, spread
from gprior.problem import Problem
from gprior.search import (
    GRAY_LEVEL,
    Adam,
    Filters,
    Init,
    Objective,
    Outcome,
    SharedFilters,
    Space,
    Step,
    Variables,
    W,
    Watch,
    WPlus,
    absolute,
    fidelity,
    perceptual,
)
from gprior.solvers.base import Solver

__all__ = ["Overparameterized"]


@dataclass(frozen=True)
class Truncation(Space):
    """A space without variables, which draws styles towards their mean: w ← w̄ + ψ (w - w̄).

    Attributes
    ----------
    psi : float
        ψ, in [0, 1].
    until : float
        Fraction of the run before which it acts.
    """

    psi: float
    until: float
    bounded = True

    def enter(self, prior: Prior, start: Variables) -> Variables:
        """Add the mean style of each row, (R, w_dim)."""
        rows = len(next(iter(start.values())))
        return {**start, "mean": prior.mean_style(start.get("c")).expand(rows, -1)}

    def initial(self, prior: Prior, start: Variables, step: Step) -> Variables:
        return {}

    def project(self, variables: Variables, start: Variables, t: float) -> Variables:
        if t >= self.until:
            return variables
        w, mean = variables["w"], start["mean"]
        mean = mean.view(len(w), *[1] * (w.ndim - 2), -1)
        return {**variables, "w": mean + self.psi * (w - mean)}


@dataclass(frozen=True)
class Overparameterized(Solver):
    """Search one style per output filter (Poirier-Ginter et al. 2022).

    Parameters
    ----------
    pixel : float
        Weight λ_pix ≥ 0 of the mean of (y - A x)² over the observed entries, for images in [0, 1].
    absolute : float
        Weight λ_abs ≥ 0 of the mean of |y - A x|.
    feature : float
        Weight λ_vgg ≥ 0 of the perceptual distance, in units of its median over prior samples.
    lr : float
        Step size of Adam for W, in units of the spread s of w.
    truncation : float
        Factor in [0, 1] by which the distance to the mean style shrinks before a step. The value 1
        switches truncation off.
    until : float
        Fraction of the run, in [0, 1], during which there is truncation. The paper has 1 for
        super-resolution.
    by_filter : bool
        Whether each output filter has its own style.
    by_layer : bool
        Whether each layer has its own styles.
    steps, init, perceptual, max_batch
        See `Solver`. The paper has 1000 steps and ``init="mean"``.

    Raises
    ------
    InputError
        If ``truncation`` or ``until`` is above 1.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"z", "filters"})
    PAPER: ClassVar[Mapping[str, Any]] = {"pixel": 0.0}
    steps: int | tuple[int, ...] = 1000
    init: Init = "mean"
    pixel: float = GRAY_LEVEL
    absolute: float = 0.0
    feature: float = 1.0
    lr: float = 0.11
    truncation: float = 0.9
    until: float = 0.5
    by_filter: bool = True
    by_layer: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("truncation", "until"):
            if getattr(self, name) > 1:
                raise InputError(f"{name} must be at most 1, got {getattr(self, name)}")

    def required(self) -> frozenset[str]:
        """Return the inputs of the prior that these spaces set."""
        return self.needs if self.by_filter else self.needs | {"w"}

    def run(self, problem: Problem, watch: Watch) -> Outcome:
        """Minimise J from the starting point."""
        prior = problem.prior
        objective = Objective(
            fidelity(self.pixel), absolute(self.absolute), perceptual(self.feature)
        )
        space = self.styles(prior) & Truncation(self.truncation, self.until)
        return self.search(problem, watch, objective, (space, Adam(self.lr * spread(prior))))

    def styles(self, prior: Prior) -> Space:
        """Return the space of styles that the switches choose."""
        if not self.by_filter:
            return WPlus() if self.by_layer else W()
        kind = Filters if self.by_layer else SharedFilters
        return kind(cast(HasFilters, prior).num_filters)
