"""``gprior batch``: many files, each with what ``gprior reconstruct`` writes."""

from __future__ import annotations

import hashlib
import shutil
import sys
import threading
import time
import warnings
from collections.abc import Hashable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tqdm import tqdm

from gprior import __version__
from gprior.batch import (
    Folder,
    Settings,
    check_engine,
    devices_of,
    in_words,
    interruptible,
    places,
    run,
    status_of,
    write_status,
    write_summary,
)
from gprior.checks import number
from gprior.commands.manifest import Entry, entries_of
from gprior.commands.outcome import facts_of, shown
from gprior.commands.reconstruct import write_result
from gprior.commands.run_report import thumbnail, write_run_report
from gprior.commands.stacks import BATCH
from gprior.commands.task import Options, Scenes, Task, prepare, solve_each
from gprior.commands.volume import run_volume, summary_of_volume
from gprior.distances import scores
from gprior.files import write_bytes
from gprior.images import STAMP
from gprior.result import Result

__all__ = ["How", "run_batch"]

EVERY = 2.0  # seconds between two looks at the progress of all workers


@dataclass(frozen=True)
class How:
    """How a run is worked on, which changes no result.

    Attributes
    ----------
    devices, workers, engine, address, patience
        See `gprior.solve_many`.
    join : bool
        Whether to help a run: results that are there are not read again.
    retry_failed : bool
        Whether items that failed are tried again.
    quiet : bool
        Whether the progress is not shown.
    """

    devices: str = "all"
    workers: int = 1
    engine: str = "local"
    address: str | None = None
    patience: float = 60.0
    join: bool = False
    retry_failed: bool = False
    quiet: bool = False


def run_batch(source: Path, out: Path, options: Options, how: How) -> tuple[str, int]:
    """Reconstruct the files of a folder or a manifest.

    Parameters
    ----------
    source : Path
        See `gprior.commands.manifest.entries_of`.
    out : Path
        Folder for ``items``, which has a folder for each item; ``summary.csv``, ``failed.json``,
        ``report.html`` and ``status.json``.
    options : Options
        The options of ``gprior reconstruct``.
    how : How
        How to work.

    Returns
    -------
    text : str
        A summary for the terminal.
    code : int
        The exit code: 0 if all items are done, 1 if some failed or are left, 130 after Ctrl-C.

    Raises
    ------
    InputError, OSError
        If the run cannot start: see `gprior.solve_many`.
    """
    devices = devices_of(how.devices, how.engine)
    check_engine(how.engine, how.workers)
    settings = Settings(number("patience", how.patience, above=0))
    if how.engine == "ray":  # its workers have folders of their own
        source, out = source.resolve(), out.resolve()
    job = BatchJob({entry.id: entry for entry in entries_of(source, options)}, options, out)
    folder = Folder(out)
    folder.begin(job.facts(), job.inputs())
    if not how.join:
        for name in folder.redo_damaged(job.items):
            tqdm.write(f"gprior: the results of {name} were damaged, and are computed again")
    if how.retry_failed:
        folder.retry_failed()
    stop = threading.Event()
    working = run(job, folder, how.engine, devices, how.workers, settings, how.address, stop)

    def interrupted() -> None:
        print("\ngprior: stopping; press Ctrl-C again to stop at once", file=sys.stderr)
        stop.set()

    with interruptible(interrupted):
        said = _watch(working, folder, len(job.items), how.quiet)
    return _finish(folder, job, said, stop.is_set())


def _watch(working: Any, folder: Folder, total: int, quiet: bool) -> list[str]:
    """Do the work, and show the progress of all workers. Return what they reported."""
    looked = 0.0
    with tqdm(
        total=total, initial=status_of(folder)["done"], desc="items", unit="item", disable=quiet
    ) as bar:
        said: list[str] | None = None
        while said is None:
            try:
                next(working)
            except StopIteration as end:
                said = list(end.value)
            if said is not None or time.monotonic() > looked + EVERY:
                with suppress(OSError):  # the disk may be full
                    write_status(folder)
                status = status_of(folder)
                bar.set_postfix(failed=status["failed"], refresh=False)
                bar.update(status["done"] + status["failed"] - bar.n)
                looked = time.monotonic()
        return said


def _finish(folder: Folder, job: BatchJob, said: Sequence[str], stopped: bool) -> tuple[str, int]:
    """Write the tables and the report of a run, and say how it ended."""
    folder.clean()
    status, unwritten = status_of(folder), False
    lines = [in_words(status), *said]
    try:
        write_status(folder)
        write_summary(folder)
        write_run_report(folder, job.options)
        lines.append(f"written to {folder.path / 'report.html'} ({STAMP})")
    except OSError as error:  # the results are kept; such as a full disk
        lines.append(str(error))
        unwritten = True
    unfinished = status["running"] + status["left"]
    if status["failed"]:
        lines.append(
            f"{status['failed']} failed: see {folder.path / 'failed.json'}; "
            "--retry-failed tries them again"
        )
    if unfinished:
        lines.append("repeat the command to continue")
    failed = bool(status["failed"] or unfinished or unwritten)
    code = 130 if stopped and unfinished else int(failed)
    return "\n".join(lines), code


