"""``gprior sample``: a picture of what a prior generates."""

from __future__ import annotations

import math
from pathlib import Path

import torch

from gprior.checkpoints import load_prior
from gprior.checks import InputError
from gprior.files import write_bytes
from gprior.images import encode_pixels, to_stored
from gprior.priors import BigGAN, StyleGAN2

__all__ = ["sample"]

STAMP = "generated images, not for diagnosis"


@torch.no_grad()
def sample(
    source: str,
    out: Path,
    n: int = 16,
    seed: int = 0,
    label: int | None = None,
    truncation: float | None = None,
    device: str = "cpu",
) -> str:
    """Draw generated images as a grid, in a PNG that says that they are generated.

    Parameters
    ----------
    source : str
        A checkpoint, or the name of an embedded prior.
    out : Path
        The picture, ending in ``.png``.
    n : int
        Number of images.
    seed : int
        The i-th image depends on (seed, i) alone.
    label : int, optional
        Class of all images; None draws one for each.
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
        If the prior is not read, or an option does not fit it.
    OSError
        If a file cannot be read or written.
    """
    if out.suffix.lower() != ".png":
        raise InputError(f"OUT must end in .png, got {out}")
    if not 1 <= n <= 1024:
        raise InputError(f"n must be between 1 and 1024, got {n}")
    if truncation is not None and not math.isfinite(truncation):
        raise InputError(f"truncation must be a finite number, got {truncation}")
    prior = load_prior(source, device)
    options = {}
    if truncation is not None and isinstance(prior, StyleGAN2):
        options = {"truncation_psi": truncation}
    elif truncation is not None and isinstance(prior, BigGAN):
        prior.truncation = truncation
    batches = prior._sample_inputs(n, seed, label)
    images = torch.cat([prior(**inputs, **options).cpu() for inputs in batches])
    C, H, W = prior.image_shape
    columns = math.ceil(math.sqrt(n))
    rows = math.ceil(n / columns)
    blank = torch.ones(rows * columns - n, C, H, W)
    grid = torch.cat([images, blank]).view(rows, columns, C, H, W).permute(2, 0, 3, 1, 4)
    pixels = grid.reshape(C, rows * H, columns * W).double().numpy() * 255
    picture = encode_pixels(to_stored(pixels, "uint8", 0, 255), "png", STAMP)
    write_bytes(out, picture, "the picture")
    return f"{n} generated images of {C} x {H} x {W} in {out}"
