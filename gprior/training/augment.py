"""Adaptive discriminator augmentation, for few training images (Karras et al. 2020).

Karras, Aittala, Hellsten, Laine, Lehtinen and Aila, "Training Generative Adversarial Networks with
Limited Data", arXiv:2006.06676. The discriminator sees every image, real or generated, after
random transformations, each with the probability p. The generator does not learn them as long as
p is well below 1, because then the images without a transformation are the most frequent ones.
p is adapted to how much the discriminator overfits (`Adaptation`).

There are three groups of transformations, with the strengths of the paper's appendix B:

- ``blit``: mirror left and right, turn by multiples of 90 degrees, shift by whole pixels;
- ``geometry``: scale, turn, stretch along one direction, shift by fractions;
- ``intensity``: brightness, contrast, and in colour saturation.

What the paper has beyond these (hue, filters, noise, holes) does not gain in its experiments, or
makes no sense for medical images, whose values have a meaning.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

__all__ = ["GROUPS", "Adaptation", "augment", "warp"]

GROUPS = ("blit", "geometry", "intensity")
LN2 = math.log(2)


def augment(
    images: Tensor, p: float, rng: torch.Generator, groups: Sequence[str] = GROUPS
) -> Tensor:
    """Transform each image at random.

    Parameters
    ----------
    images : Tensor
        (B, C, H, H) in [-1, 1], C 1 or 3. Gradients flow through.
    p : float
        Probability of each transformation, in [0, 1]. 0 returns the images as they are.
    rng : torch.Generator
        Source of all draws, on the CPU.
    groups : sequence of str
        Names in `GROUPS`.

    Returns
    -------
    Tensor
        (B, C, H, H). An image does not depend on the others.
    """
    if p <= 0:
        return images
    draw = _Draw(len(images), p, rng)
    if "blit" in groups:
        images = _blit(images, draw)
    if "geometry" in groups:
        images = _geometry(images, draw)
    if "intensity" in groups:
        images = _intensity(images, draw)
    return images


class _Draw:
    """Random numbers, one for each image."""

    def __init__(self, count: int, p: float, rng: torch.Generator) -> None:
        self.count, self.p, self.rng = count, p, rng

    def uniform(self) -> Tensor:
        return torch.rand(self.count, generator=self.rng, dtype=torch.float32, device="cpu")

    def normal(self) -> Tensor:
        return torch.randn(self.count, generator=self.rng, dtype=torch.float32, device="cpu")

    def chosen(self, p: float | None = None) -> Tensor:
        """Return which images are transformed."""
        return self.uniform() < (self.p if p is None else p)


def _blit(images: Tensor, draw: _Draw) -> Tensor:
    """Move pixels without resampling."""
    side = images.shape[-1]
    mirrored = draw.chosen() & (draw.uniform() < 0.5)
    turns = torch.where(draw.chosen(), (draw.uniform() * 4).long(), 0)
    shifts = [
        torch.where(moved, (draw.uniform() * 2 - 1) * side / 8, 0).round().long()
        for moved in [draw.chosen()] * 2
    ]
    turned = []
    for i, image in enumerate(images):
        x = image.flip(-1) if mirrored[i] else image
        x = x.rot90(int(turns[i]), (-2, -1))
        turned.append(_shifted(_shifted(x, int(shifts[0][i]), -2), int(shifts[1][i]), -1))
    return torch.stack(turned)


def _shifted(x: Tensor, by: int, axis: int) -> Tensor:
    """Return an image moved by whole pixels, and continued by reflection at its edge."""
    if by == 0:
        return x
    n = x.shape[axis]
    source = torch.arange(n, device=x.device) - by
    source = torch.where(source < 0, -source, source)
    return x.index_select(axis, torch.where(source >= n, 2 * (n - 1) - source, source))


def _geometry(images: Tensor, draw: _Draw) -> Tensor:
    """Apply one random affine map to each image."""
    each = 1 - math.sqrt(1 - draw.p)  # of two rotations, so that one takes place with probability p
    zero = torch.zeros(draw.count)
    scale = torch.where(draw.chosen(), torch.exp(0.2 * LN2 * draw.normal()), 1.0)
    before = torch.where(draw.chosen(each), (draw.uniform() * 2 - 1) * math.pi, zero)
    stretch = torch.where(draw.chosen(), 0.2 * LN2 * draw.normal(), zero)
    after = torch.where(draw.chosen(each), (draw.uniform() * 2 - 1) * math.pi, zero)
    moved = draw.chosen()
    shift = torch.stack([torch.where(moved, 0.125 * draw.normal(), 0.0) for _ in range(2)], 1)
    along = torch.diag_embed(torch.stack([stretch.exp(), (-stretch).exp()], 1))
    matrix = scale[:, None, None] * (_rotation(after) @ along @ _rotation(before))
    changed = (matrix - torch.eye(2)).abs().amax((1, 2)) + shift.abs().amax(1) > 0
    if not bool(changed.any()):
        return images
    rows = changed.nonzero()[:, 0]
    warped = warp(images[rows.to(images.device)], matrix[rows], shift[rows])
    return images.index_copy(0, rows.to(images.device), warped)


def _rotation(angle: Tensor) -> Tensor:
    c, s = angle.cos(), angle.sin()
    return torch.stack([torch.stack([c, -s], 1), torch.stack([s, c], 1)], 1)


def warp(images: Tensor, matrix: Tensor, shift: Tensor) -> Tensor:
    """Map each image affinely about its centre, continued by reflection at its edge.

    The image is resampled at twice its resolution, so that turning and shrinking blur little.

    Parameters
    ----------
    images : Tensor
        (B, C, H, H).
    matrix : Tensor
        (B, 2, 2): where the point at (x, y) from the centre goes, to the right and down.
    shift : Tensor
        (B, 2): by how much it is then moved to the right and down, in image widths.
    """
    size = [2 * n for n in images.shape[-2:]]
    fine = F.interpolate(images, size=size, mode="bicubic", align_corners=False)
    # grid_sample asks for each pixel where it comes from, in halves of the width.
    back = torch.linalg.inv(matrix.double())
    offset = -(back @ (2 * shift.double())[:, :, None])
    theta = torch.cat([back, offset], 2).to(images)
    grid = F.affine_grid(theta, [len(images), 1, *size], align_corners=False)
    moved = F.grid_sample(fine, grid, "bilinear", "reflection", align_corners=False)
    return F.avg_pool2d(moved, 2)


def _intensity(images: Tensor, draw: _Draw) -> Tensor:
    """Change brightness and contrast, and the saturation of colours."""

    def each(values: Tensor) -> Tensor:
        return values.to(images)[:, None, None, None]

    images = images + each(torch.where(draw.chosen(), 0.2 * draw.normal(), 0.0))
    images = images * each(torch.where(draw.chosen(), torch.exp(0.5 * LN2 * draw.normal()), 1.0))
    if images.shape[1] == 3:
        gray = images.mean(1, keepdim=True)
        factor = each(torch.where(draw.chosen(), torch.exp(LN2 * draw.normal()), 1.0))
        images = gray + factor * (images - gray)
    return images


@dataclass
class Adaptation:
    """The probability p, adapted to how much the discriminator overfits (the paper's section 3.1).

    r_t = E[sign D(real)] is 0 without overfitting, and 1 where the discriminator knows every real
    image. Every `every` steps p rises if r_t is above `target`, and falls if it is below.

    Attributes
    ----------
    target : float
        The r_t that is kept, in [0, 1].
    images : int
        Number of images in which p can rise from 0 to 1.
    every : int
        Number of steps between two changes.
    p : float
        The probability now.
    signs, count : float
        Sum and number of the signs since the last change.
    """

    target: float = 0.6
    images: int = 100_000
    every: int = 4
    p: float = 0.0
    signs: float = 0.0
    count: float = 0.0

    def observe(self, logits: Tensor, step: int) -> None:
        """Take the logits of real images at a step, and adapt p when it is time."""
        self.signs += float(logits.detach().sign().sum())
        self.count += len(logits)
        if (step + 1) % self.every == 0:
            direction = math.copysign(1, self.signs / self.count - self.target)
            self.p = min(max(self.p + direction * self.count / self.images, 0.0), 1.0)
            self.signs = self.count = 0.0
