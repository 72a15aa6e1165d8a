"""CSGM: gradient descent over the latent z.

Bora, Jalal, Price and Dimakis 2017, "Compressed sensing using generative models",
arXiv:1703.03208. The objective (equation 3 of the paper), over z, is ::

    J = λ_data |y - A G(z)|² + λ |z|²

The authors' code has two more terms, |y - A G(z)|_1 and -log D(G(z)), where D is the discriminator.
They are off by default here.

Adam minimises J from random latents. Of several restarts, the one with the lowest J is kept. The
method needs no input of a generator except z. `gprior.solve` therefore uses it for priors that
have no styles.

Differs from the authors' code
------------------------------
- The authors use λ = 0.001 on the sum of the 100 squares of z for their DCGAN. This equals 0.1 on
  the mean of z². The entries of their A have unit variance, so their mean over the measurements
  equals a sum over pixels: 4 · 12288 = 49152 times the mean that gprior takes over 64-pixel RGB
  images in [0, 1]. λ_data = 255² / 2 has the same order of magnitude.
- D is the sigmoid of the logit of the discriminator. The authors' code can also add
  d₂ log(1 - D(G(z))), which gprior does not have. Their weight d₁ = 1 belongs to
  ``fidelity=49152``.
- gprior returns the best iterate by the stopping criterion. The authors' code returns the last
  iterate of each restart. The number of restarts is the argument ``restarts`` of `gprior.solve`.
- Images that do not fill the last batch are solved like all other images.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from gprior.problem import Problem
from gprior.search import (
    GRAY_LEVEL,
    Adam,
    Init,
    Objective,
    Outcome,
    Term,
    Watch,
    Z,
    absolute,
    fidelity,
    realism,
)
from gprior.solvers.base import Solver

__all__ = ["CSGM"]


@dataclass(frozen=True)
class CSGM(Solver):
    """Search z by Adam under a Gaussian prior (Bora et al. 2017).

    Parameters
    ----------
    fidelity : float
        Weight λ_data ≥ 0 of the mean of (y - A x)² over the observed entries, for images in [0, 1].
    absolute : float
        Weight λ_abs ≥ 0 of the mean of |y - A x|.
    latent : float
        Weight λ ≥ 0 of the mean of z².
    realism : float
        Weight d₁ ≥ 0 of -log D(x), where D is the discriminator of the prior.
    lr : float
        Step size of Adam for z.
    steps, init, perceptual, max_batch
        See `Solver`. This method has no perceptual term, so ``perceptual=True`` is refused.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"z"})
    has_perceptual: ClassVar[bool] = False
    PAPER: ClassVar[Mapping[str, Any]] = {"fidelity": 49152.0}
    steps: int = 500
    init: Init = "random"
    fidelity: float = GRAY_LEVEL
    absolute: float = 0.0
    latent: float = 0.1
    realism: float = 0.0
    lr: float = 0.1

    def run(self, problem: Problem, watch: Watch) -> Outcome:
        """Minimise J from the starting point."""
        objective = Objective(
            fidelity(self.fidelity),
            absolute(self.absolute),
            Term("latent", self.latent, lambda at: at.variables["z"].square().mean(1)),
            realism(self.realism, problem.prior),
        )
        return self.search(problem, watch, objective, (Z(), Adam(self.lr)))
