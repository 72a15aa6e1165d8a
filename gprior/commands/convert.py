"""``gprior convert``: a checkpoint that others trained, in the native format."""

from __future__ import annotations

from pathlib import Path

from gprior.checkpoints import load_prior, save_prior
from gprior.checks import InputError
from gprior.commands.info import describe

__all__ = ["convert"]


def convert(source: str, target: Path) -> str:
    """Write a prior in the native format, with where it is from in its record.

    Parameters
    ----------
    source : str
        Any checkpoint that `gprior.load_prior` reads.
    target : Path
        The new file, ending in ``.safetensors``. It makes the same images, weight for weight.

    Returns
    -------
    str
        What was written, as ``gprior info`` says it.

    Raises
    ------
    ValueError
        If the source is not read, or the target is named otherwise or is the source.
    OSError
        If a file cannot be read or written.
    """
    if target.suffix != ".safetensors":
        raise InputError(f"OUT must end in .safetensors, got {target}")
    if target.exists() and Path(source).exists() and target.samefile(source):
        raise InputError(f"OUT must be another file than IN, got {target} for both")
    prior = load_prior(source)
    prior.record.pop("sha256", None)  # of the source; source_sha256 keeps it
    save_prior(prior, target)
    return describe(str(target))
