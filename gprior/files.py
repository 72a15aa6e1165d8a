"""Writing files so that a reader finds the old file or the new one, never a part of one."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

__all__ = ["atomic_write", "restate", "write_bytes", "write_json", "write_text"]


def restate(error: OSError, message: str) -> OSError:
    """Return the same kind of operating-system error with a message for the user.

    Parameters
    ----------
    error : OSError
        What the operating system or a library reported.
    message : str
        The whole text of the new error.

    Returns
    -------
    OSError
        ``FileNotFoundError``, ``PermissionError``, ... as `error.errno` says, with `errno` kept.

    Examples
    --------
    >>> restate(OSError(2, "No such file or directory"), "cannot open a.png")
    FileNotFoundError('cannot open a.png')
    """
    kind = OSError if error.errno is None else type(OSError(error.errno, ""))
    restated = kind(message)
    restated.errno = error.errno
    return restated


@contextmanager
def atomic_write(path: str | os.PathLike[str], what: str = "the file") -> Iterator[Path]:
    """Write a file whole or not at all.

    The block writes to a temporary path in the folder of `path`. When the block ends, that
    file is flushed to the disk and renamed to `path` in one step; when the block fails, in
    whatever way, it is removed and a file that was at `path` stays as it was. A process killed
    inside the block can leave a hidden temporary file behind, never a partial `path`.

    Parameters
    ----------
    path : path-like
        Where the file shall be. Its folder must exist. A symbolic link is followed.
    what : str
        What is being written, for the error message.

    Yields
    ------
    pathlib.Path
        An empty file, with the suffixes of `path` because libraries choose formats by them.

    Raises
    ------
    OSError
        When the disk is full, the folder is missing or not writable, or `path` is a folder or
        a device; of the subclass that the operating system's error number has.

    Examples
    --------
    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "notes.txt"
    >>> with atomic_write(target, "the notes") as temporary:
    ...     _ = temporary.write_text("done")
    >>> target.read_text()
    'done'
    """
    # A rename would replace a link, not the file that it points to.
    target = Path(os.path.realpath(path))
    remedy = "free disk space, make the folder writable, or choose another place"
    if target.exists() and not target.is_file():
        raise OSError(
            f"cannot write {what} to {path}: it exists and is not a regular file; "
            "choose another place"
        )
    temporary = target.with_name(f".{secrets.token_hex(6)}{''.join(target.suffixes[-2:])}")
    try:
        temporary.touch(exist_ok=False)
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, target)  # noqa: PTH105 (the call that is atomic by contract)
    except OSError as error:
        # Some libraries (numpy) report a short write in an OSError without a number.
        reason = error.strerror or str(error) or type(error).__name__
        raise restate(error, f"cannot write {what} to {path}: {reason}; {remedy}") from error
    finally:
        # After the rename there is nothing here; a failing removal must not hide the cause.
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_bytes(path: str | os.PathLike[str], data: bytes, what: str = "the file") -> None:
    """Write `data` through `atomic_write`.

    Parameters
    ----------
    path : path-like
        Where the file shall be.
    data : bytes
        The content.
    what : str
        What is being written, for the error message.

    Raises
    ------
    OSError
        As `atomic_write`.
    """
    with atomic_write(path, what) as temporary:
        temporary.write_bytes(data)


def write_text(path: str | os.PathLike[str], text: str, what: str = "the text") -> None:
    """Write `text` as UTF-8 through `atomic_write`; line ends are kept as given.

    Parameters
    ----------
    path : path-like
        Where the file shall be.
    text : str
        The content.
    what : str
        What is being written, for the error message.

    Raises
    ------
    OSError
        As `atomic_write`.
    """
    write_bytes(path, text.encode(), what)


def write_json(path: str | os.PathLike[str], obj: Any, what: str = "the JSON file") -> None:
    """Write `obj` as indented JSON through `atomic_write`.

    Parameters
    ----------
    path : path-like
        Where the file shall be.
    obj : object
        Dicts, lists, strings, finite numbers, booleans and None.
    what : str
        What is being written, for the error message.

    Raises
    ------
    ValueError, TypeError
        When `obj` has a number that is not finite or something JSON cannot hold; `path` is
        then untouched.
    OSError
        As `atomic_write`.
    """
    try:
        text = json.dumps(obj, indent=2, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise type(error)(
            f"cannot write {what} to {path}: {error}; "
            "give None for a number that is not finite, and plain lists for arrays"
        ) from error
    write_text(path, text + "\n", what)
