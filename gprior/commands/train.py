"""``gprior train``: train a prior in a folder, with checkpoints; look at a folder of images."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

from gprior.checkpoints import save_prior
from gprior.checks import InputError, integer
from gprior.commands.devices import pick_device
from gprior.commands.model_card import write_card
from gprior.commands.train_options import Options
from gprior.files import restate, write_json, write_text
from gprior.training import Run, Survey, Trainer, draw_curve, draw_samples

__all__ = ["Options", "check", "follow", "run"]

Training = TypeVar("Training", bound=Run)


def run(
    options: Options, out: Path, *, every: int = 500, resume: bool = False, device: str = "auto"
) -> str:
    """Train a prior in a folder.

    Every `every` steps, it writes ``checkpoint.pt``, ``samples.png`` (with rows of real images),
    ``curve.json`` and ``curve.png``. At the end it writes the prior and its model card,
    ``model_card.md`` and ``model_card.json``. If files of a folder cannot be read,
    ``skipped.txt`` has their names and the reasons.

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
    survey = None
    if options.data != "phantoms":
        survey = options.survey()
        _write_skipped(survey, out)
    trainer = options.trainer(options.images(survey), place)
    if resume:
        trainer.restore(out / "checkpoint.pt")
    real = trainer.frechet_real()

    def report(trainer: Trainer) -> None:
        _report(trainer, out, real)

    again = f"{options.command(out)} --resume"
    follow(trainer, out / "checkpoint.pt", again, every, report)
    return _finish(trainer, options, out, real)


def follow(
    trainer: Training, checkpoint: Path, again: str, every: int, report: Callable[[Training], None]
) -> None:
    """Train to the end with a progress bar; Ctrl-C saves a checkpoint and stops.

    Parameters
    ----------
    trainer : Run
        The training.
    checkpoint : Path
        The file of its checkpoint.
    again : str
        The command that resumes.
    every : int
        Number of steps between measurements.
    report : callable
        Called after each of them. It saves a checkpoint.

    Raises
    ------
    KeyboardInterrupt
        On Ctrl-C. The message has the command that resumes.
    """
    steps = trainer.settings.steps
    with (
        _stoppable() as stopped,
        tqdm(total=steps, initial=trainer.step, desc="training", unit="step") as bar,
    ):

        def stop() -> None:
            if stopped.is_set():
                trainer.save(checkpoint)
                raise KeyboardInterrupt(
                    f"stopped after {trainer.step} steps, checkpoint saved; continue with\n"
                    f"  {again}"
                )

        def tick(values: dict[str, float]) -> None:
            bar.update()
            measured = {k: v for k, v in (trainer.curve or [{}])[-1].items() if k in trainer.SHOWN}
            bar.set_postfix({**values, **measured}, refresh=False)
            if trainer.step % every and trainer.step < steps:
                stop()  # at a checkpoint, `reported` stops after it has added to the curve

        def reported(trainer: Training) -> None:
            report(trainer)
            if trainer.step < steps:
                stop()

        trainer.train(tick, every, reported)


def _make(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        message = f"cannot write to {out}: {error.strerror}; choose another place"
        raise restate(error, message) from error


def _open(options: Options, out: Path, resume: bool) -> None:
    """Make the folder and save the options. Refuse to mix two runs."""
    _make(out)
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
        # Options that were added since then had their default values.
        before = {field.name: field.default for field in fields(options)} | before
        changed = [name for name, value in asdict(options).items() if before[name] != value]
        if changed:
            was = ", ".join(f"{name}={before[name]}" for name in changed)
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


def check(options: Options, out: Path | None = None) -> str:
    """Look at every file of a training folder, without training.

    Parameters
    ----------
    options : Options
        What a training would be given.
    out : Path, optional
        Folder for ``skipped.txt``, which has the name and reason of each file that cannot be read.

    Returns
    -------
    str
        What was found: counts, formats, sizes, ranges, classes, split, and what was passed over.

    Raises
    ------
    InputError
        If the folder cannot be trained on.
    OSError
        If `out` cannot be written to.
    """
    if options.data == "phantoms":
        raise InputError("data must be a folder of images for --check, got 'phantoms'")
    survey = options.survey()
    if out is not None and survey.skipped:
        _make(out)
        _write_skipped(survey, out)
    return survey.report()


def _write_skipped(survey: Survey, out: Path) -> None:
    """Write the names of the files that cannot be read, or remove the list of an earlier run."""
    path = out / "skipped.txt"
    if survey.skipped:
        lines = "".join(f"{name}\t{reason}\n" for name, reason in survey.skipped)
        write_text(path, lines, "the list of files that cannot be read")
    else:
        path.unlink(missing_ok=True)


def _finish(trainer: Trainer, options: Options, out: Path, real: float) -> str:
    """Save the prior and its model card."""
    prior = trainer.finish()
    path = out / f"{options.name}.safetensors"
    save_prior(prior, path)
    write_card(out, options, trainer, prior.record)
    return (
        f"trained {trainer.step} steps in {trainer.seconds:.0f} s; Fréchet distance "
        f"{prior.record['frechet']}, of real images {real:.2f}\nwritten to {path}"
    )
