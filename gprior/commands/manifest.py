"""The items of ``gprior batch``: the files of a folder by their content, or the rows of a list."""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gprior.batch import checked_name, unique
from gprior.checks import InputError, integer, number
from gprior.commands.task import Options
from gprior.images import recognise
from gprior.operators import kind_of
from gprior.training import files_in, is_image

__all__ = ["Entry", "entries_of"]

COLUMNS = ("id", "path", "operator", "mask", "noise", "label", "seed")
MEASUREMENTS = (".npy", ".npz", ".pt", ".safetensors")
SCANNERS = {"mri": (".h5", ".hdf5", ".npz", ".npy"), "ct": (".npz",)}
SHOWN = 10  # names in a message


@dataclass(frozen=True)
class Entry:
    """An item: a file or a folder, and its options.

    Attributes
    ----------
    id : str
        Its name.
    path : Path
        A file, or a folder with a DICOM series.
    options : Options
        The options of the command, with those of the item.
    volume : bool
        Whether its slices are reconstructed one by one.
    """

    id: str
    path: Path
    options: Options
    volume: bool


def entries_of(source: Path, options: Options) -> list[Entry]:
    """Return the items of a folder or of a manifest.

    Parameters
    ----------
    source : Path
        A folder, or a manifest: a CSV file with a head, or a file of JSON lines.
    options : Options
        The options of the command.

    Raises
    ------
    InputError
        If there are no items, two have one id, a file of the manifest is missing, or a row of it is
        wrong.
    OSError
        If a file cannot be opened.
    """
    kind_of(options.operator)  # an operator that does not exist is refused before files are read
    entries = list(_of_folder(source, options) if source.is_dir() else _of_list(source, options))
    if not entries:
        raise InputError(
            f"{source} has no {_wanted(options)}; "
            + ("give another folder" if options.simulate else "to measure images, add --simulate")
        )
    unique([entry.id for entry in entries])
    return entries


def _wanted(options: Options) -> str:
    if options.simulate:
        return "images"
    return f"files of type {', '.join(SCANNERS.get(options.scanner or '', MEASUREMENTS))}"


# --- A folder --------------------------------------------------------------------------------


def _of_folder(folder: Path, options: Options) -> Iterator[Entry]:
    """Yield the images or measurements in a folder and its subfolders."""
    if not options.simulate:
        kinds = SCANNERS.get(options.scanner or "", MEASUREMENTS)
        for path in files_in(folder):
            if path.name.lower().endswith(kinds):
                yield _entry(folder, path, options, volume=options.slices is not None)
        return
    series: dict[Path, list[Path]] = defaultdict(list)
    for path in files_in(folder):
        if not is_image(path):
            continue
        if path.parent != folder and _is(path, "dicom"):
            series[path.parent].append(path)
        else:
            has_slices = _is(path, "nifti") or _is(path, "dicom")
            yield _entry(folder, path, options, options.slices is not None and has_slices)
    for place, files in series.items():
        if len(files) == 1:
            yield _entry(folder, files[0], options, volume=options.slices is not None)
        else:
            yield _entry(folder, place, options, volume=True)


def _is(path: Path, kind: str) -> bool:
    try:
        return recognise(path) == kind
    except (InputError, OSError):
        return False


def _entry(folder: Path, path: Path, options: Options, volume: bool) -> Entry:
    name = "-".join(path.relative_to(folder).parts)
    safe = "".join(c if c.isalnum() or c in "._+-" else "_" for c in name)
    return Entry(checked_name(safe), path, _fitting(options, volume), volume)


def _fitting(options: Options, volume: bool) -> Options:
    """Return the options of a volume, or of an image, which has no slices."""
    if volume:
        return options if options.slices is not None else replace(options, slices="all")
    return replace(options, slices=None)


# --- A manifest ------------------------------------------------------------------------------


def _of_list(source: Path, options: Options) -> Iterator[Entry]:
    """Yield the rows of a manifest, whose paths are relative to its folder."""
    if source.suffix not in (".csv", ".jsonl", ".json", ".ndjson"):
        raise InputError(
            f"source must be a folder, a .csv file or a file of JSON lines (.jsonl), got {source}"
        )
    rows = list(_rows(source))
    for number_, row in rows:
        if not row.get("path"):
            raise InputError(f"{source}, line {number_}: path is missing")
    missing = [
        f"{row['path']} (line {number_})"
        for number_, row in rows
        if not (source.parent / str(row["path"])).exists()
    ]
    if missing:
        more = f" and {len(missing) - SHOWN} more" if len(missing) > SHOWN else ""
        raise InputError(
            f"{source} names {len(missing)} files that do not exist: "
            f"{', '.join(missing[:SHOWN])}{more}; paths are relative to its folder"
        )
    for number_, row in rows:
        try:
            yield _of_row(source.parent, row, options)
        except InputError as error:
            raise InputError(f"{source}, line {number_}: {error}") from error


def _rows(source: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the rows of a manifest with the numbers of their lines."""
    try:
        text = source.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{source} is not UTF-8 text; save it as UTF-8") from error
    if source.suffix == ".csv":
        table = csv.DictReader(text.splitlines())
        _check_columns(source, table.fieldnames or [])
        for row in table:
            if None in row:
                raise InputError(f"{source}, line {table.line_num}: more cells than the head has")
            yield table.line_num, {k: v for k, v in row.items() if v}
        return
    for number_, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise InputError(f"{source}, line {number_} is not JSON: {error}") from error
        if not isinstance(row, dict):
            raise InputError(f"{source}, line {number_} must be an object, such as {{'path': ...}}")
        _check_columns(source, row)
        yield number_, {k: v for k, v in row.items() if v is not None}


def _check_columns(source: Path, names: Any) -> None:
    unknown = sorted(set(map(str, names)) - set(COLUMNS))
    if unknown:
        raise InputError(f"{source} has {unknown}; a manifest has of {list(COLUMNS)}")


def _of_row(folder: Path, row: Mapping[str, Any], options: Options) -> Entry:
    """Return the entry of a row."""
    path = folder / str(row["path"])
    own: dict[str, Any] = {}
    if "operator" in row and "mask" in row:
        raise InputError("give operator or mask, not both")
    if "mask" in row:
        own["operator"] = f"mask:{folder / str(row['mask'])}"
    if "operator" in row:
        kind, _, rest = str(row["operator"]).partition(":")
        beside = rest and (folder / rest).is_file()
        own["operator"] = f"{kind}:{folder / rest}" if beside else str(row["operator"])
        kind_of(own["operator"])
    if "noise" in row:
        own["noise"] = number("noise", _parsed("noise", row["noise"], float), least=0)
    for name in ("label", "seed"):
        if name in row:
            value = _parsed(name, row[name], int)
            own[name] = integer(name, value, least=0 if name == "label" else None)
    volume = path.is_dir() or (
        options.slices is not None
        and (not options.simulate or _is(path, "nifti") or _is(path, "dicom"))
    )
    name = checked_name(str(row.get("id", path.name)))
    return Entry(name, path, _fitting(replace(options, **own), volume), volume)


def _parsed(name: str, value: Any, kind: type[int] | type[float]) -> Any:
    """Return a cell of a CSV file as a number. JSON has numbers."""
    if not isinstance(value, str):
        return value
    try:
        return kind(value)
    except ValueError as error:
        what = "an integer" if kind is int else "a number"
        raise InputError(f"{name} must be {what}, got {value!r}") from error
