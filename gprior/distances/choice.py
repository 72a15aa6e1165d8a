"""Which perceptual distance a solver uses, and the unit in which it is measured."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from gprior.checks import InputError, InputTypeError
from gprior.distances.features import FeatureDistance, median_distance
from gprior.distances.lpips import BACKBONES, Perceptual, locate, on_this_machine
from gprior.priors import Prior, as_criticised

__all__ = ["NAMES", "check_perceptual", "choose", "discriminator_unit", "unit_of"]

NAMES = (*BACKBONES, "discriminator")  # the names that ``perceptual=`` of a solver accepts
UNIT = "perceptual_unit"  # name of the statistic, in files too
PAIRS = 200  # of prior samples, whose median distance is the unit of a perceptual term


def check_perceptual(value: Any, solver: str, has_term: bool) -> None:
    """Refuse a value of a solver's ``perceptual`` that is of no known kind or has no effect.

    Parameters
    ----------
    value : object
        What the user gave.
    solver : str
        Name of the solver, for the message.
    has_term : bool
        Whether the solver has a perceptual term.

    Raises
    ------
    ValueError
        If the solver has no such term, or a name is unknown.
    TypeError
        If the value is of another type.
    """
    if not has_term and value is not None and value is not False:
        raise InputError(
            f"{solver} has no perceptual term, so perceptual={value!r} would be ignored; "
            "leave it out, or choose another solver"
        )
    if isinstance(value, str) and value not in NAMES:
        raise InputError(f"perceptual must be one of the names {NAMES}, got {value!r}")
    if value is not None and not isinstance(value, (bool, str)) and not callable(value):
        raise InputTypeError(
            f"perceptual must be None, True, False, one of the names {NAMES}, a gprior.Perceptual "
            f"or a callable images -> list of feature maps, got {value!r}"
        )


def choose(
    wanted: bool | str | Callable[..., Any] | FeatureDistance | None, prior: Prior
) -> tuple[FeatureDistance, float] | None:
    """Return the distance that a solver uses, and its unit on the prior's images.

    Parameters
    ----------
    wanted : bool, str, callable or None
        None and True choose LPIPS-VGG if its weights are in torch hub's cache, and otherwise
        the features of the prior's own discriminator. A name in `NAMES`, a `FeatureDistance`
        or a callable images -> list of feature maps is used as it is.
    prior : Prior
        The median distance over 200 pairs of its samples is the unit.

    Returns
    -------
    (FeatureDistance, float) or None
        None if ``wanted`` is None and there are no features.

    Raises
    ------
    FileNotFoundError
        If the weights of a named backbone are not on the machine.
    ValueError
        If there are no features, or their distance has no unit on this prior.
    """
    if isinstance(wanted, str) and wanted in BACKBONES:
        wanted = on_this_machine(wanted)
    elif (wanted is None or wanted is True) and locate("vgg").is_file():
        wanted = on_this_machine("vgg")
    elif callable(wanted) and not isinstance(wanted, FeatureDistance):
        wanted = FeatureDistance(wanted)
    if isinstance(wanted, FeatureDistance):
        return wanted, unit_of(wanted, prior)
    chosen = _of_discriminator(prior)
    if chosen is None and wanted is not None:
        raise InputError(
            f"perceptual={wanted!r} needs features: this prior has no discriminator; pass a "
            "callable images -> list of feature maps as perceptual=, or place the weights of "
            f"LPIPS-VGG at {locate('vgg')}"
        )
    return chosen


def unit_of(distance: FeatureDistance, prior: Prior) -> float:
    """Return the median distance between two samples of a prior.

    It is computed once for the weights of the prior. That of published LPIPS is stored with
    the prior by `gprior.checkpoints.save_prior`; that of other features lasts as long as
    ``distance`` exists.

    Parameters
    ----------
    distance : FeatureDistance
        The distance.
    prior : Prior
        200 pairs of its samples are compared.

    Raises
    ------
    ValueError
        If the median is 0 or not finite.
    """

    def compute() -> float:
        unit = median_distance(distance, prior.sample(2 * PAIRS))
        if not 0 < unit < math.inf:
            raise InputError(
                f"the features {distance.name!r} give samples of this prior a median distance of "
                f"{unit}, which is no unit; choose other features as perceptual="
            )
        return unit

    if isinstance(distance, Perceptual) and distance.published:
        return prior.statistic(f"{UNIT}_{distance.name}", compute)
    units: WeakKeyDictionary[FeatureDistance, float]
    units = prior.statistic("perceptual_units", WeakKeyDictionary)
    if distance not in units:
        units[distance] = compute()
    return units[distance]


def discriminator_unit(prior: Prior) -> float:
    """Return the median distance between two samples on the prior's discriminator.

    It is 0 or not finite if the discriminator cannot tell samples apart.
    """
    core = prior.core

    def compute() -> float:
        return median_distance(_discriminator_maps(core), core.sample(2 * PAIRS))

    return core.statistic(UNIT, compute)


def _of_discriminator(prior: Prior) -> tuple[FeatureDistance, float] | None:
    """Return the distance on the features of the prior's discriminator, and its unit."""
    if prior.discriminator is None:
        return None
    unit = discriminator_unit(prior)
    if not 0 < unit < math.inf:
        return None
    return FeatureDistance(_discriminator_maps(prior), name="discriminator"), unit


def _discriminator_maps(prior: Prior) -> Callable[[Tensor], list[Tensor]]:
    """Return the function images -> features of the prior's discriminator."""
    critic = prior.discriminator
    if critic is None:
        raise InputError("this prior has no discriminator, and so no features of its own")

    def features(x: Tensor) -> list[Tensor]:
        """Bring a smaller measurement to the size of the features, by area (as BRGM does)."""
        if tuple(x.shape[2:]) != prior.image_shape[1:]:
            x = F.interpolate(x, size=prior.image_shape[1:], mode="area")
        return critic.features(as_criticised(prior, critic, x))

    return features
