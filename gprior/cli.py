"""The command line: options and help. Each command is implemented in a module of its own.

Nothing heavy is imported before a command runs, so that ``--help`` answers at once.
"""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gprior import __version__
from gprior.commands.reporting import Commands, say

if TYPE_CHECKING:
    from gprior.commands.task import Options

__all__ = ["main"]

main = typer.Typer(
    cls=Commands,
    help="Solve imaging inverse problems with generative models as priors.\n\n"
    "\b\nExample:\n  gprior demo\n  gprior COMMAND --help",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


class Device(str, Enum):
    """The device to compute on."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class Correction(str, Enum):
    """The correction that follows the search; ``default`` is that of the method."""

    default = "default"
    auto = "auto"
    tv = "tv"
    none = "none"


class Fit(str, Enum):
    """How an image is fitted to the prior's size."""

    pad = "pad"
    crop = "crop"
    stretch = "stretch"


class Engine(str, Enum):
    """Who does the work of a batch."""

    local = "local"
    ray = "ray"


Out = Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder for the results.")]
OnDevice = Annotated[Device, typer.Option(help="Device to compute on.")]
Seed = Annotated[int, typer.Option(metavar="N", help="Random seed.")]
PriorName = Annotated[
    str, typer.Argument(metavar="FILE|NAME", help="Checkpoint file, or name of an embedded prior.")
]

# The options of `reconstruct`, which `batch` has, too.
Spec = Annotated[
    str,
    typer.Option(
        "--operator",
        "-A",
        metavar="SPEC",
        help="Operator; see `gprior operators`.",
    ),
]
Method = Annotated[str, typer.Option(metavar="NAME", help="Reconstruction method.")]
PriorOption = Annotated[str, typer.Option(metavar="NAME|FILE", help="Generative model.")]
Simulate = Annotated[bool, typer.Option("--simulate", help="Measure the image INPUT first.")]
Noise = Annotated[
    float | None, typer.Option(metavar="STD", help="Standard deviation of the noise.")
]
Fitting = Annotated[Fit, typer.Option(help="Fit an image to the prior's size.")]
Intensity = Annotated[
    str | None,
    typer.Option(metavar="LO,HI", help="Pixel values that become 0 and 1, or percentile."),
]
OneSlice = Annotated[
    int | None,
    typer.Option("--slice", metavar="N", help="Slice of a volume; default: the middle one."),
]
Axis = Annotated[
    int | None,
    typer.Option(metavar="N", help="Voxel axis of the slices: 0, 1 or 2."),
]
Slices = Annotated[
    str | None, typer.Option(metavar="SLICES", help="Slices of a volume: all or LO-HI.")
]
Constants = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="Constant of the method; repeatable."),
]
Budget = Annotated[
    float | None, typer.Option(metavar="N", help="Limit of generator passes per image.")
]
Label = Annotated[
    int | None, typer.Option(metavar="N", help="Class of the image; default: the best one.")
]
Restarts = Annotated[int, typer.Option(metavar="N", help="Number of runs; the best is kept.")]
Correcting = Annotated[
    Correction,
    typer.Option(
        metavar="MODE",
        show_default=False,
        help="Repair of the image: default, auto, tv or none.",
    ),
]
Check = Annotated[bool, typer.Option(help="Simulate whether the prior fits.")]


def _options(given: dict[str, Any]) -> Options:
    """Return the options of a reconstruction from the parameters of a command."""
    from gprior.commands.task import Options

    names = (
        "operator", "solver", "prior", "simulate", "noise", "intensity", "axis", "slices", "budget",
        "label", "restarts", "check", "seed",
    )  # fmt: skip
    return Options(
        **{name: given[name] for name in names},
        fit=None if given["fit"] is Fit.pad else given["fit"].value,
        slice=given["slice_"],
        constants=tuple(given["set_"] or ()),
        correction=None if given["correction"] is Correction.none else given["correction"].value,
        device=given["device"].value if "device" in given else "auto",
        samples=given.get("samples", 0),
    )


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
    """Reconstruct example images, in about two minutes.

    The images are phantoms and real MR and CT slices. Prints a table of scores and
    writes report.html, figure.png and metrics.json.

    \b
    Example:
      gprior demo --out demo
    """
    from gprior.commands.demo import run

    say(run(out))