# --- What a worker does ----------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class BatchJob:
    """The files of a run."""

    entries: dict[str, Entry]
    options: Options
    out: Path
    items: Sequence[str] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "items", list(self.entries))

    def facts(self) -> dict[str, Any]:
        """Return what the results depend on."""
        kept = {k: v for k, v in asdict(self.options).items() if k not in ("device", "prior")}
        kept["constants"] = [c for c in kept["constants"] if not c.startswith("max_batch=")]
        prior = Path(self.options.prior)
        return {
            "gprior": __version__,
            **kept,
            "operator": _described(self.options),
            "prior": _digest(_stamp(prior)) if prior.is_file() else self.options.prior,
        }

    def inputs(self) -> dict[str, str | None]:
        """Return a digest of each item: its file and its options."""
        return {
            entry.id: _digest(
                f"{_stamp(entry.path)} {_described(entry.options)} {entry.options.noise} "
                f"{entry.options.label} {entry.options.seed}"
            )
            for entry in self.entries.values()
        }

    def open(self, device: str) -> BatchWork:
        """Load the prior."""
        return BatchWork(self, device)


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _described(options: Options) -> str:
    """Return an operator with a digest of its file, whose path may name a patient."""
    if options.measured == options.operator:
        return options.operator
    file = Path(options.operator.partition(":")[2])
    return f"{options.measured} {_digest(_stamp(file) if file.is_file() else options.operator)}"


def _stamp(path: Path) -> str:
    """Return names, sizes and times of a file, or of the files of a folder."""
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    return " ".join(f"{f.name} {f.stat().st_size} {f.stat().st_mtime_ns}" for f in files)


@dataclass(frozen=True, eq=False)
class Opened:
    """An item that was read: a task, or a volume, which is read slice by slice."""

    entry: Entry
    task: Task | None
    rows: int
    key: Hashable


class BatchWork:
    """What a worker does with files. The prior is loaded once."""

    def __init__(self, job: BatchJob, device: str) -> None:
        self.job, self.options = job, replace(job.options, device=device)
        self.scenes = Scenes(self.options)
        # The report says it for each item.
        warnings.filterwarnings("ignore", "the prior does not contain", RuntimeWarning)

    def places(self) -> int:
        """Return how many rows the memory is enough for."""
        return self.scenes.constants.get("max_batch") or places(self.scenes.prior)

    def load(self, item: str) -> Opened:
        """Read a file, and refuse an image that could not be written like its source."""
        entry = self.job.entries[item]
        if entry.volume:
            return Opened(entry, None, BATCH * entry.options.restarts, item)
        task = prepare(entry.path, entry.options, self.scenes)
        if task.source is not None:
            with TemporaryDirectory() as folder:
                truth = shown(task.source.truth)[0].cpu().numpy()
                task.source.write(Path(folder), truth, _how(entry.options))
        own = (entry.options.label is None, bool(entry.options.noise))
        key = (id(task.A), id(task.prior), task.y.shape[1:], *own)
        return Opened(entry, task, len(task.y) * entry.options.restarts, key)

    def solve(self, loaded: Sequence[Opened], places: int) -> Sequence[Result | Path]:
        """Solve tasks of one operator, or a volume, whose slices are kept if the worker dies."""
        tasks = [one.task for one in loaded if one.task is not None]
        if tasks:
            return solve_each(tasks, [one.entry.options for one in loaded], places)
        (entry,) = [one.entry for one in loaded]
        out = Folder(self.job.out).parts / f"{entry.id}.volume"
        run_volume(entry.path, out, entry.options, self.scenes)
        return [out]

    def write(
        self, place: Path, loaded: Opened, answer: Result | Path, seconds: float
    ) -> dict[str, Any]:
        """Write what ``gprior reconstruct`` writes, and return facts for the summary."""
        options, task = loaded.entry.options, loaded.task
        if isinstance(answer, Path) or task is None:
            facts, picture = summary_of_volume(Path(str(answer)))
            for path in Path(str(answer)).iterdir():
                path.rename(place / path.name)
            shutil.rmtree(str(answer))
        else:
            result = replace(answer, seconds=seconds)
            write_result(place, task, options, result, _how(options))
            facts, picture = _summary(task, options, result), shown(result.x)[0]
        write_bytes(place / "thumbnail.png", thumbnail(picture), "a picture")
        return facts


def _how(options: Options) -> str:
    return f"{options.solver}, {options.measured}"


def _summary(task: Task, options: Options, result: Result) -> dict[str, Any]:
    """Return what the summary says about an item; of several images, about the worst."""
    facts, numbers = facts_of(task, options, result), result.facts()

    def worst(name: str, values: Any, choose: Any = max) -> dict[str, Any]:
        known = [value for value in values or [] if value is not None]
        return {name: round(choose(known), 6) if known else None}

    summary = {
        "images": len(result.x),
        **worst("misfit", facts["misfit"]),
        **worst("criterion", numbers["criterion"]),
        **worst("plausibility", facts["plausibility"], min),
        **worst("prior_weight", facts["prior_weight"], min),
        **worst("data_consistency", facts["data_consistency"]),
        "reason": " ".join(facts["reason"]),
        "seed": options.seed,
        "seconds": round(result.seconds, 2),
    }
    if task.source is not None:
        truth = shown(task.source.truth)
        psnr, ssim = scores(shown(result.x).to(truth), truth)
        summary |= {"psnr": round(psnr[0], 3), "ssim": round(ssim[0], 4)}
    return summary
