"""PULSE: search for a latent on a sphere whose downsampled image equals the measurement.

Menon, Damian, Hu, Ravi and Rudin 2020, "PULSE: Self-supervised photo upsampling via latent
space exploration of generative models", arXiv:2003.03808. The variables are
z+ = (z_1, ..., z_L), where each z_i stays on the sphere on which it starts, and the first five
noise maps. The objective is ::

    J = λ_pix max(ε, |y - A G|²) + λ_geo Geo(w_1, ..., w_L),   w_i = M(z_i)

Geo is the mean squared angle between the styles of two layers. Adam minimises J with a step size
that rises and falls once. A is any operator here; in the paper it is a downsampling.

Differs from the authors' code
------------------------------
- The authors use the bound ε = 2e-3, which is 27 dB. Below it, the data term is constant. The
  default here is 0, because the discrepancy principle ends the fit if the noise level is known.
- The authors' bound acts on the sum over a batch, so no batch of two images can reach it. Their
  code also returns the last image and not the best one.
- z_i goes through the mapping network of the generator. The authors use a random affine map that
  is fitted to W. In gprior, z+ starts with the same z for all layers.
- Noise maps that are not searched are the constants of the generator. The authors draw these maps
  again at each step, and set the last map to zero.
- The geodesic weight is relative to a data weight of 100, as in the authors' code. The path of
  Adam depends only on the ratio of the two weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from gprior.problem import Problem
from gprior.search import (
    Adam,
    Init,
    Iterate,
    Noise,
    Objective,
    Outcome,
    Sphere,
    Term,
    Watch,
    ZPlus,
    absolute,
)
from gprior.solvers.base import Solver
from gprior.solvers.terms import geodesic_cross, one_cycle_drop

__all__ = ["PULSE"]


@dataclass(frozen=True)
class PULSE(Solver):
    """Search z+ on its sphere, and the coarse noise maps (Menon et al. 2020).

    Parameters
    ----------
    pixel : float
        Weight λ_pix ≥ 0 of the mean of (y - A x)² over the observed entries, for images in [0, 1].
    absolute : float
        Weight λ_abs ≥ 0 of the mean of |y - A x|.
    tolerance : float
        ε ≥ 0, in squared pixel units. The data term is constant where the mean of (y - A x)² is
        below ε. The paper's value is 2e-3.
    cross : float
        Weight λ_geo ≥ 0 of the squared angles between the styles of different layers.
    noises : int
        Number of noise maps to search, at least 0, from the coarsest map on.
    lr : float
        Largest step size of Adam.
    steps, init, perceptual, max_batch
        See `Solver`. The paper has 100 steps. This method has no perceptual term, so
        ``perceptual=True`` is refused.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"z", "w", "noise"})
    has_perceptual: ClassVar[bool] = False
    PAPER: ClassVar[Mapping[str, Any]] = {"steps": 100, "tolerance": 2e-3}
    steps: int = 400
    init: Init = "random"
    pixel: float = 100.0
    absolute: float = 0.0
    tolerance: float = 0.0
    cross: float = 0.05
    noises: int = 5
    lr: float = 0.4

    def run(self, problem: Problem, watch: Watch) -> Outcome:
        """Minimise J from the starting point."""
        space = ZPlus(problem.prior) & Noise(last=self.noises) & Sphere(("z+",))

        def bounded(at: Iterate) -> Tensor:
            return at.problem.mean_square(at.predicted, at.problem.fit).clamp_min(self.tolerance)

        objective = Objective(
            Term("fidelity", self.pixel, bounded, data=True),
            absolute(self.absolute),
            Term("cross", self.cross, lambda at: geodesic_cross(at.inputs["ws"])),
        )
        adam = Adam(self.lr, schedule=one_cycle_drop)
        return self.search(problem, watch, objective, (space, adam))