@main.command()
def reconstruct(
    source: Annotated[
        Path, typer.Argument(metavar="INPUT", help="Measurements, or with --simulate an image.")
    ],
    out: Out,
    operator: Spec,
    solver: Method = "auto",
    prior: PriorOption = "phantom-64",
    simulate: Simulate = False,
    noise: Noise = None,
    fit: Fitting = Fit.pad,
    intensity: Intensity = None,
    slice_: OneSlice = None,
    axis: Axis = None,
    slices: Slices = None,
    set_: Constants = None,
    budget: Budget = None,
    label: Label = None,
    restarts: Restarts = 1,
    samples: Annotated[int, typer.Option(metavar="N", help="Number of posterior samples.")] = 0,
    correction: Correcting = Correction.default,
    check: Check = True,
    device: OnDevice = Device.auto,
    seed: Seed = 0,
) -> None:
    """Reconstruct images from measurements, real or simulated.

    \b
    Example:
      gprior reconstruct scan.nii.gz -o out -A circulant:0.1 --simulate
      gprior reconstruct y.npy -o out -A mask:m.png --noise 0.02 --set lr=0.1
      gprior reconstruct kspace.h5 -o out -A mri --slices all
    """
    given = locals()
    from gprior.commands.reconstruct import run

    options = _options(given)
    say(run(source, out, options))


@main.command()
def calibrate(
    prior: PriorName,
    operator: Annotated[
        str,
        typer.Option("--operator", "-A", metavar="SPEC", help="Operator; see `gprior operators`."),
    ],
    images: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder of images like yours, at least 20.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="JSON", help="File to write.")],
    noise: Annotated[float, typer.Option(metavar="STD", help="Standard deviation of the noise.")],
    samples: Annotated[int, typer.Option(metavar="N", help="Posterior samples per image.")] = 16,
    level: Annotated[
        float, typer.Option(metavar="X", help="Wanted share of pixels in their intervals.")
    ] = 0.9,
    label: Annotated[
        int | None, typer.Option(metavar="N", help="Class of the images; default: drawn.")
    ] = None,
    device: OnDevice = Device.auto,
    seed: Seed = 0,
) -> None:
    """Calibrate the intervals of posterior samples on images like yours.

    \b
    Example:
      gprior calibrate phantom-64 -A downsample:4 --noise 0.02 --images slices/ -o c.json
    """
    from gprior.commands.calibrate import run

    say(
        run(
            prior,
            operator,
            images,
            out,
            noise=noise,
            samples=samples,
            level=level,
            label=label,
            device=device.value,
            seed=seed,
        )
    )


@main.command()
def batch(
    source: Annotated[
        Path, typer.Argument(metavar="IN", help="Folder, or list of files: .csv or .jsonl.")
    ],
    out: Out,
    operator: Spec,
    solver: Method = "auto",
    prior: PriorOption = "phantom-64",
    simulate: Simulate = False,
    noise: Noise = None,
    fit: Fitting = Fit.pad,
    intensity: Intensity = None,
    slice_: OneSlice = None,
    axis: Axis = None,
    slices: Slices = None,
    set_: Constants = None,
    budget: Budget = None,
    label: Label = None,
    restarts: Restarts = 1,
    correction: Correcting = Correction.default,
    check: Check = True,
    seed: Seed = 0,
    devices: Annotated[
        str, typer.Option(metavar="NAMES", help="all, cpu, or such as cuda:0,1.")
    ] = "all",
    workers: Annotated[
        int, typer.Option(metavar="N", help="Number of processes for each device.")
    ] = 1,
    engine: Annotated[Engine, typer.Option(help="Who works.")] = Engine.local,
    address: Annotated[
        str | None, typer.Option(metavar="ADDR", help="Address of the Ray cluster, or auto.")
    ] = None,
    join: Annotated[bool, typer.Option("--join", help="Help a run of this folder.")] = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Try again what failed.")
    ] = False,
    patience: Annotated[
        float, typer.Option(metavar="S", help="Seconds until a silent worker counts as dead.")
    ] = 60.0,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show no progress.")] = False,
) -> None:
    """Reconstruct many files. A run that was stopped or killed continues.

    IN is a folder, or a list with the columns path and perhaps id, operator, mask,
    noise, label, seed. Exits with 1 if items failed.

    \b
    Example:
      gprior batch scans/ -o out -A circulant:0.1 --simulate
      gprior batch list.csv -o out -A mask:m.png --devices cuda:0,1
      gprior batch list.csv -o out -A mask:m.png --join
    """
    given = locals()
    from gprior.commands.batch import How, run_batch

    options = _options(given)
    how = How(devices, workers, engine.value, address, patience, join, retry_failed, quiet)
    text, code = run_batch(source, out, options, how)
    say(text)
    if code:
        raise typer.Exit(code)


