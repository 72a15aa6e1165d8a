"""How the errors, warnings and output of a command reach the user.

A user's mistake is an `InputError` or an `OSError`: it is reported in one message, with exit code
2. Any other error is a bug and keeps its traceback.
"""

from __future__ import annotations

import io
import os
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import typer
from typer.core import TyperGroup

from gprior.checks import InputError

__all__ = ["Commands", "say"]

# The message of an error begins with the name of an argument in Python. On the left are the
# beginnings that differ from the name of the parameter of a command, on the right.
PARAMETERS = {
    "cannot write": "out",
    "A": "operator",
    "factor": "operator",
    "m": "operator",
    **dict.fromkeys(
        ("mask", "matrix", "box", "side", "keep", "filter", "padding", "blur"), "operator"
    ),
    **dict.fromkeys(("acceleration", "center", "pattern", "angles", "geometry"), "operator"),
    "y": "source",
    "measurements": "source",
    "noise_std": "noise",
    "img_resolution": "resolution",
    "img_channels": "channels",
    "r1_gamma": "gamma",
    "num_mapping_layers": "mapping_layers",
}


class Commands(TyperGroup):
    """The commands. A user's mistake is reported in one message, with exit code 2."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command; any error that is not a user's mistake keeps its traceback."""
        with _tolerant_streams():
            return self._report(ctx)

    def _report(self, ctx: Any) -> Any:
        try:
            with _plain_warnings():
                return super().invoke(ctx)
        except KeyboardInterrupt as error:
            _fail(str(error) or "interrupted")
        except BrokenPipeError:
            raise  # the reader of the output has gone; typer ends the program quietly
        except (InputError, OSError) as error:
            _fail(_with_option(_message(error), self.commands[ctx.invoked_subcommand].params))
        except (MemoryError, RuntimeError) as error:
            if not isinstance(error, MemoryError) and "memory" not in str(error).lower():
                raise
            _fail("out of memory; lower --set max_batch=N or --restarts, or use --device cpu")


def _fail(message: str) -> None:
    typer.echo(f"gprior: {message}", err=True)
    raise typer.Exit(2)


def _message(error: Exception) -> str:
    """Return the text of an error; one of the operating system without its number."""
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    return str(error) or type(error).__name__


def _with_option(message: str, params: list[Any]) -> str:
    """Return a message with the option that gives the argument that it begins with."""
    start = re.match(r"cannot write|\w+", message)
    if start is None or "--" in message:
        return message
    name = PARAMETERS.get(start[0], start[0])
    options = {param.name.strip("_"): param for param in params}
    if name in options:
        param = options[name]
        flag = param.opts[0] if param.param_type_name == "option" else None
        return f"{message} ({' '.join(filter(None, (flag, param.metavar)))})"
    if "set" in options:
        from gprior.commands.arguments import constant_names

        if name in constant_names():
            return f"{message} (--set {name}=VALUE)"
    return message


def say(text: str) -> None:
    """Print the summary of a command that has written its results.

    What cannot be printed is dropped, because it does not undo the success.
    """
    try:
        typer.echo(text)
    except OSError:  # the reader of the output has gone, or the disk is full
        with suppress(OSError, ValueError):  # Python would try again at its end
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class _Tolerant:
    """A stream of messages that drops what cannot be written."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def _tolerant_streams() -> Iterator[None]:
    """Let no output become an error, neither of the progress nor of a summary.

    A character that the output cannot encode becomes a question mark: a redirected output in
    cp1252, for example, has no minus sign U+2212. A stream that is closed is replaced by one that
    goes nowhere.
    """
    before = sys.stdout, sys.stderr
    for stream in before:
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    with open(os.devnull, "w", encoding="utf-8") as nowhere:  # noqa: PTH123
        sys.stdout = before[0] or nowhere
        sys.stderr = _Tolerant(before[1] or nowhere)
        try:
            yield
        finally:
            sys.stdout, sys.stderr = before


@contextmanager
def _plain_warnings() -> Iterator[None]:
    """Show a warning as one line, without the source code that caused it."""

    def show(message: Any, category: Any, *place: Any, **more: Any) -> None:
        print(f"gprior: warning: {message}", file=sys.stderr)

    shown, warnings.showwarning = warnings.showwarning, show
    try:
        yield
    finally:
        warnings.showwarning = shown
