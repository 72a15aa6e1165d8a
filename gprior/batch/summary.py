"""What is known about a whole run: its progress, and a table of its items."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

from gprior.batch.folder import Folder, names
from gprior.files import write_json, write_text

__all__ = ["in_words", "records", "status_of", "write_status", "write_summary"]


def status_of(folder: Folder) -> dict[str, Any]:
    """Return the progress of a run, as JSON values.

    ``total``, ``done``, ``failed``, ``running`` (held by workers) and ``left`` (held by nobody)
    count items; ``workers`` counts those that hold items; ``rate`` is the items per second of these
    workers, and ``seconds_left`` follows from it: both are None before the first is done.
    """
    holders = {worker: names(folder.claimed / worker) for worker in names(folder.claimed)}
    left, running = len(names(folder.todo)), sum(map(len, holders.values()))
    failed, done = len(names(folder.failed)), len(names(folder.items))
    rate = sum(_rate(folder, worker) for worker, held in holders.items() if held)
    known = rate > 0
    return {
        "total": left + running + failed + done,
        "done": done,
        "running": running,
        "failed": failed,
        "left": left,
        "workers": sum(1 for held in holders.values() if held),
        "rate": round(rate, 6) if known else None,
        "seconds_left": round((left + running) / rate, 1) if known else None,
    }


def _rate(folder: Folder, worker: str) -> float:
    with suppress(OSError, ValueError, KeyError, TypeError, ZeroDivisionError):
        pulse = json.loads((folder.workers / worker).read_text(encoding="utf-8"))
        return float(pulse["finished"] / pulse["seconds"])
    return 0.0


def in_words(status: dict[str, Any]) -> str:
    """Return the progress of a run as text for a terminal."""
    lines = [
        f"{status['done']} of {status['total']} done, {status['running']} running on "
        f"{status['workers']} workers, {status['failed']} failed, {status['left']} left"
    ]
    if status["rate"]:
        hours, rest = divmod(round(status["seconds_left"]), 3600)
        minutes, seconds = divmod(rest, 60)
        rate = status["rate"]
        per = f"{rate:.3g} items/s" if rate >= 1 else f"{1 / rate:.3g} s/item"
        lines.append(f"{per}, {hours}:{minutes:02}:{seconds:02} left")
    return "\n".join(lines)


def write_status(folder: Folder) -> dict[str, Any]:
    """Write ``status.json``, and return what it says."""
    status = status_of(folder)
    write_json(folder.path / "status.json", status, "the status")
    return status


def records(folder: Folder) -> Iterator[dict[str, Any]]:
    """Yield what is known about each item: of one that failed, the id and the error."""
    for name in sorted(names(folder.items)):
        with suppress(OSError, ValueError):  # damaged: it is computed again by the next run
            record = folder.record(name)
            yield {k: v for k, v in record.items() if k != "files"}
    for name, message in folder.failures().items():
        yield {"id": name, "error": message}


def write_summary(folder: Folder) -> None:
    """Write ``summary.csv`` and ``failed.json``, which is removed if nothing failed."""
    write_text(folder.path / "summary.csv", _table(records(folder)), "the summary")
    failures, path = folder.failures(), folder.path / "failed.json"
    if failures:
        write_json(path, failures, "the list of failures")
    else:
        path.unlink(missing_ok=True)


def _table(rows: Iterable[dict[str, Any]]) -> str:
    rows = list(rows)
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    table = csv.DictWriter(text, columns or ["id"], lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    return text.getvalue()
