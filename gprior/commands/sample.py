"""``gprior sample``: a picture of what a prior generates."""

from __future__ import annotations

import math
from pathlib import Path

import torch

from gprior.checkpoints import load_prior
from gprior.checks import InputError, integer, number
from gprior.files import write_bytes
from gprior.images import encode_pixels, to_stored

__all__ = ["sample"]

STAMP = "generated images, not for diagnosis"


def sample(
    source: str,
    out: Path,
    n: int = 16,
    seed: int = 0,
    label: int | None = None,
    truncation: float | None = None,
    device: str = "cpu",
) -> str:
    """Write generated images as a grid, in a PNG whose metadata say that they are generated.

    Parameters
    ----------
    source : str
        A checkpoint, or the name of an embedded prior.
    out : Path
        The picture, ending in ``.png``.
    n : int
        Number of images, from 1 to 1024.
    seed : int
        The i-th image depends on (seed, i) alone.
    label : int, optional
        Class of all images; None draws one for each image.
    truncation : float, optional
        Psi for StyleGAN2, the truncation in [0, 1] for BigGAN; None for none.
    device : str
        Where to compute.

    Returns
    -------
    str
        What was written.

    Raises
    ------
    ValueError
        If the file is not a prior, or an option does not fit the prior.
    OSError
        If a file cannot be read or written.
    """
    if out.suffix.lower() != ".png":
        raise InputError(f"OUT must end in .png, got {out}")
    n = integer("n", n, 1, 1024)
    if truncation is not None:
        number("truncation", truncation)
    prior = load_prior(source, device)
    images = prior.sample(n, seed, label, truncation).cpu()
    C, H, W = prior.image_shape
    columns = math.ceil(math.sqrt(n))
    rows = math.ceil(n / columns)
    blank = torch.ones(rows * columns - n, C, H, W)
    grid = torch.cat([images, blank]).view(rows, columns, C, H, W).permute(2, 0, 3, 1, 4)
    pixels = grid.reshape(C, rows * H, columns * W).double().numpy() * 255
    picture = encode_pixels(to_stored(pixels, "uint8", 0, 255), "png", STAMP)
    write_bytes(out, picture, "the picture")
    return f"{n} generated images of {C} x {H} x {W} in {out}"
