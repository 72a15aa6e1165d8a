"""The command line: options and help. Each command's body is in a module of its own.

Nothing heavy is imported before a command runs, so that ``--help`` answers at once.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from gprior import __version__

__all__ = ["main"]


class Commands(TyperGroup):
    """The commands, with errors of the user's told in one message and exit code 2."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command; an error that is no user's is a bug and keeps its traceback."""
        try:
            with _plain_warnings():
                return super().invoke(ctx)
        except KeyboardInterrupt as error:
            _fail(str(error) or "interrupted")
        except (ValueError, TypeError, OSError) as error:
            _fail(str(error) or type(error).__name__)
        except (MemoryError, RuntimeError) as error:
            if not isinstance(error, MemoryError) and "memory" not in str(error).lower():
                raise
            _fail("out of memory; lower --set max_batch=N or --restarts, or use --device cpu")


def _fail(message: str) -> None:
    typer.echo(f"gprior: {message}", err=True)
    raise typer.Exit(2)


@contextmanager
def _plain_warnings() -> Iterator[None]:
    """Show warnings as a line for the user, not as a line of source code."""

    def show(message: Any, category: Any, *place: Any, **more: Any) -> None:
        print(f"gprior: warning: {message}", file=sys.stderr)

    shown, warnings.showwarning = warnings.showwarning, show
    try:
        yield
    finally:
        warnings.showwarning = shown


main = typer.Typer(
    cls=Commands,
    help="Imaging inverse problems solved with generative models as priors.\n\n"
    "\b\nExample:\n  gprior demo\n  gprior COMMAND --help",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


class Device(str, Enum):
    """Where to compute."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class Fit(str, Enum):
    """How an image of another size comes onto the prior's grid."""

    pad = "pad"
    crop = "crop"
    stretch = "stretch"


Out = Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder for the results.")]
Where = Annotated[Device, typer.Option(help="Where to compute.")]


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"gprior {__version__}")
        raise typer.Exit


