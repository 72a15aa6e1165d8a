"""ILO: intermediate layer optimization.

Daras, Dean, Jalal and Dimakis 2021, "Intermediate layer optimization for inverse problems
using deep generative models", arXiv:2102.07364. The generator is cut before block k,
G = G_k ∘ F_k. Round k minimises, over the features u, the latents z+ of all layers and the noise
maps n ::

    J = λ_pix |y - A G_k(u, z+, n)|² + λ_vgg |φ(y) - φ(A G_k)|² + λ_geo Geo(z+)

    subject to |u - u_k|_1 ≤ r_u, |z+ - z_k|_1 ≤ r_z, |n - n_k|_1 ≤ r_n

The point (u_k, z_k, n_k) comes from the best image of all earlier rounds, and the round starts
there. Round 0 has no u. Each latent and each noise map keeps its norm. The step size of Adam rises
over the first 5 % and falls over the last 75 % of each round. Geo is the geodesic term of PULSE.

Differs from the authors' code
------------------------------
- The state between two blocks is (features, image so far). The authors' code drops the image, so
  each round starts from another picture than the one with which the earlier round ended. In
  gprior, if the number of steps is zero, every round starts from exactly G(z).
- The best iterate is the best of all rounds, and the next round starts from it. The authors' code
  keeps only the best iterate of the last round, and each round continues from the last iterate.
- The balls are on by default: a radius is a fraction of the median ℓ1 distance between two
  samples of the prior (``radius="auto"``). The paper's radii are absolute, for one generator:
  ``radius=(1000, 1000, 6000)``. ``radius=None`` switches the balls off, as in the authors' code.
  Round 0 has no balls.
- Geo compares the latents of different layers. The authors' code takes slices of the batch
  instead, and is NaN for one image.
- z+ goes through the mapping network of the generator. The authors replace this network by a
  random affine map and a leaky ReLU, which are fitted to W. Then z+ has no relation to the z of the
  prior.
- z+ starts with the same z for all layers, so that the candidates are samples of the prior.
- If a prior has no styles, z takes the place of z+. If it has no noise maps, n is left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, cast

from gprior.checks import InputError
from gprior.priors import HasBlocks, Prior
from gprior.problem import Problem
from gprior.search import (
    GRAY_LEVEL,
    Adam,
    AfterBlock,
    Init,
    L1Ball,
    Noise,
    Objective,
    Outcome,
    Space,
    Sphere,
    Term,
    Watch,
    Z,
    ZPlus,
    absolute,
    fidelity,
    perceptual,
)
from gprior.solvers.base import Solver
from gprior.solvers.terms import geodesic_cross, trapezoid

__all__ = ["ILO"]

AUTO = 0.25  # radius of the balls, as a fraction of the distance between two samples
PAIRS = 16  # pairs of samples from which this distance is measured


@dataclass(frozen=True)
class ILO(Solver):
    """Search z+ and the noise maps, then the inputs of later and later blocks (Daras et al. 2021).

    Parameters
    ----------
    steps : int or tuple of 4 int
        Number of steps of each round. The paper has 300, 200, 100 and 100 for compressed sensing.
        Round k starts before block k. If the generator has fewer blocks, the later rounds start
        before the last block.
    pixel : float
        Weight λ_pix ≥ 0 of the mean of (y - A x)² over the observed entries, for images in [0, 1].
    absolute : float
        Weight λ_abs ≥ 0 of the mean of |y - A x|.
    feature : float
        Weight λ_vgg ≥ 0 of the perceptual distance, in units of its median over prior samples. The
        authors' value is 0 for inpainting and compressed sensing. For super-resolution it equals
        their λ_pix, on images in [-1, 1].
    cross : float
        Weight λ_geo ≥ 0 of the squared angles between the latents of different layers.
    radius : "auto", float, tuple of 3 float, or None
        Radius of the balls around the features, z+ and each noise map in rounds 1 to 3. A number
        above 0 is a fraction of the median ℓ1 distance between two samples of the prior, and
        "auto" is the fraction 0.25. A tuple has one absolute radius for each round, for all three
        kinds of variables. None means no balls. The distance is measured once for a prior, on 32
        samples, which do not count as evaluations.
    lr : float
        Largest step size of Adam.
    init, perceptual, max_batch
        See `Solver`. The paper starts from one random latent.

    Raises
    ------
    InputError
        If ``radius`` is none of these.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"z", "state"})
    PAPER: ClassVar[Mapping[str, Any]] = {"pixel": 4.0, "radius": (1000.0, 1000.0, 6000.0)}
    steps: int | tuple[int, ...] = (300, 200, 100, 100)
    init: Init = "random"
    pixel: float = GRAY_LEVEL
    absolute: float = 0.0
    feature: float = 0.0
    cross: float = 0.01
    radius: str | float | tuple[float, ...] | None = "auto"
    lr: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        radii = self.radius if isinstance(self.radius, (tuple, list)) else (self.radius,) * 3
        positive = all(isinstance(r, (int, float)) and r > 0 for r in radii)
        if self.radius not in ("auto", None) and not (positive and len(radii) == 3):
            raise InputError(
                "radius must be 'auto', None, a positive fraction, or 3 positive numbers for "
                f"rounds 1 to 3, got {self.radius!r}"
            )

    def cost(self, classes: int) -> float:
        """Return the evaluations; the start of each of rounds 1 to 3 takes a forward pass."""
        return super().cost(classes) + sum(n > 0 for n in self.stages[1:]) / 3

    def run(self, problem: Problem, watch: Watch) -> Outcome:
        """Run the rounds; each starts from the best image so far."""
        prior = problem.prior
        terms = [fidelity(self.pixel), absolute(self.absolute), perceptual(self.feature)]
        if "w" in prior.inputs and self.cross:
            terms.append(Term("cross", self.cross, lambda at: geodesic_cross(at.variables["z+"])))
        adam = Adam(self.lr, schedule=trapezoid(0.75))
        rounds = [(self.space(prior, k), adam) for k in range(len(self.stages))]
        return self.search(problem, watch, Objective(*terms), *rounds)

    def space(self, prior: Prior, k: int) -> Space:
        """Return the space of round k.

        It has z+ and the noise maps on spheres and, from round 1 on, the features in balls.
        """
        block = min(k, cast(HasBlocks, prior).num_blocks - 1)
        space: Space = ZPlus(prior) if "w" in prior.inputs else Z()
        if "noise" in prior.inputs:  # block b has the maps 2 b - 1 and 2 b
            space = space & Noise(first=max(2 * block - 1, 0), last=5 + 2 * k)
        space = space & Sphere(("z+", "z", "noise"))
        if k == 0:
            return space
        cut = AfterBlock(block)
        space = space & cut
        return space if self.radius is None else space & self.balls(prior, cut, k)

    def balls(self, prior: Prior, cut: AfterBlock, k: int) -> L1Ball:
        """Return the balls of round k around z+, around each noise map, and around the features."""
        names = ("z+", "z", "noise", "state")
        if isinstance(self.radius, (tuple, list)):
            return L1Ball(names, (float(self.radius[k - 1]),) * len(names))
        fraction = AUTO if isinstance(self.radius, str) else float(self.radius or 0)
        normal = 2 / math.sqrt(math.pi)  # E|a - b| of two standard normal numbers
        sizes = (normal, normal, normal, typical(prior, cut))
        return L1Ball(names, tuple(fraction * size for size in sizes), per_entry=True)


def typical(prior: Prior, cut: AfterBlock) -> float:
    """Return the median ℓ1 distance per entry between the states of two samples.

    Parameters
    ----------
    prior : Prior
        16 pairs of its samples are compared.
    cut : AfterBlock
        The place in the generator where the state is taken.
    """
    core = prior.core

    def compute() -> float:
        label = [i // 2 % core.c_dim for i in range(2 * PAIRS)] if core.c_dim else None
        z = core.draw([(0, "ilo-radius", i) for i in range(2 * PAIRS)])
        c = core.classes(label, 2 * PAIRS)
        code = {"z": z} if c is None else {"z": z, "c": c}
        if "w" in core.inputs:
            code["w"] = core.mapping(z, c)
        features = cut.enter(core, code)[f"state.{cut.k}.0"]
        return float((features[::2] - features[1::2]).abs().flatten(1).mean(1).median())

    return core.statistic(f"distance_of_states_{cut.k}", compute)
