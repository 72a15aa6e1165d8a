"""One worker: takes items of a folder, solves them in batches that are refilled, writes them.

A worker knows nothing about measurements or files. These are the matter of its `Work`.
"""

from __future__ import annotations

import errno
import pickle
import secrets
import shutil
import threading
import traceback
from collections import deque
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from gprior.batch.folder import Folder
from gprior.batch.leases import Leases
from gprior.batch.together import Cohort, Stopped, advance

__all__ = ["Job", "Settings", "Work", "Worker", "work"]

REFILL = 1 / 2  # of the places must be free: groups that start together should not be small
POLL = 0.5  # seconds between two looks at what other workers do
FULL = (errno.ENOSPC, errno.EDQUOT)


class Loaded(Protocol):
    """An item that was read."""

    @property
    def rows(self) -> int:
        """Rows that its search has in the generator: images times restarts."""

    @property
    def key(self) -> Hashable:
        """Equal for items that one call can solve: of one shape and operator."""


class Work(Protocol):
    """What a worker does with items, in one process and on one device."""

    def places(self) -> int:
        """Return how many rows the memory is enough for."""

    def load(self, item: str) -> Loaded:
        """Read an item."""

    def solve(self, loaded: Sequence[Any], places: int) -> Sequence[Any]:
        """Return an answer for each item; all of them have the same key."""

    def write(self, place: Path, loaded: Any, answer: Any, seconds: float) -> Mapping[str, Any]:
        """Write an answer to a folder, and return facts about it as JSON values."""


class Job(Protocol):
    """A run, as it is sent to the processes that share it."""

    @property
    def items(self) -> Sequence[str]:
        """The names of the items."""

    def open(self, device: str) -> Work:
        """Prepare a process: load the prior."""


@dataclass(frozen=True)
class Settings:
    """How workers work, which changes no result.

    Attributes
    ----------
    patience : float
        Seconds after which a worker that gives no sign of life is taken for dead.
    refill : bool
        Whether places of rows that are done are filled before the whole batch is done.
    threads : int
        Processor threads of each worker; 0 leaves torch's number.
    """

    patience: float = 60.0
    refill: bool = True
    threads: int = 0


@dataclass(eq=False)
class Batch:
    """Items whose search started together."""

    items: list[tuple[str, Any]]
    cohort: Cohort

    @property
    def rows(self) -> int:
        """Rows that are still in the generator, or will be."""
        return self.cohort.rows or sum(loaded.rows for _, loaded in self.items)


