"""Trials that search latents for a given transform, in the frame of A or of the generator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gprior.priors import Prior
from gprior.problem import Forward, Problem
from gprior.search import (
    Iterate,
    Objective,
    Optimizer,
    Outcome,
    Space,
    Step,
    Trial,
    Variables,
    Watch,
    minimise,
    total,
)
from gprior.solvers.transforms import Transformed, covered, inverse, resample, transform

__all__ = ["in_generator_frame", "in_measurement_frame"]


def in_measurement_frame(
    space: Space, objective: Objective, steps: int, optimizer: Optimizer
) -> Trial:
    """Return a trial whose gradients act through A(T(G(u))), for any A.

    Parameters
    ----------
    space : Space
        The space of u.
    objective : Objective
        The objective to minimise.
    steps : int
        Number of steps.
    optimizer : Optimizer
        The optimizer that takes the steps.

    Returns
    -------
    callable
        A trial for `gprior.search.evolve`. The transform is ``transform`` in the starting point.
    """

    def trial(problem: Problem, start: Variables, watch: Watch) -> Outcome:
        transformed = space & FixedTransform(problem.prior.image_shape[1:])
        return minimise(problem, transformed, objective, start, steps, optimizer, watch)

    return trial


def in_generator_frame(
    space: Space, objective: Objective, steps: int, optimizer: Optimizer
) -> Trial:
    """Return a trial whose gradients act on T⁻¹ y, the measurement in the frame of the generator.

    A must return the image itself, with some pixels possibly replaced by 0 (see `pointwise`). The
    result is judged on the original measurements.

    Parameters
    ----------
    space, objective, steps, optimizer
        As for `in_measurement_frame`.

    Returns
    -------
    callable
        A trial for `gprior.search.evolve`. The transform is ``transform`` in the starting point.
    """

    def trial(problem: Problem, start: Variables, watch: Watch) -> Outcome:
        phi = start["transform"]
        target = _target(problem, phi)
        outcome = minimise(target, space, objective, start, steps, optimizer, watch)
        return _scored(problem, objective, outcome, phi)

    return trial


def _target(problem: Problem, phi: Tensor) -> Problem:
    """Return the problem whose measurement is T⁻¹ y; pixels without a measurement have weight 0."""
    back, fit = inverse(phi), problem.fit[0]
    known = (fit > 0).to(fit)
    share = resample(known, back)
    y = transform(problem.y[0] * known, back) / share.clamp_min(1e-3)
    weight = resample(fit, back) * covered(back, y.shape[2:])
    pixels = weight.mean(1, keepdim=True) + 1e-6
    base = problem.prior.base if isinstance(problem.prior, Transformed) else problem.prior
    target = replace(
        problem,
        prior=base,
        forward=Forward(lambda x: x, base.image_shape, base.like, 1),
        y=[y * (share > 1e-3)],
        fit=[weight],
        held=[torch.zeros_like(weight)],
        weight=pixels,
        maps=None,
    )
    return target.judged_by_loss().prepared()


@torch.no_grad()
def _scored(problem: Problem, objective: Objective, outcome: Outcome, phi: Tensor) -> Outcome:
    """Return an outcome with its scores on the original measurements."""
    image = transform(outcome.image, phi)
    predicted = problem.measure(image)
    terms = objective(Iterate(problem, image, predicted), data_alone=True)
    loss = total(terms)
    return replace(
        outcome,
        code={**outcome.code, "transform": phi},
        image=image,
        terms=terms,
        loss=loss,
        criterion=problem.criterion(predicted, loss),
        diagnostics=uncovered(phi, image.shape[2:]),
    )


@dataclass(frozen=True)
class FixedTransform(Space):
    """A space without variables: the transform of the starting point goes into the code.

    Attributes
    ----------
    size : (int, int)
        Height and width of the images in pixels.
    """

    size: tuple[int, int]

    def initial(self, prior: Prior, start: Variables, step: Step) -> Variables:
        return {}

    def finish(self, variables: Variables, start: Variables, step: Step) -> Variables:
        return {**variables, "transform": start["transform"]}

    def diagnose(self, variables: Variables, code: Variables, step: Step) -> Variables:
        return uncovered(code["transform"], self.size)


def uncovered(phi: Tensor, size: Sequence[int]) -> Variables:
    """Return the fraction of pixels that no pixel of the generated image reaches."""
    return {"uncovered": 1 - covered(phi, size).mean((1, 2, 3))}
