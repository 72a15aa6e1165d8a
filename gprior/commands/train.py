"""``gprior train``: train a prior in a folder, with checkpoints and a model card."""

from __future__ import annotations

import json
import shlex
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from gprior.checkpoints import save_prior
from gprior.checks import InputError, integer, number
from gprior.commands.devices import pick_device
from gprior.files import restate, write_json, write_text
from gprior.training import (
    ImageSet,
    Settings,
    Trainer,
    draw_curve,
    draw_samples,
    folder_set,
    phantom_set,
)

__all__ = ["Options", "run"]

HELD_OUT = 2048  # number of phantoms that the Fréchet distance compares with


@dataclass(frozen=True)
class Options:
    """The options that determine the trained weights. The defaults are those of ``phantom-64``.

    Attributes
    ----------
    data : str
        ``"phantoms"``, or a folder of images.
    resolution, channels : int
        Image side in pixels; number of channels, 1 or 3. Phantoms have 1.
    count : int
        Number of phantoms to draw. A folder of images ignores it.
    steps, batch, lr, gamma, seed
        See `Settings`.
    z_dim, w_dim, channel_base, channel_max, mapping_layers
        See `StyleGAN2`.
    """

    data: str = "phantoms"
    resolution: int = 64
    channels: int = 1
    count: int = 30000
    steps: int = 12500
    batch: int = 16
    lr: float = 0.002
    gamma: float = 0.5
    z_dim: int = 64
    w_dim: int = 128
    channel_base: int = 2048
    channel_max: int = 128
    mapping_layers: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("count", "steps", "batch"):
            integer(name, getattr(self, name), least=1)
        number("lr", self.lr, above=0)
        number("gamma", self.gamma, least=0)
        if self.data == "phantoms" and self.channels != 1:
            raise InputError(
                f"channels must be 1, because phantoms have 1 channel, got {self.channels}"
            )

    @property
    def name(self) -> str:
        """The name of the prior, such as phantom-64."""
        kind = "phantom" if self.data == "phantoms" else Path(self.data).resolve().name
        return f"{kind}-{self.resolution}"

    def command(self, out: Path) -> str:
        """Return the command line with these options, without those that have their default."""
        words = ["gprior", "train", *([] if self.data == "phantoms" else [self.data])]
        words += ["--out", str(out)]
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name != "data" and value != field.default:
                words += [f"--{field.name.replace('_', '-')}", str(value)]
        return shlex.join(words)

    def images(self) -> ImageSet:
        """Draw or read the training images, with a progress bar."""
        phantoms = self.data == "phantoms"
        with tqdm(total=self.count if phantoms else None, desc="images", unit="image") as bar:
            if phantoms:
                held_out = min(HELD_OUT, self.count)
                return phantom_set(self.resolution, self.count, held_out, bar.update)
            return folder_set(Path(self.data), self.resolution, self.channels, bar.update)

    def trainer(self, data: ImageSet, device: torch.device) -> Trainer:
        """Return a trainer for these images, before its first step."""
        config = {
            "img_resolution": self.resolution,
            "img_channels": self.channels,
            "c_dim": len(data.classes),
            "z_dim": self.z_dim,
            "w_dim": self.w_dim,
            "channel_base": self.channel_base,
            "channel_max": self.channel_max,
            "num_mapping_layers": self.mapping_layers,
        }
        settings = Settings(
            steps=self.steps, batch=self.batch, lr=self.lr, r1_gamma=self.gamma, seed=self.seed
        )
        return Trainer(data, config, settings, device)


