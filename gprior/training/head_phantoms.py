"""Draws head phantoms: any number of different slices through heads, in three MR-like contrasts.

A few dozen random numbers define a slice. It has scalp, skull, cortex with folds, white matter,
ventricles, deep nuclei and lesions, a smooth random warp, and a bias field. Every edge is a sigmoid
about one pixel wide, which avoids aliasing. The slices show no patients, so no data licence applies
to them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from gprior.checks import integer, number
from gprior.randomness import generator

Mask = Callable[[Tensor], Tensor]  # signed distance -> mask in [0, 1]

__all__ = ["CONTRASTS", "phantoms"]

CONTRASTS = ("T1", "T2", "FLAIR")

# Mean intensity of each tissue in each contrast, on [0, 1].
TISSUES = ("scalp", "skull", "fluid", "gray", "white", "nuclei", "lesion")
PLAIN: dict[str, Any] = {"dtype": torch.float32, "device": "cpu"}  # whatever torch's defaults
INTENSITY = torch.tensor(
    [
        [0.80, 0.10, 0.14, 0.46, 0.72, 0.52, 0.34],
        [0.55, 0.07, 0.95, 0.58, 0.38, 0.44, 0.82],
        [0.50, 0.06, 0.10, 0.60, 0.46, 0.52, 0.94],
    ],
    **PLAIN,
)


class Draws:
    """Random numbers for a batch of B slices, from one generator per slice."""

    def __init__(self, seed: int, indices: list[int]) -> None:
        self.rows = [generator(seed, "phantom", i) for i in indices]

    def uniform(self, low: float, high: float, n: int = 1) -> Tensor:
        """Return (B, n, 1, 1) numbers between ``low`` and ``high``."""
        u = torch.stack([torch.rand(n, generator=g, **PLAIN) for g in self.rows])
        return (low + (high - low) * u)[:, :, None, None]

    def field(self, cells: int, size: int) -> Tensor:
        """Return smooth noise (B, 1, size, size) of about unit variance.

        The noise is drawn on a grid of about ``cells`` by ``cells`` numbers and interpolated.
        """
        n = cells + 3
        coarse = torch.stack([torch.randn(1, n, n, generator=g, **PLAIN) for g in self.rows])
        fine = F.interpolate(coarse, size=size, mode="bicubic", align_corners=True)
        return fine / 0.75


def phantoms(
    indices: Iterable[int],
    resolution: int = 64,
    seed: int = 0,
    contrast: int | None = None,
    ventricles: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Draw head slices.

    Parameters
    ----------
    indices : iterable of int
        Numbers of the slices. Slice i depends only on (seed, i, resolution), and its contrast
        is ``CONTRASTS[i % 3]``.
    resolution : int
        Side in pixels.
    seed : int
        Another seed gives other heads.
    contrast : int, optional
        Index into `CONTRASTS`, for all slices: the same heads in another contrast. None takes
        that of each slice.
    ventricles : float
        Factor of the size of the ventricles, above 0. Several factors give a series of one head, in
        which nothing else changes. Slices above the ventricles have none.

    Returns
    -------
    images : Tensor
        (B, 1, resolution, resolution) in [0, 1].
    labels : Tensor
        (B,) int64, the index into `CONTRASTS`.

    Examples
    --------
    >>> images, labels = phantoms(range(3), resolution=32)
    >>> images.shape, labels.tolist()
    (torch.Size([3, 1, 32, 32]), [0, 1, 2])
    """
    rows, factor = list(indices), number("ventricles", ventricles, above=0)
    if contrast is not None:
        integer("contrast", contrast, least=0, most=len(CONTRASTS) - 1)
    kinds = [i % len(CONTRASTS) if contrast is None else contrast for i in rows]
    labels = torch.tensor(kinds, device="cpu")
    parts = [  # drawn at twice the size and averaged, against aliasing
        F.avg_pool2d(_draw(rows[i : i + 64], kinds[i : i + 64], 2 * resolution, seed, factor), 2)
        for i in range(0, len(rows), 64)
    ]
    empty = torch.zeros(0, 1, resolution, resolution, **PLAIN)
    return (torch.cat(parts) if parts else empty), labels


def _draw(rows: list[int], kinds: list[int], size: int, seed: int, ventricles: float) -> Tensor:
    """Draw slices (B, 1, size, size)."""
    draws = Draws(seed, rows)
    x, y = _coordinates(draws, size)
    pixel = 4.0 / size  # width of a pixel of the averaged image; the image has width 2

    def inside(distance: Tensor) -> Tensor:
        """Return 1 where the signed distance is negative, with an edge one pixel wide."""
        edge: Tensor = torch.sigmoid(-distance * (4.0 / pixel))
        return edge

    width, height = draws.uniform(0.70, 0.82), draws.uniform(0.86, 0.95)
    radius = ((x / width) ** 2 + (y / height) ** 2).sqrt()
    depth = (1 - radius) * width  # distance below the scalp's surface
    level = draws.uniform(0.0, 1.0)  # 0 is a slice through the ventricles, 1 one above them
    scalp, bone = draws.uniform(0.04, 0.07), draws.uniform(0.04, 0.07)
    gap = draws.uniform(0.01, 0.04)
    inner = depth - scalp - bone
    brain = inner - gap

    folds = draws.field(7, size) * 0.80 + draws.field(11, size) * 0.35
    thickness = draws.uniform(0.08, 0.13)
    white = inside(thickness + 0.08 * folds - brain)
    near_surface = inside(brain - draws.uniform(0.12, 0.22))
    sulci = near_surface * torch.exp(-((folds / draws.uniform(0.20, 0.45)) ** 2))
    midline = torch.exp(-((x / 0.022) ** 2)) * inside(0.42 + 0.1 * level - y.abs())

    fluid = torch.maximum(sulci * 0.85, midline * draws.uniform(0.5, 1.0))
    fluid = torch.maximum(fluid, _ventricles(draws, x, y, level, inside, ventricles))
    nuclei = _nuclei(draws, x, y, level, inside)
    lesion = _lesions(draws, x, y, inside) * white * (1 - fluid)

    table = INTENSITY[kinds][:, :, None, None]
    table = table * draws.uniform(0.92, 1.08, len(TISSUES))
    value = {name: table[:, k : k + 1] for k, name in enumerate(TISSUES)}

    image = value["gray"] * torch.ones_like(x)
    for mask, tissue in (
        (white, "white"),
        (nuclei, "nuclei"),
        (fluid, "fluid"),
        (lesion, "lesion"),
        (inside(brain), "fluid"),
        (inside(inner), "skull"),
        (inside(depth - scalp), "scalp"),
    ):
        image = image + mask * (value[tissue] - image)
    bias = 1 + draws.uniform(0.02, 0.08) * draws.field(2, size)
    return (image * bias * inside(-depth)).clamp(0, 1)


