"""``gprior reconstruct``: reconstruct the images of a file and write a folder of results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from gprior import __version__
from gprior.commands.outcome import SHOWN, cases_of, facts_of, shown, words
from gprior.commands.report import Section, Table, encode_png, write_figure, write_report
from gprior.commands.samples import (
    KINDS,
    check_samples,
    draw,
    facts_of_samples,
    section_of,
    write_samples,
)
from gprior.commands.staging import staged
from gprior.commands.task import Options, Task, prepare, solve_tasks
from gprior.files import atomic_write, write_bytes, write_json
from gprior.images import EXTENSIONS, STAMP
from gprior.result import Result
from gprior.sampling import Posterior

__all__ = ["Options", "run", "write_result"]


def run(source: Path, out: Path, options: Options) -> str:
    """Reconstruct a file and write the results.

    Parameters
    ----------
    source : Path
        File of measurements, or with ``options.simulate`` of an image. A folder with a DICOM
        series is reconstructed as a volume.
    out : Path
        Folder for ``reconstruction.npy`` (B, C, H, W) in [0, 1], or for MRI with the real and
        the imaginary part (C = 2); ``reconstruction.png``, ``result.safetensors``,
        ``result.json``, ``record.json``, ``report.html`` and ``figure.png``. For an image also
        ``on-input-grid`` in the format, units and geometry of the input, and for the file of a
        scanner ``on-input-grid.npy`` in its units. With ``options.samples``, also
        ``samples.safetensors``, and mean, standard deviation and interval on the grid of the input.
        All files are written, or none.
    options : Options
        The options.

    Returns
    -------
    str
        A summary for the terminal.

    Raises
    ------
    InputError, OSError
        See `gprior.solve` and the functions that read the files.
    """
    check_samples(source, options)
    if options.slices is not None or source.is_dir():
        from gprior.commands.volume import run_volume

        return run_volume(source, out, options)
    task = prepare(source, options)
    how = f"{options.solver}, {options.measured}"
    with staged(out) as place:
        if task.source is not None:
            # An image that cannot be written like its source is refused before the search.
            task.source.write(place, shown(task.source.truth)[0].cpu().numpy(), how)
        result = solve_tasks([task], options, progress=True)
        drawn = draw(task, options) if options.samples else None
        summary = write_result(place, task, options, result, how, drawn)
    _forget(out, task.own_grid, drawn is not None)
    return f"{summary}\nwritten to {out / 'report.html'} ({STAMP})"


def _forget(out: Path, kept: str | None, sampled: bool) -> None:
    """Remove what an earlier run wrote and this one did not: other formats, and samples."""
    for kind in (end for ends in EXTENSIONS.values() for end in ends):
        name = f"on-input-grid{kind}"
        if name != kept:
            (out / name).unlink(missing_ok=True)
        for statistic in KINDS:
            if name != kept or not sampled:
                (out / f"{statistic}-{name}").unlink(missing_ok=True)
    if not sampled:
        for kind in (".safetensors", ".json"):
            (out / f"samples{kind}").unlink(missing_ok=True)


def write_result(
    place: Path,
    task: Task,
    options: Options,
    result: Result,
    how: str,
    drawn: Posterior | None = None,
) -> str:
    """Write every file, and return the summary for the terminal."""
    x = shown(result.x).cpu().numpy()
    result.save(place / "result.safetensors")
    with atomic_write(place / "reconstruction.npy", "the reconstruction") as temporary:
        pixels = result.x.cpu().numpy() if result.x.shape[1] == 2 else x
        np.save(temporary, pixels, allow_pickle=False)
    write_bytes(place / "reconstruction.png", encode_png(np.concatenate(x[:SHOWN], 2)), "a picture")
    facts = facts_of(task, options, result)
    if drawn is not None:
        write_samples(place, task, drawn, how)
        facts |= facts_of_samples(drawn)
    record: dict[str, Any] = {"note": STAMP, "gprior": __version__, **facts}
    if task.source is not None:
        task.source.write(place, x[0], how)
        record["image"] = task.source.record()
    if task.acquisition is not None:
        with atomic_write(place / "on-input-grid.npy", "the reconstruction") as temporary:
            np.save(temporary, task.acquisition.in_file_units(result.x)[0], allow_pickle=False)
        record["acquisition"] = task.acquisition.record | {
            "intensity": list(task.acquisition.intensity)
        }
    write_json(place / "record.json", record, "the record")
    cases = cases_of(task, result)
    lead = [
        f"{len(x)} image(s) reconstructed by {options.solver} from {options.measured}, with the "
        f"prior {task.prior.name}.",
        "Scores compare with the image that was measured. The method did not use it."
        if task.source
        else "The true image is not known. The residual y − A x compares measurements.",
    ]
    if len(x) > SHOWN:
        lead.append(f"The first {SHOWN} images are shown.")
    rows = [[name.replace("_", " "), words(value)] for name, value in facts.items()]
    if task.source is not None:
        rows.append(["intensity", "{:g} … {:g}".format(*task.source.intensity)])
        rows.append(["pixels (height x width)", task.source.pixels])
    if task.acquisition is not None:
        rows += [[k.replace("_", " "), words(v)] for k, v in record["acquisition"].items()]
    parts = [Section("Images", cases)]
    if drawn is not None:
        parts.append(section_of(drawn))
    write_report(place / "report.html", "Reconstruction", lead, [*parts, Table("Record", [], rows)])
    write_figure(place / "figure.png", cases)
    return "\n".join(
        "  ".join([case.title, *(f"{p.title} {p.note}" for p in case.panels if p.note), case.note])
        for case in cases
    )
