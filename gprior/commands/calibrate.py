"""``gprior calibrate``: intervals that hold for images like those of a folder."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from gprior.checkpoints import load_prior
from gprior.checks import InputError
from gprior.commands.devices import pick_device
from gprior.operators import from_spec, without_path
from gprior.sampling import calibrate
from gprior.training import folder_set

__all__ = ["run"]


def run(
    prior: str,
    operator: str,
    images: Path,
    out: Path,
    *,
    noise: float,
    samples: int = 16,
    level: float = 0.9,
    label: int | None = None,
    device: str = "auto",
    seed: int = 0,
) -> str:
    """Calibrate posterior intervals on a folder of images, and write a JSON file.

    Parameters
    ----------
    prior : str
        A checkpoint, or the name of an embedded prior.
    operator : str
        See `gprior.operators.from_spec`.
    images : Path
        Folder of at least 20 images, read as for a training.
    out : Path
        The file, ending in ``.json``.
    noise, samples, level, label, seed
        See `gprior.calibrate`.
    device : str
        ``"auto"``, ``"cpu"`` or ``"cuda"``.

    Returns
    -------
    str
        What was found.

    Raises
    ------
    InputError, OSError
        See `gprior.calibrate`, and the functions that read the files.
    """
    if out.suffix.lower() != ".json":
        raise InputError(f"out must end in .json, got {out}")
    generator = load_prior(prior, str(pick_device(device)))
    C, H, W = generator.image_shape
    if H != W:
        raise InputError(f"a calibration needs a prior of square images, this one has {H} x {W}")
    A = from_spec(operator, generator.image_shape, seed)
    A = A.to(generator.like.device) if isinstance(A, nn.Module) else A
    found = folder_set(images, H, C)
    x = torch.cat([found.images, found.held_out]).to(generator.like) / 255
    spec = without_path(operator)
    calibration = calibrate(
        x, A, generator, samples, level=level, noise_std=noise, seed=seed, label=label,
        operator=spec, progress=True,
    )  # fmt: skip
    calibration.save(out)
    return (
        f"{calibration.images} images, {spec}, noise {noise:g}: {100 * calibration.before:.1f} % "
        f"of the pixels were in their {100 * level:g} % intervals before the calibration\n"
        f"the half-width is now {calibration.factor:.2f} times (standard deviation + "
        f"{calibration.floor:.4f})\nwritten to {out}"
    )
