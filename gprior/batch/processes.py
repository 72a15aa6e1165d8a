"""Workers that are processes of this machine, and how Ctrl-C reaches them."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from gprior.batch.folder import Folder
from gprior.batch.worker import Job, Settings, work
from gprior.checks import InputError

__all__ = ["Processes", "interruptible", "packed"]


class Processes:
    """Workers that are processes of this machine."""

    def __init__(self, job: Job, folder: Folder, places: Sequence[str], settings: Settings) -> None:
        context = multiprocessing.get_context("spawn")  # a fork would break CUDA and threads
        self._stop, self._said = context.Event(), context.SimpleQueue()
        kept = packed(job)
        arguments = [(kept, folder, place, settings, self._stop, self._said) for place in places]
        self._processes = [context.Process(target=_process, args=a) for a in arguments]
        # A start waits until the new process reads the job, so they start side by side.
        with ThreadPoolExecutor(len(places)) as starters:
            list(starters.map(multiprocessing.process.BaseProcess.start, self._processes))

    def working(self) -> bool:
        """Return whether at least one of them is at work."""
        return any(process.is_alive() for process in self._processes)

    def close(self) -> list[str]:
        """Wait until all have left, and return what they reported."""
        for process in self._processes:
            process.join()
        said = []
        while not self._said.empty():
            said.append(self._said.get())
        codes = [process.exitcode or 0 for process in self._processes]
        said += [f"a worker was ended by signal {-code}" for code in codes if code < 0]
        return said + [f"a worker ended with code {code}" for code in codes if code > 0]

    def stop(self, at_once: bool = False) -> None:
        """Ask them to give their items back and leave, or end them."""
        self._stop.set()
        if at_once:
            for process in self._processes:
                process.terminate()


def packed(job: Job) -> bytes:
    """Return a job as bytes for `gprior.batch.worker.work` in another process.

    The pickler of `multiprocessing` would move the weights of the user's prior into shared memory,
    which is small in many containers, and the prior would forget what was measured on it.

    Raises
    ------
    InputError
        If a part of the job does not pickle.
    """
    try:
        return pickle.dumps(job)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise InputError(
            f"workers in other processes need an A, a prior and items that pickle: {error}; "
            "use workers=1, or functions and classes of a module"
        ) from error


def _process(
    job: bytes, folder: Folder, place: str, settings: Settings, stop: Any, said: Any
) -> None:
    """Work in a process of its own, which leaves the first Ctrl-C to its parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _end_with_parent()
    try:
        full = work(job, folder.path, place, settings, stop)
        if full:
            said.put(full)
    except (InputError, OSError) as error:
        said.put(str(error))


def _end_with_parent() -> None:
    """End this process when its parent has gone, so that nobody works unseen."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def interruptible(stopping: Callable[[], object]) -> Iterator[None]:
    """Call a function at the first Ctrl-C; let the second one end the process at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def first(number: int, frame: Any) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        stopping()

    before = signal.signal(signal.SIGINT, first)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
