"""Fine-tuning: the weights of the generator move to fit one image, near those of the prior.

Huh, Zhang, Zhu, Paris and Hertzmann 2020, "Transforming and projecting images into
class-conditional generative networks", arXiv:2005.01703, section 3.5, equation 6. It starts from
the latents u of a solution, with the weights θ_0 of the prior, and minimises over u and θ ::

    J = λ_abs |y - A G_θ(u)|_1 + λ_vgg |φ(y) - φ(A G_θ(u))|² + λ |θ - θ_0|²

The other variant is pivotal tuning (PTI: Roich, Mokady, Bermano and Cohen-Or 2021, "Pivotal tuning
for latent-based editing of real images", arXiv:2106.05744). There u is fixed, there is no penalty,
and the data term is λ_pix |y - A G_θ(u)|².

Each image has weights of its own. What was computed over a data set (the statistics of batch
normalisation, the mean of w) stays as it is.

Differs from the authors' code
------------------------------
- The paper compares images, A = 1, and stops when the loss is below 0.1. PTI stops when LPIPS is
  below 0.06. Here A is any operator, and the stopping rule of `gprior.solve` decides: the noise
  level, or held-out entries of y. Without them, all steps are taken.
- The authors of pix2latent have not published their fine-tuning. The paper writes the norm
  λ |θ - θ_0|, and calls it an l2-regularization; here it is squared, so that it is smooth at θ_0.
  It is a mean over the weights, as in a function that the authors' code has and does not call: so
  λ means the same for small and large generators. With a sum and λ = 1000, a million weights
  hardly move: see the table above.
- Weights are those that the prior computes with. In StyleGAN2 they include the factor of the
  equalised learning rate, with which the authors of PTI train.
- Only weights on which the image depends move: those of the mapping network do not if the latents
  are styles w. They count in the mean only if they move.
- Latents move with the step size of the weights, so they stay near the solution. The box |z_i| ≤ 2
  of the paper and the sets of other methods are not enforced again.
- The class and the image transform of `gprior.solvers.basin_cma` stay as they are. The authors'
  equation includes the transform.
- PTI's regularization at other latents, which is switched off in the authors' code, is left out.
- The authors' losses are for images in [-1, 1], with 10 LPIPS (pix2latent) and 1 LPIPS (PTI). The
  weights here are the same in the units of gprior.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from gprior.checks import InputError, InputTypeError
from gprior.priors import Prior, Tunable
from gprior.problem import Problem
from gprior.search import (
    LATENTS,
    Adam,
    Init,
    Objective,
    Outcome,
    Space,
    Step,
    Term,
    Variables,
    Watch,
    absolute,
    fidelity,
    inputs_of,
    minimise,
    perceptual,
)
from gprior.solvers.base import Solver
from gprior.solvers.transforms import Transformed

__all__ = ["TUNINGS", "Tuning", "find_tuning"]

WEIGHTS = "weights"  # the first part of the names of weights among the variables


@dataclass(frozen=True)
class Tuning(Solver):
    """Fine-tune the weights of the generator to each image (Huh et al. 2020, equation 6).

    Parameters
    ----------
    absolute : float
        Weight λ_abs ≥ 0 of the mean of |y - A x|, for images in [0, 1].
    pixel : float
        Weight λ_pix ≥ 0 of the mean of (y - A x)².
    feature : float
        Weight λ_vgg ≥ 0 of the perceptual distance, in units of its median over prior samples.
    penalty : float
        Weight λ ≥ 0 of the mean of (θ - θ_0)² over the weights.
    lr : float
        Step size of Adam for the weights.
    lr_latent : float
        Step size of Adam for the latents. With 0 they are fixed.
    steps, init, perceptual, max_batch
        See `Solver`. The start is always the solution, so ``init`` has no other value. Images do
        not share passes, so a larger ``max_batch`` needs more memory and saves no time.

    Raises
    ------
    InputError
        If a constant is out of range.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"z"})
    steps: int = 300
    init: Init = LATENTS
    max_batch: int = 1
    absolute: float = 2.0
    pixel: float = 0.0
    feature: float = 7.0
    penalty: float = 1000.0
    lr: float = 1e-4
    lr_latent: float = 1e-4

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.init != LATENTS:
            raise InputError(f"init of a tuning must be {LATENTS!r}, got {self.init!r}")

    def run(self, problem: Problem, watch: Watch) -> Outcome:
        """Minimise J from the code in ``problem.latents``."""
        start = problem.latents
        if start is None:
            raise InputError("tuning starts from the latents of a result: call gprior.tune")
        prior = Tunable(problem.prior)
        weights = prior.used({k: v for k, v in inputs_of(start).items() if k != "transform"})
        searched = latents_in(start) if self.lr_latent else []
        rates = {name.split(".")[0]: self.lr_latent for name in searched}
        outcome = minimise(
            replace(problem, prior=Transformed(prior) if "transform" in start else prior),
            WeightsAndLatents(weights, searched),
            self.objective(),
            start,
            self.total,
            Adam({**rates, WEIGHTS: self.lr}),
            watch,
        )
        change = mean_square(outcome.code).sqrt()
        diagnostics = {**outcome.diagnostics, "weight change": change}
        return replace(outcome, evaluations=outcome.evaluations + 1, diagnostics=diagnostics)

    def objective(self) -> Objective:
        """Return the objective J."""
        terms = [absolute(self.absolute)] if self.absolute else []
        terms += [fidelity(self.pixel)] if self.pixel else []
        return Objective(
            *terms,
            perceptual(self.feature),
            Term(WEIGHTS, self.penalty, lambda at: mean_square(at.variables)),
        )

    def render(self, prior: Prior, code: Variables) -> Tensor:
        """Return the images of a code, which may have a transform."""
        return super().render(Transformed(prior) if "transform" in code else prior, code)


