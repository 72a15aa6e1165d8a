"""Loads a prior by path or by name, and saves one: the functions that users call."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from gprior.checkpoints.formats import load
from gprior.checkpoints.native import is_native, load_native, save_native
from gprior.checks import InputError
from gprior.priors import Encoder, Prior
from gprior.randomness import in_plain_mode

__all__ = ["embedded", "find", "load_encoder", "load_prior", "save_prior"]

WEIGHTS = Path(__file__).parent / "weights"
ENCODERS = Path(__file__).parent / "encoders"


def embedded() -> list[str]:
    """Return the names of the priors that ship with the package.

    >>> "phantom-64" in embedded()
    True
    """
    return sorted(p.stem for p in WEIGHTS.glob("*.safetensors"))


def find(path_or_name: str | Path) -> Path:
    """Return the file or folder of a checkpoint, or the file of an embedded prior.

    Parameters
    ----------
    path_or_name : str or Path
        As `load_prior` takes it.

    Raises
    ------
    FileNotFoundError
        If there is neither a file nor an embedded prior; the message lists the embedded priors.
    """
    path = Path(path_or_name)
    if path.is_file() or (path / "config.json").is_file():
        return path
    if str(path_or_name) in embedded():
        return WEIGHTS / f"{path_or_name}.safetensors"
    raise FileNotFoundError(
        f"prior {str(path_or_name)!r} is neither a file nor an embedded prior; "
        f"embedded priors are {embedded()}"
    )


@in_plain_mode
def load_prior(path_or_name: str | Path, device: str = "cpu") -> Prior:
    """Load a prior, frozen and in eval mode.

    Parameters
    ----------
    path_or_name : str or Path
        A checkpoint in the native format or one that another project published
        (:doc:`/checkpoints`), the folder of a BigGAN-deep, or the name of an embedded prior. The
        format is detected from the contents of the file, not from its name.
    device : str
        The device of the prior, such as ``"cuda"``.

    Returns
    -------
    Prior
        In float32; ``prior.double()`` solves in float64.

    Raises
    ------
    FileNotFoundError
        If there is no such file or name; the message lists the names.
    InputError
        If the file is truncated or damaged, or is of a kind that gprior does not read.

    Examples
    --------
    >>> import gprior
    >>> prior = gprior.load_prior("phantom-64")
    >>> prior.image_shape
    (1, 64, 64)
    >>> prior.sample(2, seed=0).shape
    torch.Size([2, 1, 64, 64])
    """
    path = find(path_or_name)
    with torch.device("cpu"):  # whatever the default device is
        prior: Prior = load_native(path) if is_native(path) else load(path)
    prior.name = path.stem if path.parent == WEIGHTS else str(path)
    return prior.to(device)


def save_prior(prior: Prior, path: str | Path) -> None:
    """Write a prior in the native format, with its discriminator if it has one.

    Parameters
    ----------
    prior : Prior
        A `StyleGAN2` or a `BigGAN`. Its gains are multiplied into the weights of the file.
    path : str or Path
        The file, ending in ``.safetensors``.

    Raises
    ------
    InputTypeError
        If the prior is of another kind.
    OSError
        If the file cannot be written. A file that was there before stays.
    """
    save_native(Path(path), prior)


@in_plain_mode
def load_encoder(
    prior: Prior, path: str | os.PathLike[str] | None = None, rounds: int | None = None
) -> Encoder:
    """Load a network that predicts the latents of a prior: the ``init`` of `gprior.solve`.

    Parameters
    ----------
    prior : Prior
        The prior that the encoder was trained for, in any dtype, or one that wraps it.
    path : str or Path, optional
        A file that ``gprior train-encoder`` wrote. None takes the encoder that ships with the
        prior.
    rounds : int, optional
        Number of rounds, at least 1. None takes that of the file.

    Returns
    -------
    Encoder
        A callable: images (B, C, H, W) -> latents.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    InputError
        If the prior has no encoder, or if the file is damaged or has the encoder of another prior.

    Examples
    --------
    >>> import gprior
    >>> prior = gprior.load_prior("phantom-64")
    >>> latents = gprior.load_encoder(prior)(prior.sample(2))
    >>> sorted(latents), latents["w"].shape
    (['c', 'w', 'z'], torch.Size([2, 10, 128]))
    """
    if path is None:
        path = ENCODERS / f"{prior.core.name}.safetensors"
        if prior.core.name not in embedded() or not path.is_file():
            raise InputError(
                f"the prior {prior.core.name!r} has no encoder of its own; train one with "
                "`gprior train-encoder` and give its file, or choose another init"
            )
    return Encoder.load(path, prior, rounds)
