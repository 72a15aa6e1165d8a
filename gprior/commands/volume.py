"""``gprior reconstruct --slices``: a volume, slice by slice, that resumes where it was stopped.

The result of each slice is written to the folder ``slices`` as soon as it is known. A run that
was killed at any moment is continued by the same command, and loses nothing but the slices that
it was computing. At the end the slices are put together.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from torch import Tensor
from tqdm import tqdm

from gprior import __version__
from gprior.checks import InputError
from gprior.commands.outcome import cases_of, facts_of, shown, words
from gprior.commands.report import Chart, Section, Table, write_figure, write_report
from gprior.commands.stacks import Stack, open_stack
from gprior.commands.staging import staged
from gprior.commands.task import Options, Scenes, Task, solve_tasks
from gprior.distances import scores
from gprior.files import restate, write_json
from gprior.images import STAMP, EmptyImageError
from gprior.result import Result
from gprior.solving import UNLIKELY

__all__ = ["run_volume", "summary_of_volume"]


def run_volume(source: Path, out: Path, options: Options, scenes: Scenes | None = None) -> str:
    """Reconstruct the slices of a volume.

    Parameters
    ----------
    source : Path
        With ``options.simulate`` a NIfTI file, a DICOM file or a folder with one DICOM series;
        else k-space of several slices.
    out : Path
        Folder for ``slices``, which has the result of each slice; ``reconstruction.nii.gz``,
        ``reconstruction.nii``, the folder ``reconstruction`` with a DICOM series, or
        ``reconstruction.npy``; ``record.json``, ``report.html`` and ``figure.png``.
    options : Options
        The options. ``options.slices`` says which slices; the default is all of a folder.
    scenes : Scenes, optional
        The prior, where it is loaded already: the volume is one of many, and has no progress bar.

    Returns
    -------
    str
        A summary for the terminal.

    Raises
    ------
    InputError
        See `gprior.solve` and the functions that read the files; also if the folder has the
        slices of a run with other options, or of another source.
    OSError
        If a file cannot be read or written.
    """
    how = f"{options.solver}, {options.measured}"
    with open_stack(source, options, scenes) as stack, staged(out) as place:
        done = Results(out / "slices")
        done.claim(options, stack.files)
        stack.check(how)
        _solve(stack, done, options, progress=scenes is None)
        summary = _write(place, stack, done, options, how)
    return f"{summary}\nwritten to {out / 'report.html'} ({STAMP})"


def _solve(stack: Stack, done: Results, options: Options, progress: bool) -> None:
    """Solve the slices that have no result yet."""
    waiting: list[tuple[int, Task]] = []

    def flush() -> None:
        tasks = [task for _, task in waiting]
        together = solve_tasks(tasks, options)
        result = replace(together, seconds=together.seconds / len(tasks))
        for row, (index, _) in enumerate(waiting):
            result.take([row]).save(done.path(index))
        bar.update(len(waiting))
        waiting.clear()

    with tqdm(total=len(stack.indices), desc="slices", unit="slice", disable=not progress) as bar:
        for index in stack.indices:
            task = None if done.has(index) else stack.task(index)
            if task is None:
                bar.update()
            else:
                waiting.append((index, task))
            if len(waiting) == stack.batch:
                flush()
        if waiting:
            flush()


class Results:
    """The results of slices in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, index: int) -> Path:
        """Return the file of a slice."""
        return self.folder / f"{index:04}.safetensors"

    def has(self, index: int) -> bool:
        """Return whether a slice has a whole result."""
        try:
            self.load(index)
        except (InputError, FileNotFoundError):
            return False
        return True

    def load(self, index: int) -> Result:
        """Return the result of a slice."""
        if not self.path(index).exists():
            raise FileNotFoundError(self.path(index))
        return Result.load(self.path(index))

    def claim(self, options: Options, files: Sequence[Path]) -> None:
        """Make the folder, or refuse one that has the slices of another run."""
        run = _fingerprint(options, files)
        record = self.folder / "run.json"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            earlier = json.loads(record.read_text(encoding="utf-8"))
        except FileNotFoundError:
            write_json(record, run, "the record of the run")
            return
        except ValueError as error:
            raise InputError(
                f"{record} is damaged, so the slices beside it cannot be used; delete "
                f"{self.folder}, or give another out"
            ) from error
        except OSError as error:
            raise restate(error, f"cannot write to {self.folder}: {error.strerror}") from error
        changed = [name for name in run if run[name] != earlier.get(name)]
        if changed:
            raise InputError(
                f"{self.folder} has the slices of a run that differs in {', '.join(changed)}; "
                "repeat its options to continue it, delete the folder, or give another out"
            )


def _fingerprint(options: Options, files: Sequence[Path]) -> dict[str, Any]:
    """Return what the results depend on. Names of files, which may be those of patients, are not
    in it."""
    digest = hashlib.blake2b(digest_size=16)
    for file in files:
        size, time = file.stat().st_size, file.stat().st_mtime_ns
        digest.update(f"{file.name}\0{size}\0{time}\0".encode())
    kept = {k: v for k, v in asdict(options).items() if k not in ("device", "operator")}
    operator = hashlib.blake2b(options.operator.encode(), digest_size=16).hexdigest()
    facts = {"gprior": __version__, "source": digest.hexdigest(), "operator": operator, **kept}
    return dict(json.loads(json.dumps(facts)))  # tuples become lists, as in the file