def _coordinates(draws: Draws, size: int) -> tuple[Tensor, Tensor]:
    """Return x, y in [-1, 1], rotated, shifted and smoothly warped."""
    line = (torch.arange(size, **PLAIN) + 0.5) * (2.0 / size) - 1
    y, x = torch.meshgrid(line, line, indexing="ij")
    x = x - draws.uniform(-0.05, 0.05) + 0.02 * draws.field(2, size)
    y = y - draws.uniform(-0.05, 0.05) + 0.02 * draws.field(2, size)
    angle = draws.uniform(-0.14, 0.14)
    return x * angle.cos() + y * angle.sin(), y * angle.cos() - x * angle.sin()


def _ellipse(
    x: Tensor, y: Tensor, cx: Tensor, cy: Tensor, a: Tensor, b: Tensor, tilt: Tensor
) -> Tensor:
    """Return the approximate signed distance from a tilted ellipse, which is negative inside."""
    u = (x - cx) * tilt.cos() + (y - cy) * tilt.sin()
    v = (y - cy) * tilt.cos() - (x - cx) * tilt.sin()
    return (((u / a) ** 2 + (v / b) ** 2).sqrt() - 1) * torch.minimum(a, b)


def _ventricles(
    draws: Draws, x: Tensor, y: Tensor, level: Tensor, inside: Mask, factor: float
) -> Tensor:
    """Draw the two lateral ventricles, each with two horns, and the third ventricle."""
    shrink = (1.25 - level).clamp(0, 1)
    size = draws.uniform(0.6, 1.5) * shrink * factor
    fluid = torch.zeros_like(x)
    for side in (-1.0, 1.0):
        side_size = size * draws.uniform(0.85, 1.15)
        front = _ellipse(
            x,
            y,
            side * (0.085 + 0.03 * size),
            draws.uniform(-0.22, -0.14),
            0.045 * side_size + 0.004,
            0.15 * side_size + 0.004,
            side * draws.uniform(0.15, 0.45),
        )
        back = _ellipse(
            x,
            y,
            side * (0.13 + 0.05 * size),
            draws.uniform(0.16, 0.26),
            0.045 * side_size + 0.004,
            0.14 * side_size + 0.004,
            -side * draws.uniform(0.3, 0.7),
        )
        fluid = torch.maximum(fluid, torch.maximum(inside(front), inside(back)))
    third = _ellipse(
        x,
        y,
        torch.zeros_like(size),
        draws.uniform(-0.02, 0.06),
        0.012 + 0.012 * size,
        0.10 * shrink + 0.004,
        torch.zeros_like(size),
    )
    return torch.maximum(fluid, inside(third)) * inside(level - 0.85)


def _nuclei(draws: Draws, x: Tensor, y: Tensor, level: Tensor, inside: Mask) -> Tensor:
    """Draw the thalamus and the putamen on both sides."""
    shown = inside(level - 0.6)
    nuclei = torch.zeros_like(x)
    size = draws.uniform(0.8, 1.2)
    one = torch.ones_like(size)
    thalamus_y, putamen_y = draws.uniform(0.00, 0.08), draws.uniform(-0.14, -0.04)
    for side in (-1.0, 1.0):
        thalamus = _ellipse(
            x, y, side * 0.10 * one, thalamus_y, 0.06 * size, 0.09 * size, side * 0.4 * one
        )
        putamen = _ellipse(
            x,
            y,
            side * draws.uniform(0.25, 0.30),
            putamen_y,
            0.045 * size,
            0.13 * size,
            -side * draws.uniform(0.1, 0.4),
        )
        nuclei = torch.maximum(nuclei, torch.maximum(inside(thalamus), inside(putamen)))
    return nuclei * shown


def _lesions(draws: Draws, x: Tensor, y: Tensor, inside: Mask) -> Tensor:
    """Draw up to three blobs; about half of the slices have one or more."""
    lesions = torch.zeros_like(x)
    for _ in range(3):
        present = (draws.uniform(0, 1) < 0.25).float()
        blob = _ellipse(
            x,
            y,
            draws.uniform(-0.42, 0.42),
            draws.uniform(-0.5, 0.5),
            draws.uniform(0.03, 0.11),
            draws.uniform(0.03, 0.09),
            draws.uniform(0, 3.14),
        )
        lesions = torch.maximum(lesions, inside(blob) * present)
    return lesions
