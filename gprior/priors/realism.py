"""How real images look to the discriminator of a prior."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from gprior.checks import InputError
from gprior.priors.discriminator import Discriminator, minibatch_std
from gprior.priors.prior import Critic, Prior

__all__ = ["as_criticised", "discriminator_of", "logits"]

SAMPLES = 64  # of the prior, in groups of 4, over which the standard deviation is averaged


def as_criticised(prior: Prior, critic: Critic, x: Tensor) -> Tensor:
    """Return images (B, C, H, W) of a prior as its discriminator takes them, in [-1, 1]."""
    side, x = critic.config["img_resolution"], prior.restore(x)
    return 2 * (x if x.shape[-1] == side else F.interpolate(x, size=(side, side), mode="area")) - 1


def discriminator_of(prior: Prior) -> Discriminator:
    """Return the discriminator of a prior that `gprior train` trained.

    Raises
    ------
    InputError
        If the prior has no such discriminator.
    """
    critic = prior.discriminator
    if not isinstance(critic, Discriminator):
        found = "no discriminator" if critic is None else f"a {type(critic).__name__}"
        raise InputError(
            "realism needs the discriminator that `gprior train` stores with a prior, and this "
            f"prior has {found}; leave realism=0, or choose another prior"
        )
    return critic


def logits(prior: Prior, x: Tensor, c: Tensor | None = None) -> Tensor:
    """Return the logits of the prior's discriminator, higher for images that look real, (B,).

    In training, the standard deviation over groups of 4 images is an input of the discriminator.
    Here this input is its mean over samples of the prior, as batch normalisation uses means after
    training. So the logit of an image does not depend on other images.

    Parameters
    ----------
    prior : Prior
        The prior.
    x : Tensor
        Images (B, C, H, W) of the prior, nominally in [0, 1].
    c : Tensor, optional
        Class vectors (B, c_dim), if the prior has classes.

    Raises
    ------
    InputError
        As `discriminator_of`.
    """
    critic, core = discriminator_of(prior), prior.core

    def deviation() -> float:
        raw = as_criticised(core, critic, core.sample(SAMPLES))
        last = torch.cat([critic.features(part)[-1] for part in raw.split(16)])  # type: ignore[no-untyped-call]
        return float(minibatch_std(last).mean())

    typical = core.statistic("minibatch_std", deviation)
    features = critic.features(as_criticised(prior, critic, x))
    return critic.judge(features[-1], c, typical)
