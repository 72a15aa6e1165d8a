"""Files: written so that a reader finds the old or the whole new one, and read only if whole."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from gprior.checks import InputError

__all__ = [
    "atomic_write", "open_tensors", "restate", "write_bytes", "write_json", "write_tensors",
    "write_text",
]  # fmt: skip


def restate(error: OSError, message: str) -> OSError:
    """Return an error of the operating system with another message.

    Parameters
    ----------
    error : OSError
        The error that the operating system or a library reported.
    message : str
        The text of the new error.

    Returns
    -------
    OSError
        An error with the same ``errno``, of the subclass that belongs to that number, such as
        ``FileNotFoundError`` or ``PermissionError``.

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
    """Write a whole file, or nothing.

    The block writes to a temporary file in the folder of `path`. When the block ends, the
    temporary file is flushed to the disk and renamed to `path` in one step. When the block
    fails, the temporary file is removed, and a file that was at `path` stays as it was. A
    process that is killed inside the block can leave a hidden temporary file behind, but never
    a partial `path`.

    Parameters
    ----------
    path : path-like
        The file. Its folder must exist. A symbolic link is followed.
    what : str
        Description of the file for the error message.

    Yields
    ------
    pathlib.Path
        An empty temporary file. It has the suffixes of `path`, because some libraries choose
        the format by them.

    Raises
    ------
    OSError
        If the disk is full, if the folder is missing or not writable, or if `path` is a folder
        or a device. The subclass is that of the operating system's error number.

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
        # NumPy reports an incomplete write in an OSError without a number.
        reason = error.strerror or str(error) or type(error).__name__
        raise restate(error, f"cannot write {what} to {path}: {reason}; {remedy}") from error
    finally:
        # After the rename nothing is left here. A failed removal must not hide the cause.
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_bytes(path: str | os.PathLike[str], data: bytes, what: str = "the file") -> None:
    """Write bytes with `atomic_write`.

    Parameters
    ----------
    path : path-like
        The file.
    data : bytes
        The content.
    what : str
        Description of the file for the error message.

    Raises
    ------
    OSError
        See `atomic_write`.
    """
    with atomic_write(path, what) as temporary:
        temporary.write_bytes(data)


def write_text(path: str | os.PathLike[str], text: str, what: str = "the text") -> None:
    """Write a text as UTF-8 with `atomic_write`. Line ends are written as they are.

    Parameters
    ----------
    path : path-like
        The file.
    text : str
        The content.
    what : str
        Description of the file for the error message.

    Raises
    ------
    OSError
        See `atomic_write`.
    """
    write_bytes(path, text.encode(), what)


def write_json(path: str | os.PathLike[str], obj: Any, what: str = "the JSON file") -> None:
    """Write an object as indented JSON with `atomic_write`.

    Parameters
    ----------
    path : path-like
        The file.
    obj : object
        Dictionaries, lists, strings, finite numbers, booleans and None.
    what : str
        Description of the file for the error message.

    Raises
    ------
    ValueError, TypeError
        If `obj` has a number that is not finite, or an object that JSON has no form for. The
        file at `path` then stays as it was.
    OSError
        See `atomic_write`.
    """
    try:
        text = json.dumps(obj, indent=2, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise type(error)(
            f"cannot write {what} to {path}: {error}; "
            "give None for a number that is not finite, and plain lists for arrays"
        ) from error
    write_text(path, text + "\n", what)


def write_tensors(
    path: str | Path, tensors: Mapping[str, Any], metadata: dict[str, str], what: str
) -> None:
    """Write tensors of any device into one safetensors file.

    Parameters
    ----------
    path : str or Path
        Ends in ``.safetensors``.
    tensors : mapping of str to Tensor
        What `open_tensors` returns.
    metadata : dict
        Has the ``format``.
    what : str
        Names the content in messages.

    Raises
    ------
    InputError
        If the path does not end in ``.safetensors``.
    OSError
        If it cannot be written; nothing is left behind.
    """
    from safetensors.torch import save

    path = Path(path)
    if path.suffix != ".safetensors":
        raise InputError(f"path must end in .safetensors, got {path.name!r}")
    plain = {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}
    write_bytes(path, save(plain, metadata), what)


@contextmanager
def open_tensors(
    path: str | Path, form: str, refusal: str
) -> Iterator[tuple[dict[str, str], dict[str, Any]]]:
    """Read a safetensors file of one of gprior's formats, and refuse it if it is not whole.

    Parameters
    ----------
    path : str or Path
        The file.
    form : str
        What its metadata must have as ``format``.
    refusal : str
        What is said of another file, such as ``"is no whole gprior result"``.

    Yields
    ------
    metadata, tensors : dict
        All of the file. What the block finds wrong with them (a KeyError, TypeError, ValueError or
        RecursionError) is also told as a refusal.

    Raises
    ------
    InputError
        If the file is truncated, of another format, or a folder.
    """
    from safetensors import SafetensorError, safe_open

    if Path(path).is_dir():
        raise InputError(f"{path} {refusal}: it is a folder")
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
        if metadata.get("format") != form:
            raise InputError(f"its format is {metadata.get('format')!r}, not {form!r}")
        yield metadata, tensors
    except (SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise InputError(f"{path} {refusal}: {error}") from error
