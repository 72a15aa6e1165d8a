"""What ``gprior train`` does: a training run in a folder, its checkpoints and its model card."""

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
from gprior.checks import InputError
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

HELD_OUT = 2048  # phantoms that the Fréchet distance compares with


@dataclass(frozen=True)
class Options:
    """What decides the weights that come out; the defaults are those of ``phantom-64``.

    Attributes
    ----------
    data : str
        ``"phantoms"``, or a folder of images.
    resolution, channels : int
        Side in pixels; 1 or 3 channels, phantoms have 1.
    count : int
        Phantoms to draw; of no effect on a folder.
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
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not (self.lr > 0 and self.gamma >= 0):
            raise InputError(f"lr must be positive and gamma not negative: {self.lr}, {self.gamma}")
        if self.data == "phantoms" and self.channels != 1:
            raise InputError(f"phantoms have 1 channel, got channels={self.channels}")

    @property
    def name(self) -> str:
        """The name of the prior, such as phantom-64."""
        kind = "phantom" if self.data == "phantoms" else Path(self.data).resolve().name
        return f"{kind}-{self.resolution}"

    def command(self, out: Path) -> str:
        """Return the command line with these options, defaults left out."""
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
        """Return the trainer of these images, at its first step."""
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

    Every so many steps it writes ``checkpoint.pt``, ``samples.png`` (with a row of real
    images), ``curve.json`` and ``curve.png``; at the end the prior and ``model_card.md``.

    Parameters
    ----------
    options : Options
        Data, architecture and constants.
    out : Path
        The folder.
    every : int
        Steps between checkpoints.
    resume : bool
        Go on from the folder's checkpoint; the options must be those it was begun with.
    device : str
        auto, cpu or cuda.

    Returns
    -------
    str
        What was done, for the terminal.

    Raises
    ------
    ValueError
        If an option is out of range, the data cannot be used, the folder holds another run, or
        there is nothing to resume.
    OSError
        If the folder cannot be written to.
    KeyboardInterrupt
        On Ctrl-C, after a checkpoint; the message has the command that resumes.
    """
    if every < 1:
        raise InputError(f"every must be at least 1, got {every}")
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
                    f"stopped after {trainer.step} steps, checkpoint saved; go on with\n  {again}"
                )

        def tick(values: dict[str, float]) -> None:
            bar.update()
            curve = {"frechet": trainer.curve[-1]["frechet"]} if trainer.curve else {}
            bar.set_postfix({**values, **curve}, refresh=False)
            if trainer.step % every and trainer.step < options.steps:
                stop()  # on other steps the curve is first to get its point

        def report(trainer: Trainer) -> None:
            _report(trainer, out, real)
            if trainer.step < options.steps:
                stop()

        trainer.train(tick, every, report)
    return _finish(trainer, options, out, real)


def _open(options: Options, out: Path, resume: bool) -> None:
    """Make the folder and note the options; refuse to mix two runs."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        message = f"cannot write to {out}: {error.strerror}; choose another place"
        raise restate(error, message) from error
    begun = (out / "checkpoint.pt").exists()
    if begun and not resume:
        raise InputError(f"{out} holds a training run; add --resume, or choose another --out")
    if resume and not begun:
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
            raise InputError(f"{out} was begun with {was}; resume with the same options")
    write_json(path, asdict(options), "the options")


@contextmanager
def _stoppable() -> Iterator[threading.Event]:
    """Turn the first Ctrl-C into a request that is met between two steps; the second aborts."""
    stopped = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stopped  # signals reach the main thread alone
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
    """Save the prior and its card."""
    prior = trainer.finish()
    path = out / f"{options.name}.safetensors"
    save_prior(prior, path)
    record = prior.record
    card = f"""# {options.name}

A {"class-conditional " if record["classes"] else ""}StyleGAN2 generator of
{options.resolution}x{options.resolution} images, {options.channels} channel(s), with its
discriminator. What it generates is synthetic: not for diagnosis.

| | |
|---|---|
| Data | {record["data"]} |
| Classes | {", ".join(record["classes"]) or "none"} |
| Command | `{options.command(out)}` |
| Training | {trainer.step} steps of {options.batch} images, {trainer.seconds:.0f} s |
| Fréchet distance, samples to held-out images | {record["frechet"]} |
| Fréchet distance, real to held-out images | {record["frechet_real"]} |
| Licence | {_licence(options)} |

The Fréchet distance is on random features, independent of the discriminator; read it beside
the value of real images.

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
    return "as the images of the folder allow"