def run(
    options: Options, out: Path, *, every: int = 500, resume: bool = False, device: str = "auto"
) -> str:
    """Train a prior in a folder.

    Every `every` steps, it writes ``checkpoint.pt``, ``samples.png`` (with rows of real images),
    ``curve.json`` and ``curve.png``. At the end it writes the prior and ``model_card.md``.

    Parameters
    ----------
    options : Options
        Data, architecture and constants.
    out : Path
        The folder.
    every : int
        Number of steps between checkpoints.
    resume : bool
        Whether to continue from the checkpoint in the folder. The options must be those that
        the run was started with.
    device : str
        ``"auto"``, ``"cpu"`` or ``"cuda"``.

    Returns
    -------
    str
        A summary for the terminal.

    Raises
    ------
    InputError
        If an option is out of range, the data cannot be used, the folder has another run, or
        there is nothing to resume.
    OSError
        If the folder cannot be written to.
    KeyboardInterrupt
        On Ctrl-C, after a checkpoint is saved. The message has the command that resumes.
    """
    integer("every", every, least=1)
    place = pick_device(device)
    _open(options, out, resume)
    trainer = options.trainer(options.images(), place)
    if resume:
        trainer.restore(out / "checkpoint.pt")
    real = trainer.frechet_real()
    again = f"{options.command(out)} --resume"
    with (
        _stoppable() as stopped,
        tqdm(total=options.steps, initial=trainer.step, desc="training", unit="step") as bar,
    ):

        def stop() -> None:
            if stopped.is_set():
                trainer.save(out / "checkpoint.pt")
                raise KeyboardInterrupt(
                    f"stopped after {trainer.step} steps, checkpoint saved; continue with\n"
                    f"  {again}"
                )

        def tick(values: dict[str, float]) -> None:
            bar.update()
            curve = {"frechet": trainer.curve[-1]["frechet"]} if trainer.curve else {}
            bar.set_postfix({**values, **curve}, refresh=False)
            if trainer.step % every and trainer.step < options.steps:
                stop()  # at a checkpoint, `report` stops after it has added to the curve

        def report(trainer: Trainer) -> None:
            _report(trainer, out, real)
            if trainer.step < options.steps:
                stop()

        trainer.train(tick, every, report)
    return _finish(trainer, options, out, real)


def _open(options: Options, out: Path, resume: bool) -> None:
    """Make the folder and save the options. Refuse to mix two runs."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        message = f"cannot write to {out}: {error.strerror}; choose another place"
        raise restate(error, message) from error
    started = (out / "checkpoint.pt").exists()
    if started and not resume:
        raise InputError(f"{out} has a training run; add --resume, or choose another --out")
    if resume and not started:
        raise InputError(f"{out} has no checkpoint.pt to resume from; leave --resume out")
    path = out / "options.json"
    if resume and path.exists():
        try:
            before = json.loads(path.read_text())
        except ValueError as error:
            raise InputError(f"{path} is damaged; choose another --out") from error
        changed = [name for name, value in asdict(options).items() if before.get(name) != value]
        if changed:
            was = ", ".join(f"{name}={before.get(name)}" for name in changed)
            raise InputError(f"{out} was started with {was}; resume with the same options")
    write_json(path, asdict(options), "the options")


@contextmanager
def _stoppable() -> Iterator[threading.Event]:
    """Turn the first Ctrl-C into a request to stop after the step. The second one aborts."""
    stopped = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stopped  # only the main thread gets signals
        return
    before = signal.getsignal(signal.SIGINT)

    def ask(*args: Any) -> None:
        stopped.set()
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, ask)
    try:
        yield stopped
    finally:
        signal.signal(signal.SIGINT, before)


def _report(trainer: Trainer, out: Path, real: float) -> None:
    trainer.save(out / "checkpoint.pt")
    write_json(out / "curve.json", {"frechet_real": real, "curve": trainer.curve}, "the curve")
    draw_curve(out / "curve.png", trainer.curve, real)
    samples = trainer.ema.sample(48).cpu()
    draw_samples(out / "samples.png", samples, trainer.data.images[:16] / 255)


def _finish(trainer: Trainer, options: Options, out: Path, real: float) -> str:
    """Save the prior and its model card."""
    prior = trainer.finish()
    path = out / f"{options.name}.safetensors"
    save_prior(prior, path)
    record = prior.record
    card = f"""# {options.name}

A {"class-conditional " if record["classes"] else ""}StyleGAN2 generator of
{options.resolution}x{options.resolution} images, {options.channels} channel(s), with its
discriminator. The images that it generates are synthetic and not for diagnosis.

| | |
|---|---|
| Data | {record["data"]} |
| Classes | {", ".join(record["classes"]) or "none"} |
| Command | `{options.command(out)}` |
| Training | {trainer.step} steps of {options.batch} images, {trainer.seconds:.0f} s |
| Fréchet distance, samples to held-out images | {record["frechet"]} |
| Fréchet distance, real to held-out images | {record["frechet_real"]} |
| Licence | {_licence(options)} |

The Fréchet distance is computed on random features, which are independent of the discriminator.
Compare it with the value of real images.

![Distance at each checkpoint](curve.png)

![Samples, and real images below](samples.png)
"""
    write_text(out / "model_card.md", card, "the model card")
    return (
        f"trained {trainer.step} steps in {trainer.seconds:.0f} s; Fréchet distance "
        f"{record['frechet']}, of real images {real:.2f}\nwritten to {path}"
    )


def _licence(options: Options) -> str:
    if options.data == "phantoms":
        return "BSD-3-Clause; the data are procedural"
    return "as the licence of the training images allows"
