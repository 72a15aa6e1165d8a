"""``gprior convert``: write a published checkpoint in the native format."""

from __future__ import annotations

from pathlib import Path

from gprior.checkpoints import load_prior, save_prior
from gprior.checks import InputError
from gprior.commands.info import describe

__all__ = ["convert"]


def convert(source: str, target: Path) -> str:
    """Write a prior in the native format, with its origin in its record.

    Parameters
    ----------
    source : str
        Any checkpoint that `gprior.load_prior` reads.
    target : Path
        The new file, ending in ``.safetensors``. Its weights are those of the source.

    Returns
    -------
    str
        A description of the new file, as ``gprior info`` gives it.

    Raises
    ------
    InputError
        If the source cannot be read, or the target has another ending or is the source.
    OSError
        If a file cannot be read or written.
    """
    if target.suffix != ".safetensors":
        raise InputError(f"OUT must end in .safetensors, got {target}")
    if target.exists() and Path(source).exists() and target.samefile(source):
        raise InputError(f"OUT must be a different file from IN, got {target} for both")
    prior = load_prior(source)
    prior.record.pop("sha256", None)  # the hash of the source, which source_sha256 keeps
    save_prior(prior, target)
    return describe(str(target))
