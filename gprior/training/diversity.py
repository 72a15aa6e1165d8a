"""A term of the generator's loss against mode collapse.

A small discriminator does not notice when all samples have the same fine structure, such as the
folds of the cortex. The term compares how much samples vary with how much images vary, which a
discriminator that judges one image at a time cannot do.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

__all__ = ["lacking_spread"]


def lacking_spread(fake: Sequence[Tensor], real: Sequence[Tensor]) -> Tensor:
    """Return how much less the features of samples vary than the features of images.

    Let s be the standard deviation over the batch, at each position of each feature map. The value
    of one level is E relu(s_real - s_fake) / E s_real, where E is the mean over positions and maps.
    It is 0 where samples vary at least as much as images everywhere, and 1 where all samples are
    equal. More variation at one position does not make up for less at another.

    Parameters
    ----------
    fake, real : sequence of Tensor
        Feature maps (B, C, H, W) of a batch of samples and of a batch of images, both of the same
        class: one tensor per level of the discriminator.

    Returns
    -------
    Tensor
        The mean over levels, in [0, 1].
    """
    levels = []
    for fake_maps, real_maps in zip(fake, real, strict=True):
        s_fake, s_real = ((maps.float().var(0) + 1e-6).sqrt() for maps in (fake_maps, real_maps))
        levels.append(F.relu(s_real - s_fake).mean() / s_real.mean())
    return torch.stack(levels).mean()
