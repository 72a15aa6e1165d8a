"""The folder of a run: which items are to do, which are held by whom, and which are done.

Every item has a token, an empty file with its name. The token is in exactly one place, and every
change of its state is one rename, which is atomic. So any number of processes, on one machine or
on many, can share a folder, and a process that dies at any moment leaves the folder whole::

    OUT/state/run.json             the options of the first run
    OUT/state/todo/ID              nobody works on the item
    OUT/state/claimed/WORKER/ID    a worker has it: its lease
    OUT/state/failed/ID            it failed; the file has the message
    OUT/state/workers/WORKER       the heartbeat of a worker
    OUT/state/parts/               what is being written
    OUT/items/ID/                  the results of the item: it is done, and has no token
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from gprior.checks import InputError
from gprior.files import restate, write_json

__all__ = ["Folder", "names"]

REMEDY = "free disk space, make the folder writable, or choose another place"
EXISTS = (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR)
RECORD = "item.json"
KEPT = ".volume"  # ending of a part that the next worker continues


class Folder:
    """The folder of a run.

    Parameters
    ----------
    path : Path
        OUT.
    state : Path, optional
        The folder with the tokens, where it has another name than ``state``.
    """

    def __init__(self, path: Path, state: Path | None = None) -> None:
        self.path, self.items, self.state = path, path / "items", state or path / "state"
        self.todo, self.claimed = self.state / "todo", self.state / "claimed"
        self.failed, self.workers = self.state / "failed", self.state / "workers"
        self.parts = self.state / "parts"

    # --- The options and the items of a run ---

    def begin(self, facts: Mapping[str, Any], inputs: Mapping[str, str | None]) -> None:
        """Make the folder, or continue the run in it.

        Parameters
        ----------
        facts : mapping
            What the results depend on, as JSON values.
        inputs : mapping
            The items, each with a digest of its input, or None where there is none. Items that
            are new to the folder are added to it. The input of an item that is not done may change.

        Raises
        ------
        InputError
            If the folder has a run with other options or other inputs, or is damaged.
        OSError
            If it cannot be written.
        """
        with self._writing():
            self.items.mkdir(parents=True, exist_ok=True)
            if not self.state.exists():
                self._create(facts, inputs)
        first = self._read("run.json")
        now = json.loads(json.dumps(dict(facts)))  # tuples become lists, as in the file
        other = [
            f"{name} was {first.get(name)!r} and is {now.get(name)!r}"
            for name in sorted({*first, *now})
            if first.get(name) != now.get(name)
        ]
        if other:
            raise InputError(
                f"out {self.path} has a run with other options: {'; '.join(other)}. Repeat the "
                "options of this run to continue it, or give another out"
            )
        known = self._read("inputs.json")
        changed = {name for name in inputs if known.get(name, inputs[name]) != inputs[name]}
        differs = sorted(changed & self.done()) if changed else []
        if differs:
            raise InputError(
                f"out {self.path} has results of other inputs: {', '.join(differs[:5])}"
                f"{' and more' if len(differs) > 5 else ''} changed since the first run. Delete "
                "their folders in items, or give another out"
            )
        new = [name for name in inputs if name not in known]
        if new or changed:
            with self._writing():
                write_json(self.state / "inputs.json", {**known, **inputs}, "the list of inputs")
                self.add(new)

    def _create(self, facts: Mapping[str, Any], inputs: Mapping[str, str | None]) -> None:
        """Make the state under a temporary name. If two processes do, one of them succeeds."""
        made = Folder(self.path, self.path / f".{secrets.token_hex(6)}")
        try:
            for place in (made.todo, made.claimed, made.failed, made.workers, made.parts):
                place.mkdir(parents=True)
            write_json(made.state / "run.json", dict(facts), "the options of the run")
            write_json(made.state / "inputs.json", inputs, "the list of inputs")
            made.add(inputs)
            made.state.rename(self.state)
        except OSError as error:
            if error.errno not in EXISTS or not self.state.is_dir():
                raise
        finally:
            shutil.rmtree(made.state, ignore_errors=True)

    def _read(self, name: str) -> dict[str, Any]:
        path = self.state / name
        try:
            return dict(json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, FileNotFoundError, NotADirectoryError) as error:
            raise InputError(
                f"{path} is missing or damaged, so the results beside it cannot be continued; "
                "give another out"
            ) from error

    def add(self, items: Iterable[str]) -> None:
        """Add tokens of items to do."""
        for name in items:
            os.close(os.open(self.todo / name, os.O_CREAT | os.O_WRONLY))

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = error.strerror or str(error)
            raise restate(error, f"cannot write to {self.path}: {reason}; {REMEDY}") from error

    # --- What is done ---

    def done(self) -> set[str]:
        """Return the items that are done."""
        return set(names(self.items))

    def finish(self, item: str, place: Path, facts: Mapping[str, Any]) -> None:
        """Move the results of an item into their place, with a record of its files.

        If another worker was faster, its results stay: they are the same.
        """
        files = {
            path.relative_to(place).as_posix(): digest(path)
            for path in sorted(place.rglob("*"))
            if path.is_file()
        }
        # Nothing is flushed to the disk here: what a loss of power damages is found by its digest.
        record = json.dumps({"id": item, **facts, "files": files}, indent=1, allow_nan=False)
        (place / RECORD).write_text(record + "\n", encoding="utf-8")
        try:
            place.rename(self.items / item)
        except OSError as error:
            if error.errno not in EXISTS:
                raise
            shutil.rmtree(place, ignore_errors=True)

    def record(self, item: str) -> dict[str, Any]:
        """Return what is known about an item that is done, as JSON values.

        Raises
        ------
        ValueError, OSError
            If the record is damaged.
        """
        return dict(json.loads((self.items / item / RECORD).read_text(encoding="utf-8")))

    def is_whole(self, item: str) -> bool:
        """Return whether the files of an item are those that were written."""
        try:
            files = self.record(item)["files"]
            return all(digest(self.items / item / name) == d for name, d in files.items())
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return False

    def redo_damaged(self, items: Collection[str]) -> list[str]:
        """Throw away results that are damaged, so that they are computed again; return the items.

        An item that has neither results nor a token, such as one whose results were deleted, is
        computed again as well.
        """
        with self._writing():
            pending = self.tokens()
            done = self.done()
            lost = [name for name in items if name not in pending and name not in done]
            bad = [name for name in sorted(done & set(items)) if not self.is_whole(name)]
            for name in bad:
                away = self.parts / f"{secrets.token_hex(6)}.damaged"
                (self.items / name).rename(away)
                shutil.rmtree(away, ignore_errors=True) if away.is_dir() else away.unlink()
            self.add([*bad, *lost])
        return bad

    def retry_failed(self) -> None:
        """Put the items that failed back to those to do."""
        with self._writing():
            for name in names(self.failed):
                with suppress(FileNotFoundError):
                    (self.failed / name).rename(self.todo / name)

    def clean(self) -> None:
        """Remove what killed workers left behind, if nobody is at work."""
        if not any(names(self.claimed / worker) for worker in names(self.claimed)):
            for path in self.parts.iterdir():
                if not path.name.endswith(KEPT):
                    shutil.rmtree(path, ignore_errors=True)

    def tokens(self) -> set[str]:
        """Return the items that are not done."""
        # In the direction in which tokens move, so that none is missed on its way.
        held = [name for worker in names(self.claimed) for name in names(self.claimed / worker)]
        return {*names(self.todo), *held, *names(self.failed)}

    def failures(self) -> dict[str, str]:
        """Return the items that failed, with their messages."""
        found = {}
        for name in sorted(names(self.failed)):
            with suppress(FileNotFoundError):
                found[name] = (self.failed / name).read_text(encoding="utf-8")
        return found


def names(place: Path) -> list[str]:
    """Return the names in a folder that are not hidden; none if the folder has gone."""
    try:
        with os.scandir(place) as entries:
            return [entry.name for entry in entries if not entry.name.startswith(".")]
    except FileNotFoundError:
        return []


def digest(path: Path) -> str:
    """Return a digest of the content of a file."""
    with path.open("rb") as file:
        found = hashlib.blake2b(digest_size=16)
        while block := file.read(2**20):
            found.update(block)
    return found.hexdigest()
