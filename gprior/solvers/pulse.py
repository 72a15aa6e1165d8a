"""PULSE: search for a latent on its sphere whose image, downsampled, is the measurement.

Menon, Damian, Hu, Ravi and Rudin 2020, "PULSE: Self-supervised photo upsampling via latent
space exploration of generative models", arXiv:2003.03808. Over z+ = (z_1, ..., z_L), each
on the sphere it starts on, and the first five noise maps::

    J = λ_pix max(ε, |y - A G|²) + λ_geo Geo(w_1, ..., w_L),   w_i = M(z_i)

with Geo the mean squared angle between the styles of two layers, by Adam with a step that
rises and falls once. A is any operator here, theirs a downsampling.

Differs from the authors' code
------------------------------
- ε = 2e-3 is their bound below which the data do not count any more, that is 27 dB. The
  default is 0; where a noise level is known the discrepancy principle ends the fit.
- Their bound acts on the sum over a batch, so that no batch of two can pass it, and what
  they return is the last image, not the best.
- z_i goes through the generator's own mapping network instead of a random affine map fitted
  to W, and z+ starts with one z repeated for all layers.
- The noise maps that are not searched are the generator's constants; theirs are redrawn, and
  the last is zero.
- The geodesic weight is relative to a data weight of 100, as theirs: Adam's path depends on
  their ratio alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from gprior.problem import Problem
from gprior.search import Adam, Init, Iterate, Noise, Objective, Outcome, Sphere, Term, Watch, ZPlus
from gprior.solvers.base import Solver
from gprior.solvers.terms import geodesic_cross, one_cycle_drop

__all__ = ["PULSE"]


@dataclass(frozen=True)
class PULSE(Solver):
    """Search z+ on its sphere, and noise (Menon et al. 2020).

    Parameters
    ----------
    pixel : float
        λ_pix, on the mean of (y - A x)² over observed entries.
    tolerance : float
        ε, below which the data do not count; the paper's is 2e-3.
    cross : float
        λ_geo, on the squared angles between styles of different layers.
    noises : int
        Noise maps that are searched, from the coarsest on.
    lr : float
        Adam's largest step.
    steps, init, perceptual, max_batch
        See `Solver`; the paper has 100 steps. There is no perceptual term.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"z", "w", "noise"})
    has_perceptual: ClassVar[bool] = False
    steps: int = 400
    init: Init = "random"
    pixel: float = 100.0
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
            Term("cross", self.cross, lambda at: geodesic_cross(at.inputs["ws"])),
        )
        adam = Adam(self.lr, schedule=one_cycle_drop)
        return self.search(problem, watch, objective, (space, adam))
