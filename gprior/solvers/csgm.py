"""CSGM: gradient descent over the latent z.

Bora, Jalal, Price and Dimakis 2017, "Compressed sensing using generative models",
arXiv:1703.03208. Objective (their eq. 3), over z::

    J = λ_data |y - A G(z)|² + λ |z|²

minimised by Adam from random latents, the best of several restarts by J. It asks nothing
of a generator but z, so it is what `gprior.solve` takes for priors without styles.

Differs from the authors' code
------------------------------
- λ = 0.001 on the sum of 100 squares is theirs for their DCGAN: 0.1 on the mean of z².
  Their A has entries of unit variance, so that their mean over measurements is a sum over
  pixels, 4 · 12288 = 49152 times our mean over 64-pixel RGB images in [0, 1]; λ_data = 255² / 2
  is of that order.
- The best iterate by the stopping criterion is returned, not the last one of each
  restart; ``restarts`` is an argument of `gprior.solve`.
- Images that do not fill the last batch are solved like all others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gprior.problem import Problem
from gprior.search import GRAY_LEVEL, Adam, Init, Objective, Outcome, Term, Watch, Z, fidelity
from gprior.solvers.base import Solver

__all__ = ["CSGM"]


@dataclass(frozen=True)
class CSGM(Solver):
    """Search z by Adam under a Gaussian prior (Bora et al. 2017).

    Parameters
    ----------
    fidelity : float
        λ_data, on the mean of (y - A x)² over observed entries.
    latent : float
        λ, on the mean of z².
    lr : float
        Adam's step.
    steps, init, perceptual, max_batch
        See `Solver`; there is no perceptual term.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"z"})
    has_perceptual: ClassVar[bool] = False
    steps: int = 500
    init: Init = "random"
    fidelity: float = GRAY_LEVEL
    latent: float = 0.1
    lr: float = 0.1

    def run(self, problem: Problem, watch: Watch) -> Outcome:
        """Minimise J from the starting point."""
        objective = Objective(
            fidelity(self.fidelity),
            Term("latent", self.latent, lambda at: at.variables["z"].square().mean(1)),
        )
        return self.search(problem, watch, objective, (Z(), Adam(self.lr)))
