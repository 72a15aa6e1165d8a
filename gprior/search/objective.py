"""What a method minimises: a sum of named terms with weights, each one value per row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from gprior.priors import Prior, discriminator_of, logits
from gprior.problem import Leaves, Problem, entries
from gprior.search.rows import Variables
from gprior.search.space import Step

__all__ = [
    "GRAY_LEVEL",
    "Iterate",
    "Objective",
    "Term",
    "absolute",
    "fidelity",
    "perceptual",
    "profile_likelihood",
    "realism",
]

# 1 / 2 sigma^2 for a sigma of one gray level of 8 bits: the data weight where the noise level
# is unknown. Where it is known, the discrepancy principle ends the fit in time.
GRAY_LEVEL = 255**2 / 2
PERCEPTUAL = "perceptual"  # name of the terms that need the problem's perceptual distance
ABSOLUTE, REALISM = "absolute", "realism"
OPTIONAL = (PERCEPTUAL, ABSOLUTE, REALISM)  # names of the terms that are left out at weight 0


@dataclass(frozen=True, eq=False)
class Iterate:
    """What a term may look at.

    Attributes
    ----------
    problem : Problem
        R rows.
    image : Tensor
        G(inputs), (R, C, H, W).
    predicted : list of Tensor
        A of the image, (R, ...).
    variables, start : dict of Tensor
        What is searched, and where it started; empty where candidates are compared.
    inputs : dict
        The prior's inputs.
    step : Step or None
        The step of the search; None where an image is judged, not searched for.
    """

    problem: Problem
    image: Tensor
    predicted: Leaves
    variables: Variables = field(default_factory=dict)
    start: Variables = field(default_factory=dict)
    inputs: dict[str, Any] = field(default_factory=dict)
    step: Step | None = None


@dataclass(frozen=True)
class Term:
    """One term of an objective.

    Attributes
    ----------
    name : str
        For records; terms of one objective have different names.
    weight : float
        λ.
    value : callable
        `Iterate` -> its value for each row (R,), without the weight.
    data : bool
        Whether it compares the image with y. The data terms alone choose between candidates.
    """

    name: str
    weight: float
    value: Callable[[Iterate], Tensor]
    data: bool = False


def fidelity(weight: float) -> Term:
    """Return the mean of (y - A x)^2 over the fitted entries as a term."""

    def value(at: Iterate) -> Tensor:
        return at.problem.mean_square(at.predicted, at.problem.fit)

    return Term("fidelity", weight, value, data=True)


def absolute(weight: float) -> Term:
    """Return the mean of |y - A x| over the fitted entries as a term."""

    def value(at: Iterate) -> Tensor:
        return at.problem.mean_absolute(at.predicted, at.problem.fit)

    return Term(ABSOLUTE, weight, value, data=True)


def profile_likelihood(weight: float, factor: str) -> Term:
    """Return m/2 log(|y - A x|^2 / m + sigma^2) over the m fitted entries as a term.

    It is the negative log likelihood of Gaussian noise whose variance is the one that fits best,
    added to the known sigma^2, or to 0 where sigma is unknown.

    Parameters
    ----------
    weight : float
        Weight of the term for all rows.
    factor : str
        Name of an entry (R,) of the starting point that multiplies it; without this entry, 1.
    """

    def value(at: Iterate) -> Tensor:
        problem = at.problem
        m = entries(problem.fit)
        zero = [torch.zeros_like(leaf) for leaf in problem.y]
        least = 1e-12 * problem.mean_square(zero, problem.fit) + 1e-30
        residual = problem.mean_square(at.predicted, problem.fit)
        log = torch.log(residual + problem.noise_std.square() + least)
        return at.start.get(factor, 1) * m / 2 * log

    return Term("likelihood", weight, value, data=True)


def perceptual(weight: float) -> Term:
    """Return the perceptual distance between y and A x, in its unit, as a term.

    An `Objective` leaves it out where the problem has no perceptual distance.
    """

    def value(at: Iterate) -> Tensor:
        return at.problem.perceptual_distance(at.predicted[0])

    return Term(PERCEPTUAL, weight, value, data=True)


def realism(weight: float, prior: Prior) -> Term:
    """Return -log D(x) as a term: how real the image looks to the discriminator of the prior.

    D is the sigmoid of the logit of the discriminator, for the class of the image. The term
    compares nothing with y, so it does not choose between candidates of the start.

    Parameters
    ----------
    weight : float
        Weight of the term.
    prior : Prior
        The prior of the problem.

    Raises
    ------
    InputError
        If the weight is not 0 and the prior has no discriminator of `gprior train`.
    """
    if weight:
        discriminator_of(prior)

    def value(at: Iterate) -> Tensor:
        return F.softplus(-logits(at.problem.prior, at.image, at.start.get("c")))

    return Term(REALISM, weight, value)


class Objective:
    """J = sum over terms of weight times value, per row.

    Parameters
    ----------
    *terms : Term
        The terms. One named ``"perceptual"`` is left out where the problem has no perceptual
        distance. Those named ``"perceptual"``, ``"absolute"`` and ``"realism"`` are left out where
        their weight is 0.

    Examples
    --------
    >>> norm = Term("latent", 0.1, lambda at: at.variables["z"].square().mean(1))
    >>> [term.name for term in Objective(fidelity(GRAY_LEVEL), norm).terms]
    ['fidelity', 'latent']
    """

    def __init__(self, *terms: Term) -> None:
        self.terms = tuple(t for t in terms if t.weight or t.name not in OPTIONAL)

    def __call__(self, iterate: Iterate, data_alone: bool = False) -> dict[str, Tensor]:
        """Return every weighted term, each (R,); with ``data_alone`` those that look at y."""
        features = iterate.problem.perceptual is not None
        return {
            term.name: term.weight * term.value(iterate)
            for term in self.terms
            if (features or term.name != PERCEPTUAL) and (term.data or not data_alone)
        }


def total(terms: dict[str, Tensor]) -> Tensor:
    """Return the sum of the terms, (R,)."""
    return torch.stack(list(terms.values())).sum(0)
