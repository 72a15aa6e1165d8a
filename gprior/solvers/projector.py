"""The StyleGAN2 projector: one style for all layers, and the noise maps.

Karras et al. 2020, "Analyzing and improving the image quality of StyleGAN",
arXiv:1912.04958, section 5 and appendix D. The objective, over w and the noise maps n with
x = G(w, n), is ::

    J = λ_pix |y - A x|² + λ_vgg |φ(y) - φ(A G(w + η, n))|² + λ_n Σ autocorrelation(n)

η is Gaussian noise. Its standard deviation falls to zero over the first three quarters of the run.
After each step, every noise map is normalised to mean 0 and variance 1. Adam starts from the mean
style. Its step size rises over the first 5 % and falls over the last quarter of the run.

Differs from the authors' code
------------------------------
- The authors project an image by its VGG distance alone. gprior adds the pixel term, because a
  measurement need not be an image. If it is an image, ``pixel=0`` gives the authors' objective.
- Step sizes and η are in units of s, the spread of an entry of w. The authors' step size 0.1 at
  s = 0.45 is 0.22 s, and their η starts at 0.05 √w_dim s.
- The optimised noise maps are part of the result. The authors' code loses them with the copy of
  the generator that contains them.
- gprior returns the best iterate by the stopping criterion, without η, and not the last iterate.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from gprior.priors import spread
from gprior.problem import Problem
from gprior.search import (
    GRAY_LEVEL,
    Adam,
    Init,
    Noise,
    Objective,
    Outcome,
    Step,
    Term,
    Variables,
    W,
    Watch,
    absolute,
    fidelity,
    judgements,
    perceptual,
)
from gprior.solvers.base import Solver
from gprior.solvers.terms import noise_autocorrelation, trapezoid

__all__ = ["Projector"]


FADED = 0.75  # fraction of the run after which η is zero


@dataclass(frozen=True)
class Projector(Solver):
    """Search w and the noise maps (Karras et al. 2020, appendix D).

    Parameters
    ----------
    pixel : float
        Weight λ_pix ≥ 0 of the mean of (y - A x)² over the observed entries, for images in [0, 1].
    absolute : float
        Weight λ_abs ≥ 0 of the mean of |y - A x|.
    feature : float
        Weight λ_vgg ≥ 0 of the perceptual distance, in units of its median over prior samples.
    noise : float
        Weight λ_n ≥ 0 of the squared autocorrelations of the noise maps.
    jitter : float
        Standard deviation of η at the start, in units of s √w_dim; 0 switches η off.
    lr : float
        Largest step size of Adam, for w in units of s, and for the noise maps.
    steps, init, perceptual, max_batch
        See `Solver`. The paper has 1000 steps and ``init="mean"``.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"z", "w", "noise"})
    PAPER: ClassVar[Mapping[str, Any]] = {"pixel": 0.0}
    steps: int = 1000
    init: Init = "mean"
    pixel: float = GRAY_LEVEL
    absolute: float = 0.0
    feature: float = 1.0
    noise: float = 1e5
    jitter: float = 0.05
    lr: float = 0.22

    def cost(self, classes: int) -> float:
        """Return the evaluations, which include those that judge w without η."""
        jittered = judgements(self.total, FADED) if self.jitter else 0
        return super().cost(classes) + jittered / 3

    def run(self, problem: Problem, watch: Watch) -> Outcome:
        """Minimise J from the starting point."""
        prior, s = problem.prior, spread(problem.prior)
        eta = self.jitter * s * prior.w_avg.shape[-1] ** 0.5
        space = Jittered(eta) & Noise(drawn=True, standard=True)
        objective = Objective(
            fidelity(self.pixel),
            absolute(self.absolute),
            perceptual(self.feature),
            Term("noise", self.noise, lambda at: noise_autocorrelation(at.inputs["noise"])),
        )
        adam = Adam({"w": self.lr * s, "noise": self.lr}, schedule=trapezoid(0.25))
        return self.search(problem, watch, objective, (space, adam))


@dataclass(frozen=True)
class Jittered(W):
    """w with added noise η, whose deviation falls to zero; the returned code has no noise.

    Attributes
    ----------
    scale : float
        Standard deviation of η at the start.
    """

    scale: float

    def draws(self, t: float) -> bool:
        return self.scale > 0 and t < FADED

    def draw(self, variables: Variables, start: Variables, step: Step) -> Variables:
        w = variables["w"]
        eta = self.scale * max(0.0, 1 - step.t / FADED) ** 2
        if eta > 0:
            w = w + eta * step.draw("jitter", w.shape[1:])
        return self.finish({**variables, "w": w}, start, step)