@main.callback()
def _gprior(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


@main.command()
def demo(out: Out = Path("gprior-demo")) -> None:
    """Reconstruct phantoms and real MR and CT slices; takes about two minutes.

    Prints a table and writes report.html, figure.png and metrics.json.

    \b
    Example:
      gprior demo --out demo
    """
    from gprior.commands.demo import run

    typer.echo(run(out))


@main.command()
def reconstruct(
    source: Annotated[Path, typer.Argument(metavar="INPUT", help="Measurements, or an image.")],
    out: Out,
    operator: Annotated[
        str,
        typer.Option(
            "--operator",
            "-A",
            metavar="SPEC",
            help="half-mask, mask:FILE, downsample:4, circulant:0.1 or matrix:FILE.",
        ),
    ],
    solver: Annotated[str, typer.Option(metavar="NAME", help="Method.")] = "lbrgm",
    prior: Annotated[str, typer.Option(metavar="NAME|FILE", help="Generator.")] = "phantom-64",
    simulate: Annotated[
        bool, typer.Option("--simulate", help="INPUT is an image: measure it first.")
    ] = False,
    noise: Annotated[
        float | None, typer.Option(metavar="STD", help="Standard deviation of the noise.")
    ] = None,
    fit: Annotated[Fit, typer.Option(help="An image to the prior's size.")] = Fit.pad,
    intensity: Annotated[
        str | None, typer.Option(metavar="LO,HI", help="Pixel values that become 0 and 1.")
    ] = None,
    slice_: Annotated[
        int | None, typer.Option("--slice", metavar="N", help="Slice of a volume [middle].")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Constant of the method; repeat."),
    ] = None,
    budget: Annotated[
        float | None, typer.Option(metavar="N", help="Generator passes per image.")
    ] = None,
    label: Annotated[
        int | None, typer.Option(metavar="N", help="Class of the image [found].")
    ] = None,
    restarts: Annotated[int, typer.Option(metavar="N", help="Runs; the best is kept.")] = 1,
    device: Where = Device.auto,
    seed: Annotated[int, typer.Option(metavar="N", help="Of every random draw.")] = 0,
) -> None:
    """Reconstruct from measurements, or from an image measured by simulation.

    \b
    Example:
      gprior reconstruct scan.nii.gz -o out -A circulant:0.1 --simulate
      gprior reconstruct y.npy -o out -A mask:m.png --noise 0.02 --set lr=0.1
    """
    from gprior.commands.reconstruct import Options, run

    options = Options(
        operator=operator,
        solver=solver,
        prior=prior,
        simulate=simulate,
        noise=noise,
        fit=None if fit is Fit.pad else fit.value,
        intensity=intensity,
        slice=slice_,
        constants=tuple(set_ or ()),
        budget=budget,
        label=label,
        restarts=restarts,
        device=device.value,
        seed=seed,
    )
    typer.echo(run(source, out, options))


@main.command()
def info(prior: Annotated[str, typer.Argument(metavar="FILE|NAME", help="A prior.")]) -> None:
    """Show what a prior is: architecture, size, classes, origin.

    \b
    Example:
      gprior info phantom-64
    """
    from gprior.commands.info import describe

    typer.echo(describe(prior))


@main.command()
def convert(
    source: Annotated[str, typer.Argument(metavar="IN", help="A checkpoint of others.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The new file, .safetensors.")],
) -> None:
    """Write a checkpoint that others trained in the native format.

    Its origin, SHA-256 and what is known of its licence go with it. The file
    is read as data: code in it is never run.

    \b
    Example:
      gprior convert network.pkl faces.safetensors
    """
    from gprior.commands.convert import convert

    typer.echo(convert(source, out))


@main.command()
def sample(
    prior: Annotated[str, typer.Argument(metavar="FILE|NAME", help="A prior.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="PNG", help="The picture.")],
    n: Annotated[int, typer.Option("-n", metavar="N", help="Number of images.")] = 16,
    seed: Annotated[int, typer.Option(metavar="N", help="Of every random draw.")] = 0,
    label: Annotated[
        int | None, typer.Option(metavar="N", help="Class of the images [drawn].")
    ] = None,
    truncation: Annotated[
        float | None, typer.Option(metavar="X", help="Psi, or BigGAN's truncation.")
    ] = None,
    device: Where = Device.auto,
) -> None:
    """Draw what a prior generates, as a grid.

    \b
    Example:
      gprior sample phantom-64 -n 16 -o grid.png
    """
    from gprior.commands.devices import pick_device
    from gprior.commands.sample import sample

    typer.echo(sample(prior, out, n, seed, label, truncation, str(pick_device(device.value))))


@main.command()
def train(
    out: Out,
    data: Annotated[str, typer.Argument(help="'phantoms', or a folder of images.")] = "phantoms",
    resolution: Annotated[int, typer.Option(metavar="N", help="Side in pixels.")] = 64,
    channels: Annotated[int, typer.Option(metavar="N", help="1 gray, 3 colour.")] = 1,
    count: Annotated[int, typer.Option(metavar="N", help="Phantoms drawn.")] = 30000,
    steps: Annotated[int, typer.Option(metavar="N", help="Optimiser steps.")] = 12500,
    batch: Annotated[int, typer.Option(metavar="N", help="Images per step.")] = 16,
    lr: Annotated[float, typer.Option(metavar="X", help="Adam's rate.")] = 0.002,
    gamma: Annotated[float, typer.Option(metavar="X", help="Weight of R1.")] = 0.5,
    z_dim: Annotated[int, typer.Option(metavar="N", help="Size of z.")] = 64,
    w_dim: Annotated[int, typer.Option(metavar="N", help="Size of w.")] = 128,
    channel_base: Annotated[int, typer.Option(metavar="N", help="Maps times size.")] = 2048,
    channel_max: Annotated[int, typer.Option(metavar="N", help="Most maps.")] = 128,
    mapping_layers: Annotated[int, typer.Option(metavar="N", help="Layers of M.")] = 4,
    every: Annotated[int, typer.Option(metavar="N", help="Steps per checkpoint.")] = 500,
    seed: Annotated[int, typer.Option(metavar="N", help="Of every draw.")] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from DIR.")] = False,
    device: Where = Device.auto,
) -> None:
    """Train a StyleGAN2 prior; Ctrl-C saves a checkpoint.

    \b
    Example:
      gprior train slices/ --out run --resolution 128 --channel-base 8192
    """
    from gprior.commands.train import Options, run

    options = Options(
        data=data,
        resolution=resolution,
        channels=channels,
        count=count,
        steps=steps,
        batch=batch,
        lr=lr,
        gamma=gamma,
        z_dim=z_dim,
        w_dim=w_dim,
        channel_base=channel_base,
        channel_max=channel_max,
        mapping_layers=mapping_layers,
        seed=seed,
    )
    typer.echo(run(options, out, every=every, resume=resume, device=device.value))
