"""The leases of a worker: which items it holds, and whether the other workers are alive.

A worker shows that it is alive by a counter in a file. No clock is compared with another: a worker
is taken for dead if its counter has not changed while another worker watched it for some seconds of
its own clock. Its items are then free for all.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from gprior.batch.folder import REMEDY, Folder, names
from gprior.files import restate, write_text

__all__ = ["Leases"]

BEATS = 6  # of a heart, in the time after which it is taken for dead


class Leases:
    """The items that a worker holds in a folder.

    Parameters
    ----------
    folder : Folder
        The folder.
    items : collection of str
        The items that the worker can do. It leaves others alone.
    patience : float
        Seconds after which a worker whose counter stands still is taken for dead.

    Attributes
    ----------
    finished : int
        Items that the worker finished.
    """

    def __init__(self, folder: Folder, items: Collection[str], patience: float) -> None:
        self.folder, self.patience, self.finished = folder, patience, 0
        self.name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        self._items, self._listed = frozenset(items), list[str]()
        self._held = set[str]()
        self._seen: dict[str, tuple[str, float]] = {}
        self._place, self._pulse = folder.claimed / self.name, folder.workers / self.name
        self._count, self._started = 0, time.monotonic()
        self._closing = threading.Event()
        try:
            self._place.mkdir()
            self._beat()
        except OSError as error:
            reason = error.strerror or str(error)
            raise restate(error, f"cannot write to {folder.path}: {reason}; {REMEDY}") from error
        self._heart = threading.Thread(target=self._live, daemon=True)
        self._heart.start()

    def take(self) -> str | None:
        """Return an item that is now held by this worker, or None if none is free."""
        for fresh in (False, True):
            if fresh:
                # A worker that took this one for dead has removed its folder.
                self._place.mkdir(exist_ok=True)
                self._listed = sorted(self._items.intersection(names(self.folder.todo)))[::-1]
            while self._listed:
                item = self._listed.pop()
                try:
                    (self.folder.todo / item).rename(self._place / item)
                except FileNotFoundError:
                    continue  # another worker was faster
                except OSError as error:
                    message = f"cannot write to {self.folder.path}: {error.strerror}; {REMEDY}"
                    raise restate(error, message) from error
                if item not in self._held:  # else another worker had freed it by mistake
                    self._held.add(item)
                    return item
        return None

    def release(self, item: str) -> None:
        """Give an item back, for any worker."""
        self._held.discard(item)
        with suppress(FileNotFoundError):  # taken over
            (self._place / item).rename(self.folder.todo / item)

    def done(self, item: str) -> None:
        """Drop the token of an item whose results are in their place."""
        self.finished += 1
        self._held.discard(item)
        for place in (self._place, self.folder.todo):  # where another freed it by mistake
            (place / item).unlink(missing_ok=True)

    def fail(self, item: str, message: str) -> None:
        """Record that an item failed."""
        self._held.discard(item)
        token = self._place / item
        if token.exists():  # else taken over
            write_text(token, message, "the message of a failure")
            token.rename(self.folder.failed / item)

    def others_at_work(self) -> bool:
        """Return whether others hold items that this worker could do; free those of dead ones."""
        working = False
        for worker in names(self.folder.claimed):
            held = self._items.intersection(names(self.folder.claimed / worker))
            if worker == self.name:
                continue
            if self._is_dead(worker):
                self._bury(worker)
            working = working or bool(held)
        return working

    def any_left(self) -> bool:
        """Return whether an item is free that this worker could do."""
        return not self._items.isdisjoint(names(self.folder.todo))

    def close(self) -> None:
        """Give all items back, and leave."""
        self._closing.set()
        self._heart.join()
        for item in names(self._place):
            self.release(item)
        with suppress(OSError):
            self._place.rmdir()
        self._pulse.unlink(missing_ok=True)

    def _is_dead(self, worker: str) -> bool:
        """Return whether the counter of a worker has stood still for too long."""
        try:
            pulse = (self.folder.workers / worker).read_text(encoding="utf-8")
        except OSError:
            pulse = ""
        now = time.monotonic()
        before, since = self._seen.get(worker, (None, now))
        if pulse != before:
            since = now
        self._seen[worker] = pulse, since
        return now - since > self.patience

    def _bury(self, worker: str) -> None:
        """Free the items of a dead worker. If several workers do, each item is freed once."""
        place = self.folder.claimed / worker
        for item in names(place):
            with suppress(FileNotFoundError):
                (place / item).rename(self.folder.todo / item)
        with suppress(OSError):
            place.rmdir()
        (self.folder.workers / worker).unlink(missing_ok=True)

    def _live(self) -> None:
        while not self._closing.wait(self.patience / BEATS):
            with suppress(OSError):  # the next beat may succeed
                self._beat()

    def _beat(self) -> None:
        """Write the counter. The file is closed each time, so that NFS shows it to others."""
        self._count += 1
        seconds = time.monotonic() - self._started
        pulse = {"beat": self._count, "finished": self.finished, "seconds": round(seconds, 3)}
        Path(self._pulse).write_text(json.dumps(pulse), encoding="utf-8")
