"""Write the results of a run into their folder together: every file, or none."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gprior.files import restate

__all__ = ["staged"]


@contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """Collect the files of a run, and move them into their folder when the block succeeds.

    The folder is made at the start, so that a folder that cannot be written to is refused before
    the work. When the block fails, nothing is left behind, and files of an earlier run stay as
    they were.

    Parameters
    ----------
    folder : Path
        Folder for the files. It is made if it does not exist.

    Yields
    ------
    pathlib.Path
        A hidden folder inside `folder` to write to.

    Raises
    ------
    OSError
        If the folder cannot be made or written to, or the disk is full.

    Examples
    --------
    >>> import tempfile
    >>> out = Path(tempfile.mkdtemp()) / "results"
    >>> with staged(out) as place:
    ...     _ = (place / "a.txt").write_text("done")
    >>> [path.name for path in out.iterdir()]
    ['a.txt']
    """
    new = not folder.exists()
    temporary = folder / f".{secrets.token_hex(6)}"
    try:
        temporary.mkdir(parents=True)
    except OSError as error:
        message = f"cannot write to {folder}: {error.strerror}; choose another place"
        raise restate(error, message) from error
    try:
        yield temporary
        for path in sorted(temporary.iterdir()):
            target = folder / path.name
            if target.is_dir():  # a folder cannot be replaced, only moved away
                os.replace(target, temporary / f".earlier-{path.name}")  # noqa: PTH105
            os.replace(path, target)  # noqa: PTH105 (the call that is atomic)
    except OSError as error:
        if str(temporary) not in str(error):
            raise
        # The user knows the folder, but not the hidden one in it.
        raise restate(error, str(error).replace(str(temporary), str(folder))) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        with suppress(OSError):
            if new:
                folder.rmdir()  # fails if it is not empty, as it should
