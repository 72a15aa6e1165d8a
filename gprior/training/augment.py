"""Augmentations that the discriminator sees, and the rule that says how often it sees them.

A discriminator that has seen too few images learns them by heart. If every image that it judges,
real or generated, is changed at random with a probability p below 1, it needs more images to do so,
and the generator still learns the distribution of unchanged images (Karras et al. 2020,
arXiv:2006.06676, sections 2 and 3). The paper's three groups are here, for medical images:

- pixel blits: ``flip`` left-right, ``turn`` by quarters of a circle, ``shift`` by whole pixels;
- geometry: ``scale``, ``rotate``, ``stretch`` along a random axis, ``move`` by parts of a pixel;
- intensity: ``brightness``, ``contrast``.

`USUAL` leaves out ``flip`` and ``turn``. Medical images have one orientation, and a prior that
learned mirrored organs would be wrong in a way that no one sees.

Differs from the paper: rotations are by some degrees, not by any angle, for the same reason.
Inverted intensities, hue and saturation are left out. The adaptive p is at most 0.8, because the
paper finds that above it the changes begin to appear in samples. The R1 penalty acts on the images
that the discriminator sees.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from gprior.checks import InputError, number

__all__ = ["NAMES", "USUAL", "Changes", "Probability", "check_names", "draw_changes"]

NAMES = (
    "flip", "turn", "shift", "scale", "rotate", "stretch", "move", "brightness", "contrast",
)  # fmt: skip
USUAL = NAMES[2:]
SHIFT = 1 / 8  # largest shift, as a part of the side; also the standard deviation of `move`
SCALE = 0.2  # standard deviation of the binary logarithm of `scale` and `stretch`
ANGLE = math.radians(15)  # standard deviation of `rotate`
BRIGHTNESS = 0.2  # standard deviation, of intensities in [-1, 1]
CONTRAST = 0.5  # standard deviation of the binary logarithm
MOST = 0.8  # largest p of the adaptive rule
TARGET = 0.6  # of r_t
EVERY = 4  # steps between two adjustments of p
# Low-pass filter of the symlet with 6 vanishing moments (Daubechies 1992). It is orthogonal to
# its own shifts by two, so that upsampling and downsampling with it is the identity.
SYM6 = (
    0.015404109327027373, 0.0034907120842174702, -0.11799011114819057, -0.048311742585633,
    0.4910559419267466, 0.787641141030194, 0.3379294217276218, -0.07263752278646252,
    -0.021060292512300564, 0.04472490177066578, 0.0017677118642428036, -0.007800708325034148,
)  # fmt: skip
CENTRE = sum(k * h for k, h in enumerate(SYM6)) / sum(SYM6)  # of mass of the filter
MARGIN = 6  # pixels around the image; the filter needs half of them


def check_names(names: Sequence[str]) -> None:
    """Check names of augmentations.

    Raises
    ------
    InputError
        If a name is unknown or there is none.
    """
    unknown = [name for name in names if name not in NAMES]
    if unknown or not names:
        raise InputError(
            f"augmentations must be some of {', '.join(NAMES)}, got {', '.join(unknown) or 'none'}"
        )


@dataclass(frozen=True)
class Changes:
    """What happens to each image of a batch; a call applies it.

    Attributes
    ----------
    flip : Tensor
        (B,) bool. Whether left and right are exchanged.
    turns : Tensor
        (B,) int64. Number of quarter turns counter-clockwise.
    shift : Tensor
        (B, 2). Shift downwards and to the right, as parts of the side; rounded to pixels.
    source : Tensor
        (B, 2, 3). The matrix (M, t) that takes a position (row, column) of the changed image to
        M position + t in the original. Positions are parts of the side, from the middle.
    contrast, brightness : Tensor
        (B,). Intensities v in [-1, 1] become contrast v + brightness.
    """

    flip: Tensor
    turns: Tensor
    shift: Tensor
    source: Tensor
    contrast: Tensor
    brightness: Tensor

    def __call__(self, raw: Tensor) -> Tensor:
        """Return changed images.

        Gradients pass through. An image does not depend on the others of its batch, and one that
        nothing happens to is the same to the bit. Beyond its border an image is its reflection.

        Parameters
        ----------
        raw : Tensor
            (B, C, H, H) in [-1, 1]. The result can be outside this range.
        """
        moved = self.flip | (self.turns > 0) | self.shift.any(1)
        raw = _for_rows(raw, moved, _blit, self.flip, self.turns, self.shift)
        still = torch.eye(2, 3, dtype=self.source.dtype, device=self.source.device)
        raw = _for_rows(raw, (self.source != still).any(2).any(1), _warp, self.source)
        scale, offset = (v.to(raw)[:, None, None, None] for v in (self.contrast, self.brightness))
        return raw * scale + offset


def draw_changes(names: Sequence[str], p: float, count: int, rng: torch.Generator) -> Changes:
    """Draw what happens to each image of a batch.

    Parameters
    ----------
    names : sequence of str
        The augmentations.
    p : float
        Probability of each augmentation, in [0, 1]. They are independent of each other.
    count : int
        Number of images.
    rng : torch.Generator
        Generator on the CPU. The draws of an image do not depend on `count` or `names`.
    """
    # One gate and two uniform numbers for each augmentation of each image.
    u = torch.rand(count, len(NAMES), 3, generator=rng, dtype=torch.float64, device="cpu")
    on = {name: (u[:, i, 0] < p) & (name in names) for i, name in enumerate(NAMES)}
    uniform = {name: u[:, i, 1:] for i, name in enumerate(NAMES)}

    def normal(name: str) -> Tensor:
        """Return two normal numbers for each image, 0 where nothing happens."""
        values: Tensor = torch.special.ndtri(uniform[name].clamp_min(1e-12))
        return values * on[name][:, None]

    scale, stretch = (torch.exp2(-SCALE * normal(k)[:, :1, None]) for k in ("scale", "stretch"))
    # The symmetric matrix with eigenvalues f and 1 / f, by the identity and a reflection.
    turned = _rotation(2 * math.pi * uniform["stretch"][:, 1])
    reflection = torch.stack([turned[:, 0], -turned[:, 1]], 1)
    eye = torch.eye(2, dtype=turned.dtype, device=turned.device)
    stretched = ((stretch + 1 / stretch) * eye + (stretch - 1 / stretch) * reflection) / 2
    M = scale * stretched @ _rotation(-ANGLE * normal("rotate")[:, 0])
    t = M @ (-SHIFT * normal("move"))[:, :, None]
    return Changes(
        flip=on["flip"] & (uniform["flip"][:, 0] < 0.5),
        turns=(4 * uniform["turn"][:, 0]).long() * on["turn"],
        shift=SHIFT * (2 * uniform["shift"] - 1) * on["shift"][:, None],
        source=torch.cat([M, t], 2),
        contrast=torch.exp2(CONTRAST * normal("contrast")[:, 0]),
        brightness=BRIGHTNESS * normal("brightness")[:, 0],
    )


def _rotation(angle: Tensor) -> Tensor:
    """Return rotation matrices (B, 2, 2) by angles (B,)."""
    cos, sin = angle.cos(), angle.sin()
    return torch.stack([torch.stack([cos, -sin], 1), torch.stack([sin, cos], 1)], 1)


def _for_rows(x: Tensor, rows: Tensor, function: Any, *values: Tensor) -> Tensor:
    """Return x with function(x, *values) in these rows; everything else stays as it is."""
    where = rows.nonzero()[:, 0]
    if not len(where):
        return x
    places = where.to(x.device)
    changed = function(x[places], *(v[where].to(x.device) for v in values))
    return x.index_copy(0, places, changed)


def _mirror(u: Tensor, last: int) -> Tensor:
    """Return positions reflected into [0, last]."""
    return ((u + last) % (2 * last) - last).abs()


def _blit(x: Tensor, flip: Tensor, turns: Tensor, shift: Tensor) -> Tensor:
    """Flip, turn and shift images (B, C, H, H), in this order; pixels keep their values."""
    n = x.shape[-1]
    down, right = (shift * n).round().long()[:, :, None, None].unbind(1)
    line = torch.arange(n, device=x.device)
    i = _mirror(line[:, None] - down, n - 1).expand(-1, n, n)
    j = _mirror(line - right, n - 1).expand(-1, n, n)
    for k in range(3):
        turned = (turns > k)[:, None, None]
        i, j = torch.where(turned, j, i), torch.where(turned, n - 1 - i, j)
    j = torch.where(flip[:, None, None], n - 1 - j, j)
    image = torch.arange(len(x), device=x.device)[:, None, None]
    return x.permute(0, 2, 3, 1)[image, i, j].permute(0, 3, 1, 2)


def _warp(x: Tensor, source: Tensor) -> Tensor:
    """Resample images (B, C, H, H) at other positions, without aliasing (paper, appendix B).

    Images are upsampled by two, interpolated linearly at the positions of an image that is also
    twice as fine, and downsampled.
    """
    n, end = x.shape[-1], (x.shape[-1] - 1) / 2
    # Samples k of a line that is twice as fine are at pixel (k - CENTRE) / 2.
    wide = _mirror(torch.arange(-MARGIN, n + MARGIN, device=x.device), n - 1)
    up = math.sqrt(2) * _filter(n + 2 * MARGIN, x) @ torch.eye(n, device=x.device).to(x)[wide]
    fine = up @ x @ up.mT
    down = math.sqrt(0.5) * _filter(n, x).mT
    line = (torch.arange(down.shape[1], device=x.device).to(x) - CENTRE) / 2 - end
    place = torch.stack(torch.meshgrid(line, line, indexing="ij"))
    M, t = source[:, :, :2].to(x), n * source[:, :, 2:].to(x)
    place = (M @ place.flatten(1) + t).view(-1, *place.shape)  # (B, 2, rows, columns)
    place = torch.where(place.abs() < end + MARGIN / 2, place, _mirror(place + end, n - 1) - end)
    place = 2 * (place + end + MARGIN) + CENTRE
    grid = (2 * place / (len(up) - 1) - 1).permute(0, 2, 3, 1).flip(3)
    fine = F.grid_sample(fine, grid, "bilinear", "border", align_corners=True)
    return down @ fine @ down.mT


def _filter(n: int, like: Tensor) -> Tensor:
    """Return the matrix (2n + 10, n) that fills a line up with zeros and filters it."""
    last = len(SYM6) - 1
    k = torch.arange(2 * n + last - 1, device=like.device)[:, None]
    k = k - 2 * torch.arange(n, device=like.device)
    return like.new_tensor(SYM6)[k.clamp(0, last)] * ((k >= 0) & (k <= last))


class Probability:
    """The probability p of each augmentation, fixed or adapted to the training.

    r_t is the mean sign of the discriminator's answers to real images. It is near 0 while real and
    generated images cannot be told apart, and 1 if the training images are known by heart. Every
    four steps p rises if r_t is above 0.6 and falls otherwise (section 3 of the paper).

    Parameters
    ----------
    value : float
        p at the first step, in [0, 1].
    images : float
        Number of training images in which p would rise from 0 to 1. Infinity keeps p fixed.
    """

    def __init__(self, value: float, images: float = math.inf) -> None:
        self.p, self.images = value, images
        self.signs: list[float] = []  # mean sign in each step since the last adjustment
        self.r = 0.0

    @classmethod
    def of(cls, augment: float | str, images: float) -> Probability:
        """Return the one that the settings of a training ask for: ``"adaptive"``, or a fixed p.

        Raises
        ------
        InputError
            If `augment` is neither, or `images` is not a positive number.
        """
        number("augment_images", images, above=0)
        if augment == "adaptive":
            return cls(0.0, images)
        try:
            return cls(number("augment", augment, 0, 1))
        except InputError as error:
            raise InputError(
                f"augment must be 'adaptive' or a number from 0 to 1, got {augment!r}"
            ) from error

    def see(self, logits: Tensor) -> None:
        """Take account of answers (B,) to real images, once in each step."""
        self.signs.append(float(logits.detach().sign().mean()))
        if len(self.signs) < EVERY:
            return
        self.r, self.signs = sum(self.signs) / EVERY, []
        if math.isfinite(self.images):
            change = EVERY * len(logits) / self.images
            self.p = min(max(self.p + math.copysign(change, self.r - TARGET), 0.0), MOST)

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint needs."""
        return {"p": self.p, "r": self.r, "signs": self.signs}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from the state of a checkpoint."""
        self.p, self.r, self.signs = state["p"], state["r"], list(state["signs"])
