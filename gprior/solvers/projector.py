"""The StyleGAN2 projector: one style for all layers, and the noise maps.

Karras et al. 2020, "Analyzing and improving the image quality of StyleGAN",
arXiv:1912.04958, section 5 and appendix D. Over w and the noise maps n, with x = G(w, n)::

    J = λ_pix |y - A x|² + λ_vgg |φ(y) - φ(A G(w + η, n))|² + λ_n Σ autocorrelation(n)

where η is Gaussian noise whose standard deviation falls to zero over three quarters of the
run, and every noise map is brought back to mean 0 and variance 1 after each step. Adam from
the mean style, with a step that rises over 5 % and falls over the last quarter.

Differs from the authors' code
------------------------------
- They project an image by its VGG distance alone. The pixel term is ours, since a
  measurement need not be an image; ``pixel=0`` is theirs where it is.
- Steps and η are in units of s, the spread of an entry of w: their step 0.1 at s = 0.45 is
  0.22 s, and their η starts at 0.05 √w_dim s.
- The noise maps that were found are part of the result. Theirs are lost with the copy of
  the generator that held them.
- The best iterate by the stopping criterion is returned, without η, not the last.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

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
    fidelity,
    judgements,
    perceptual,
)
from gprior.solvers.base import Solver
from gprior.solvers.styles import spread
from gprior.solvers.terms import noise_autocorrelation, trapezoid

__all__ = ["Projector"]


FADED = 0.75  # fraction of the run at which the jitter of w has faded


@dataclass(frozen=True)
class Projector(Solver):
    """Search w and noise (Karras et al. 2020, appendix D).

    Parameters
    ----------
    pixel : float
        λ_pix, on the mean of (y - A x)² over observed entries.
    feature : float
        λ_vgg, on the perceptual distance in units of its median over prior samples.
    noise : float
        λ_n, on the squared autocorrelations of the noise maps.
    jitter : float
        Standard deviation of η at the start, in units of s √w_dim.
    lr : float
        Adam's largest step of w, in units of s, and of the noise maps.
    steps, init, perceptual, max_batch
        See `Solver`; the paper has 1000 steps and ``init="mean"``.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"z", "w", "noise"})
    steps: int = 1000
    init: Init = "mean"
    pixel: float = GRAY_LEVEL
    feature: float = 1.0
    noise: float = 1e5
    jitter: float = 0.05
    lr: float = 0.22

    def cost(self, classes: int) -> float:
        """Return the evaluations, those that judge w without its jitter included."""
        jittered = judgements(self.total, FADED) if self.jitter else 0
        return super().cost(classes) + jittered / 3

    def run(self, problem: Problem, watch: Watch) -> Outcome:
        """Minimise J from the starting point."""
        prior, s = problem.prior, spread(problem.prior)
        eta = self.jitter * s * prior.w_avg.shape[-1] ** 0.5
        space = Jittered(eta) & Noise(drawn=True, standard=True)
        objective = Objective(
            fidelity(self.pixel),
            perceptual(self.feature),
            Term("noise", self.noise, lambda at: noise_autocorrelation(at.inputs["noise"])),
        )
        adam = Adam({"w": self.lr * s, "noise": self.lr}, schedule=trapezoid(0.25))
        return self.search(problem, watch, objective, (space, adam))


@dataclass(frozen=True)
class Jittered(W):
    """w plus noise that fades; the code that is returned has none."""

    scale: float

    def draws(self, t: float) -> bool:
        return self.scale > 0 and t < FADED

    def draw(self, variables: Variables, start: Variables, step: Step) -> Variables:
        w = variables["w"]
        eta = self.scale * max(0.0, 1 - step.t / FADED) ** 2
        if eta > 0:
            w = w + eta * step.draw("jitter", w.shape[1:])
        return self.finish({**variables, "w": w}, start, step)