@main.command()
def status(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder of a run of batch.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what a run of batch has done, what failed and what is left.

    \b
    Example:
      gprior status out
    """
    from gprior.commands.status import describe_run

    typer.echo(describe_run(out, as_json))


@main.command()
def operators() -> None:
    """List the operators that -A takes.

    \b
    Example:
      gprior operators
    """
    from gprior.operators import OPERATORS

    typer.echo("\n".join(f"{form}\n    {text}" for form, text in OPERATORS.items()))


@main.command()
def info(prior: PriorName) -> None:
    """Describe a prior: architecture, image size, classes, origin.

    \b
    Example:
      gprior info phantom-64
    """
    from gprior.commands.info import describe

    typer.echo(describe(prior))


@main.command()
def convert(
    source: Annotated[str, typer.Argument(metavar="IN", help="Checkpoint to convert.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="New file, ending in .safetensors.")],
) -> None:
    """Convert a published checkpoint to the format of gprior.

    The new file records the origin, the SHA-256 and, where it is known, the licence
    of the source. The source is read as data: code inside it never runs.

    \b
    Example:
      gprior convert network.pkl faces.safetensors
    """
    from gprior.commands.convert import convert

    say(convert(source, out))


@main.command()
def sample(
    prior: PriorName,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="PNG", help="PNG file to write.")],
    n: Annotated[int, typer.Option("-n", metavar="N", help="Number of images.")] = 16,
    seed: Seed = 0,
    label: Annotated[
        int | None, typer.Option(metavar="N", help="Class of the images; by default random.")
    ] = None,
    truncation: Annotated[
        float | None,
        typer.Option(metavar="X", help="Truncation: psi of StyleGAN2, or that of BigGAN."),
    ] = None,
    device: OnDevice = Device.auto,
) -> None:
    """Write a grid of images that a prior generates.

    \b
    Example:
      gprior sample phantom-64 -n 16 -o grid.png
    """
    from gprior.commands.devices import pick_device
    from gprior.commands.sample import sample

    say(sample(prior, out, n, seed, label, truncation, str(pick_device(device.value))))


@main.command()
def train(
    data: Annotated[
        str, typer.Argument(metavar="DATA", help="Folder of images, or 'phantoms'.")
    ] = "phantoms",
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="DIR", help="Folder for the results; required."),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Report on the folder DATA, and do not train.")
    ] = False,
    resolution: Annotated[int, typer.Option(metavar="N", help="Image side in pixels.")] = 64,
    channels: Annotated[
        int, typer.Option(metavar="N", help="1 for gray, 3 for colour images.")
    ] = 1,
    count: Annotated[int, typer.Option(metavar="N", help="Number of phantoms to draw.")] = 30000,
    intensity: Annotated[
        str | None,
        typer.Option(
            metavar="LO,HI",
            help="Pixel values that become 0 and 1, or percentile.",
        ),
    ] = None,
    slices: Annotated[
        str,
        typer.Option(
            metavar="SLICES",
            help="Slices: middle, all or LO-HI.",
        ),
    ] = "middle",
    axis: Annotated[
        int | None,
        typer.Option(metavar="N", help="Voxel axis of the slices: 0, 1 or 2."),
    ] = None,
    folders: Annotated[
        str,
        typer.Option(metavar="KIND", help="Subfolders: classes, patients."),
    ] = "classes",
    steps: Annotated[int, typer.Option(metavar="N", help="Number of training steps.")] = 12500,
    batch: Annotated[int, typer.Option(metavar="N", help="Images per training step.")] = 16,
    lr: Annotated[float, typer.Option(metavar="X", help="Learning rate of Adam.")] = 0.002,
    gamma: Annotated[float, typer.Option(metavar="X", help="Weight of the R1 penalty.")] = 0.5,
    z_dim: Annotated[int, typer.Option(metavar="N", help="Dimension of the latent z.")] = 64,
    w_dim: Annotated[int, typer.Option(metavar="N", help="Dimension of the style w.")] = 128,
    channel_base: Annotated[
        int, typer.Option(metavar="N", help="Feature maps times resolution.")
    ] = 2048,
    channel_max: Annotated[
        int, typer.Option(metavar="N", help="Maximum number of feature maps.")
    ] = 128,
    mapping_layers: Annotated[
        int, typer.Option(metavar="N", help="Layers of the mapping network.")
    ] = 4,
    noise: Annotated[
        bool, typer.Option("--noise/--no-noise", help="With or without noise inputs.")
    ] = True,
    overparameterized: Annotated[
        bool, typer.Option("--overparameterized", help="One style per output filter.")
    ] = False,
    augment: Annotated[
        str, typer.Option(metavar="P", help="none, adaptive or a probability.")
    ] = "none",
    augment_with: Annotated[
        str | None,
        typer.Option(metavar="NAMES", help="Such as flip,shift,rotate; see the manual."),
    ] = None,
    path_length: Annotated[
        float, typer.Option(metavar="X", help="Weight of the path lengths.")
    ] = 0.0,
    every: Annotated[int, typer.Option(metavar="N", help="Steps between checkpoints.")] = 500,
    seed: Seed = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in DIR.")] = False,
    device: OnDevice = Device.auto,
) -> None:
    """Train a StyleGAN2 prior. Ctrl-C saves a checkpoint and stops.

    \b
    Example:
      gprior train slices/ --check
      gprior train slices/ --out run --resolution 128 --channel-base 8192
    """
    from gprior.checks import InputError
    from gprior.commands.train import Options, check as check_folder, run

    options = Options(
        data=data,
        resolution=resolution,
        channels=channels,
        count=count,
        intensity=intensity,
        slices=slices,
        axis=axis,
        folders=folders,
        steps=steps,
        batch=batch,
        lr=lr,
        gamma=gamma,
        z_dim=z_dim,
        w_dim=w_dim,
        channel_base=channel_base,
        channel_max=channel_max,
        mapping_layers=mapping_layers,
        noise=noise,
        overparameterized=overparameterized,
        augment=augment,
        augment_with=augment_with,
        path_length=path_length,
        seed=seed,
    )
    if check:
        typer.echo(check_folder(options, out))
    elif out is None:
        raise InputError("out must be given: the folder for the results (--out DIR)")
    else:
        say(run(options, out, every=every, resume=resume, device=device.value))


@main.command()
def train_encoder(
    prior: PriorName,
    out: Annotated[
        Path,
        typer.Option("--out", "-o", metavar="FILE", help="File to write, of type .safetensors."),
    ],
    operators: Annotated[
        list[str] | None,
        typer.Option(
            "--operator",
            "-A",
            metavar="SPEC",
            help="Operator, repeatable; default: the usual ones.",
        ),
    ] = None,
    noise: Annotated[
        float, typer.Option(metavar="STD", help="Largest standard deviation of the noise.")
    ] = 0.1,
    space: Annotated[str, typer.Option(metavar="NAME", help="Space: z, w or w+.")] = "w",
    steps: Annotated[int, typer.Option(metavar="N", help="Number of training steps.")] = 12000,
    batch: Annotated[int, typer.Option(metavar="N", help="Images per training step.")] = 32,
    lr: Annotated[float, typer.Option(metavar="X", help="Learning rate of Adam.")] = 0.001,
    every: Annotated[int, typer.Option(metavar="N", help="Steps between checkpoints.")] = 500,
    seed: Seed = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run of FILE.")] = False,
    device: OnDevice = Device.auto,
) -> None:
    """Train an encoder, from which methods can start. Ctrl-C saves a checkpoint and stops.

    \b
    Example:
      gprior train-encoder phantom-64 -A circulant:0.1 --noise 0.02 -o encoder.safetensors
    """
    from gprior.commands.train_encoder import EncoderSettings, run

    settings = EncoderSettings(steps=steps, batch=batch, lr=lr, space=space, seed=seed)
    say(
        run(
            prior,
            out,
            settings,
            operators or (),
            noise,
            every=every,
            resume=resume,
            device=device.value,
        )
    )