TUNINGS = {
    "pix2latent": Tuning(),
    "pti": Tuning(
        steps=350, absolute=0.0, pixel=4.0, feature=0.7, penalty=0.0, lr=3e-4, lr_latent=0.0
    ),
}


def find_tuning(method: str | Tuning, constants: Mapping[str, Any] | None = None) -> Tuning:
    """Return a variant of tuning by its name or instance, with some constants changed.

    Parameters
    ----------
    method : str or Tuning
        ``"pix2latent"``, ``"pti"``, or an instance.
    constants : mapping, optional
        Fields of `Tuning`.

    Raises
    ------
    InputError
        If the name is unknown, or a constant is out of range.
    InputTypeError
        If a constant is not a field.

    Examples
    --------
    >>> find_tuning("pti", {"steps": 100}).lr
    0.0003
    """
    if isinstance(method, str) and method in TUNINGS:
        method = TUNINGS[method]
    if not isinstance(method, Tuning):
        raise InputError(f"tuning must be one of {list(TUNINGS)} or a Tuning, got {method!r}")
    valid = [f.name for f in fields(Tuning) if f.name != "init"]
    if wrong := sorted(set(constants or {}) - set(valid)):
        raise InputTypeError(f"tuning has no constant {wrong}; its constants are {sorted(valid)}")
    return replace(method, **(constants or {}))


class WeightsAndLatents(Space):
    """Differences of weights, and the latents of a solution; the rest of its code stays.

    Variables are ``weights.<name>`` (R, ...), which start at 0, and entries of the code.

    Parameters
    ----------
    weights : dict of Tensor
        The weights θ_0 that move.
    latents : list of str
        The entries of the code that move.
    """

    def __init__(self, weights: dict[str, Tensor], latents: list[str]) -> None:
        self.weights, self.latents = weights, latents

    def initial(self, prior: Prior, start: Variables, step: Step) -> Variables:
        rows = len(next(iter(start.values())))
        zeros = {
            f"{WEIGHTS}.{name}": torch.zeros_like(value)[None].repeat(rows, *[1] * value.ndim)
            for name, value in self.weights.items()
        }
        return {**{name: start[name].clone() for name in self.latents}, **zeros}

    def finish(self, variables: Variables, start: Variables, step: Step) -> Variables:
        code = {name: v for name, v in start.items() if not name.startswith("first.")}
        return {**code, **variables}


def latents_in(code: Variables) -> list[str]:
    """Return the entries of a code that reach the generator and can move."""
    style = {"w"} if "w" in code else {"z", "embedding"}
    others = {"content", "phase"}
    many = re.compile(r"noise\.\d+|state\.\d+\.0")  # of a state, the features
    return [name for name in code if name in style | others or many.fullmatch(name)]


def mean_square(variables: Variables) -> Tensor:
    """Return the mean square of the differences of weights among variables, (R,)."""
    weights = [v.reshape(len(v), -1) for k, v in variables.items() if k.startswith(f"{WEIGHTS}.")]
    squares = torch.stack([w.square().sum(1) for w in weights]).sum(0)
    return squares / sum(w.shape[1] for w in weights)