# --- What is written -------------------------------------------------------------------------

COLUMNS = ("Slice", "Misfit", "Prior weight", "Plausibility", "|A x − y| / |y|", "PSNR", "SSIM")


def _write(place: Path, stack: Stack, done: Results, options: Options, how: str) -> str:
    """Write the volume, the record and the report, and return the summary for the terminal."""
    rows: dict[int, list[float | None]] = {}
    seconds = 0.0
    for index in stack.indices:
        task = stack.task(index)
        if task is not None:
            result = done.load(index)
            rows[index] = _row(task, options, result)
            seconds += result.seconds
    if not rows:
        raise EmptyImageError("every slice is empty; choose other slices")
    middle = min(rows, key=lambda index: abs(index - stack.indices[len(stack.indices) // 2]))
    task, result = stack.task(middle), done.load(middle)
    if task is None:
        raise EmptyImageError(f"slice {middle} is empty")
    facts = {k: v for k, v in facts_of(task, options, result).items() if k not in OF_ONE_IMAGE}
    volume = stack.write(place, lambda index: done.load(index).x, how)
    facts |= {
        "slices": f"{stack.indices[0]}-{stack.indices[-1]}",
        "empty_slices": len(stack.indices) - len(rows),
        "seconds": round(seconds, 2),
        **{k: v for k, v in volume.items() if k != "acquisitions"},
    }
    record: dict[str, Any] = {"note": STAMP, "gprior": __version__, **facts, **volume}
    if task.source is not None:
        record["image"] = task.source.record()
    names = [name.lower().replace(" ", "_") for name in ("misfit", *COLUMNS[2:4])]
    record["per_slice"] = [
        {
            "slice": index,
            **dict(zip([*names, "data_consistency", "psnr", "ssim"], row, strict=True)),
        }
        for index, row in rows.items()
    ]
    write_json(place / "record.json", record, "the record")
    cases = [replace(case, title=f"Slice {middle}") for case in cases_of(task, result)]
    doubtful = sum(1 for row in rows.values() if row[2] is not None and row[2] < UNLIKELY)
    lead = [
        f"{len(rows)} slices reconstructed by {options.solver} from {options.measured}, with the "
        f"prior {task.prior.name}.",
        f"The prior does not contain {doubtful} of them (plausibility below {UNLIKELY})."
        if doubtful
        else "The table has what is known about each slice.",
    ]
    table = [[str(index), *map(_number, row)] for index, row in rows.items()]
    shown_rows = [[name.replace("_", " "), words(value)] for name, value in facts.items()]
    write_report(
        place / "report.html",
        "Reconstruction of a volume",
        lead,
        [
            Section("The middle slice", cases),
            Chart(
                "Misfit of the generated image", "slice", list(rows), [r[0] for r in rows.values()]
            ),
            Table("Slices", COLUMNS, table),
            Table("Record", [], shown_rows),
        ],
    )
    write_figure(place / "figure.png", cases)
    return f"{len(rows)} slices, {len(stack.indices) - len(rows)} empty; {volume['volume']}"


OF_ONE_IMAGE = {
    "label", "reason", "data_consistency", "prior_weight", "misfit", "plausibility",
    "stopping_rule", "seconds",
}  # fmt: skip


def _row(task: Task, options: Options, result: Result) -> list[float | None]:
    """Return what is known about a slice, in the order of the columns."""
    facts = facts_of(task, options, result)
    row = [facts[name] for name in ("misfit", "prior_weight", "plausibility", "data_consistency")]
    values = [None if value is None else value[0] for value in row]
    if task.source is None:
        return [*values, None, None]
    truth = shown(task.source.truth)
    psnr, ssim = scores(shown(result.x).to(truth), truth)
    return [*values, psnr[0], ssim[0]]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def summary_of_volume(out: Path) -> tuple[dict[str, Any], Tensor]:
    """Return what is known about the worst slices of a volume, and its middle slice (C, H, W)."""
    record = json.loads((out / "record.json").read_text(encoding="utf-8"))
    slices = record["per_slice"]

    def worst(name: str, choose: Any) -> float | None:
        known = [one[name] for one in slices if one[name] is not None]
        return round(choose(known), 6) if known else None

    middle = Results(out / "slices").load(slices[len(slices) // 2]["slice"])
    return {
        "images": len(slices),
        "misfit": worst("misfit", max),
        "plausibility": worst("plausibility", min),
        "prior_weight": worst("prior_weight", min),
        "data_consistency": worst("data_consistency", max),
        "seed": record["seed"],
        "seconds": record["seconds"],
        "psnr": worst("psnr", min),
        "ssim": worst("ssim", min),
    }, shown(middle.x)[0]