class Worker:
    """Solves the items of a folder until none is left.

    Parameters
    ----------
    job : Job
        The run.
    folder : Folder
        Its folder.
    device : str
        Where to compute.
    settings : Settings
        How to work.
    stop : threading.Event, optional
        When it is set, the worker ends its step, gives its items back and leaves.

    Attributes
    ----------
    full : str
        What the system said when the disk was full, else empty.
    """

    def __init__(
        self,
        job: Job,
        folder: Folder,
        device: str = "cpu",
        settings: Settings = Settings(),
        stop: threading.Event | None = None,
    ) -> None:
        self.job, self.folder, self.settings = job, folder, settings
        self.work, self.stop, self.full = job.open(device), stop or threading.Event(), ""
        self._live: list[Batch] = []
        self._again: deque[list[tuple[str, Any]]] = deque()  # parts of batches that failed
        self._places = 0

    def run(self) -> Iterator[str]:
        """Work, and yield the name of each item that this worker finished or that failed."""
        leases = self.leases = Leases(self.folder, self.job.items, self.settings.patience)
        try:
            self._places = self.work.places()
            while not self.stop.is_set():
                yield from self._refill()
                if self._live:
                    if not advance([batch.cohort for batch in self._live]):
                        self._places = max(1, self._places // 2)
                    ended = [batch for batch in self._live if batch.cohort.ended]
                    self._live = [batch for batch in self._live if not batch.cohort.ended]
                    for batch in ended:
                        yield from self._end(batch)
                elif self.full or not (leases.others_at_work() or leases.any_left()):
                    break
                else:
                    self.stop.wait(min(POLL, self.settings.patience / 4))
        finally:
            for batch in self._live:
                batch.cohort.stop()
            leases.close()

    def _refill(self) -> Iterator[str]:
        """Start items in the places that are free; yield those that cannot be read."""
        free = self._places - sum(batch.rows for batch in self._live)
        if self._live and (not self.settings.refill or free < max(1, self._places * REFILL)):
            return
        if self._again:
            if not self._live or sum(loaded.rows for _, loaded in self._again[0]) <= free:
                self._start(self._again.popleft())
            return
        groups: dict[Hashable, list[tuple[str, Any]]] = {}
        while free > 0 and not self.full and not self.stop.is_set():
            item = self.leases.take()
            if item is None:
                break
            if (self.folder.items / item).exists():  # by a worker that died before it said so
                self.leases.done(item)
                yield item
                continue
            try:
                loaded = self.work.load(item)
            except Exception as error:
                if self._fail(item, error):
                    yield item
                continue
            groups.setdefault(loaded.key, []).append((item, loaded))
            free -= loaded.rows
        for group in groups.values():
            self._start(group)

    def _start(self, group: list[tuple[str, Any]]) -> None:
        loaded, places = [value for _, value in group], self._places
        self._live.append(Batch(group, Cohort(lambda: self.work.solve(loaded, places))))

    def _end(self, batch: Batch) -> Iterator[str]:
        """Write the answers of a batch whose search has ended."""
        error = batch.cohort.error
        if error is not None:
            yield from self._end_failed(batch, error)
            return
        seconds = batch.cohort.seconds / len(batch.items)
        for (item, loaded), answer in zip(batch.items, batch.cohort.value, strict=True):
            place = self.folder.parts / f"{item}.{secrets.token_hex(4)}"
            try:
                place.mkdir()
                facts = self.work.write(place, loaded, answer, seconds)
                self.folder.finish(item, place, facts)
                self.leases.done(item)
            except Exception as problem:
                if not self._fail(item, problem):
                    continue
            finally:
                shutil.rmtree(place, ignore_errors=True)
            yield item

    def _end_failed(self, batch: Batch, error: BaseException) -> Iterator[str]:
        if isinstance(error, Stopped):
            return
        if not isinstance(error, Exception):
            raise error
        crowded = isinstance(error, torch.cuda.OutOfMemoryError) and bool(self._live)
        if isinstance(error, torch.cuda.OutOfMemoryError):
            self._places = max(1, self._places // 2)
        middle = len(batch.items) // 2
        if middle or crowded:
            # One item spoilt the others, or they took its memory. The half without it goes on.
            halves = batch.items[:middle], batch.items[middle:]
            self._again.extend(half for half in halves if half)
            return
        ((item, _),) = batch.items
        if self._fail(item, error):
            yield item

    def _fail(self, item: str, error: Exception) -> bool:
        """Record a failure, with the place in the code if it is not the user's mistake.

        On a full disk, the item is given back; return whether the failure was recorded.
        """
        if isinstance(error, OSError) and error.errno in FULL:
            self.full = error.strerror or str(error)
            self.leases.release(item)
            return False
        message = str(error) or type(error).__name__
        if not isinstance(error, ValueError | OSError):
            frame = traceback.extract_tb(error.__traceback__)[-1:]
            where = f" ({Path(frame[0].filename).name}:{frame[0].lineno})" if frame else ""
            message = f"{type(error).__name__}: {message}{where}"
        try:
            self.leases.fail(item, message)
        except OSError as problem:
            if problem.errno not in FULL:
                raise
            return self._fail(item, problem)
        return True


def work(job: Job | bytes, path: Path, device: str, settings: Settings, stop: Any = None) -> str:
    """Work in this process until no item is left.

    Parameters
    ----------
    job : Job or bytes
        What to do, or its pickle, which the process that started this one made.
    path, device, settings, stop
        See `Worker`.

    Returns
    -------
    str
        Why the worker left early: a full disk; else empty.
    """
    if settings.threads:
        torch.set_num_threads(settings.threads)
    job = pickle.loads(job) if isinstance(job, bytes) else job
    worker = Worker(job, Folder(path), device, settings, stop)
    for _ in worker.run():
        pass
    return worker.full
