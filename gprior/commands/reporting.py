"""How the errors, warnings and output of a command reach the user.

A user's mistake is an `InputError` or an `OSError`: it is reported in one message, with exit code
2. Any other error is a bug and keeps its traceback.
"""

from __future__ import annotations

import io
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer
from typer.core import TyperGroup

from gprior.checks import InputError

__all__ = ["Commands"]

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
        _replace_unknown_characters()
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


def _replace_unknown_characters() -> None:
    """Print a question mark for a character that the output cannot encode.

    A redirected output in cp1252, for example, has no minus sign U+2212. The results are
    written by then, so this must not become an error.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


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
