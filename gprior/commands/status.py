"""``gprior status``: the progress of a run of ``gprior batch``."""

from __future__ import annotations

import json
from pathlib import Path

from gprior.batch import Folder, in_words, status_of
from gprior.checks import InputError

__all__ = ["describe_run"]


def describe_run(out: Path, as_json: bool = False) -> str:
    """Return the progress of a run as text, or as JSON.

    Raises
    ------
    InputError
        If the folder has no run.
    """
    folder = Folder(out)
    if not folder.state.is_dir():
        raise InputError(f"{out} has no run of gprior batch; give the folder of its --out")
    status = status_of(folder)
    return json.dumps(status) if as_json else in_words(status)
