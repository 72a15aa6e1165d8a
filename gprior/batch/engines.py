"""Who works: this process, processes of this machine, an executor, or a Ray cluster.

All workers share the folder of the run and nothing else. So an engine only starts them and says
whether they are still there; `follow` sees in the folder what they have done.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from dataclasses import replace
from typing import Any, Protocol

import torch

from gprior.batch.folder import Folder, names
from gprior.batch.processes import Processes, packed
from gprior.batch.worker import Job, Settings, Worker, work
from gprior.checks import InputError, InputTypeError, integer

__all__ = ["Crew", "check_engine", "devices_of", "ended", "run"]

POLL = 0.2  # seconds between two looks at the folder


class Crew(Protocol):
    """Workers that were started."""

    def working(self) -> bool:
        """Return whether at least one of them is at work."""

    def close(self) -> list[str]:
        """Wait until all have left, and return what they reported: full disks and errors."""

    def stop(self, at_once: bool = False) -> None:
        """Ask them to give their items back and leave, or end them."""


def devices_of(text: str, engine: Any = "local") -> list[str]:
    """Return the devices that a text stands for.

    Parameters
    ----------
    text : str
        ``"all"``: every GPU, or else the CPU; ``"cpu"``; or GPUs, such as ``"cuda:0,1"``.
    engine : object
        See `start`. Ray places its workers itself: on GPUs or on CPUs.

    Raises
    ------
    InputError
        If the text is none of these, or a GPU does not exist.

    Examples
    --------
    >>> devices_of("cpu")
    ['cpu']
    """
    if engine == "ray" and text in ("all", "cpu"):
        return [text]
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if text == "all":
        return [f"cuda:{k}" for k in range(count)] or ["cpu"]
    if text == "cpu":
        return ["cpu"]
    numbers = text.removeprefix("cuda:").split(",") if text != "cuda" else ["0"]
    if text.startswith("cuda") and all(number.isdecimal() for number in numbers):
        if max(map(int, numbers)) >= count:
            raise InputError(
                f"devices {text} needs GPUs that torch does not find: there are {count}; use cpu, "
                "or install a CUDA build of torch"
            )
        return [f"cuda:{int(number)}" for number in numbers]
    raise InputError(f"devices must be all, cpu, or such as cuda:0,1, got {text!r}")


def start(
    engine: Any,
    job: Job,
    folder: Folder,
    devices: Sequence[str],
    workers: int,
    settings: Settings,
    address: str | None = None,
) -> Crew:
    """Start workers outside this process.

    Parameters
    ----------
    engine : {"local", "ray"} or concurrent.futures.Executor
        Where they run.
    job, folder, settings
        See `Worker`.
    devices : sequence of str
        Where they compute; each device has ``workers`` of them.
    workers : int
        At least 1.
    address : str, optional
        The address of a Ray cluster.

    Raises
    ------
    InputError
        If the run cannot be sent to other processes.
    """
    places = [device for device in devices for _ in range(workers)]
    if engine == "ray":
        from gprior.batch.ray_engine import RayCrew

        return RayCrew(job, folder.path, places, settings, address)
    if isinstance(engine, Executor):
        return Submitted(engine, job, folder, places, settings)
    if devices == ["cpu"]:
        settings = replace(settings, threads=max(1, torch.get_num_threads() // len(places)))
    return Processes(job, folder, places, settings)


def check_engine(engine: Any, workers: int) -> None:
    """Refuse an engine that is unknown, and less than one worker.

    Raises
    ------
    InputError
        The message names the engines.
    """
    if engine not in ("local", "ray") and not isinstance(engine, Executor):
        raise InputTypeError(
            f"engine must be 'local', 'ray' or a concurrent.futures.Executor, got {engine!r}"
        )
    integer("workers", workers, least=1)


class Submitted:
    """Workers that run in an executor."""

    def __init__(
        self,
        executor: Executor,
        job: Job,
        folder: Folder,
        places: Sequence[str],
        settings: Settings,
    ) -> None:
        kept = packed(job) if isinstance(executor, ProcessPoolExecutor) else job
        self._futures: list[Future[str]] = [
            executor.submit(work, kept, folder.path, place, settings) for place in places
        ]

    def working(self) -> bool:
        """Return whether at least one of them is at work."""
        return any(not future.done() for future in self._futures)

    def close(self) -> list[str]:
        """Wait until all have left, and return what they reported."""
        said = []
        for future in self._futures:
            try:
                said.append(future.result())
            except Exception as error:  # whatever happened to it, the others went on
                said.append(f"a worker ended: {error or type(error).__name__}")
        return [text for text in said if text]

    def stop(self, at_once: bool = False) -> None:
        """Take back those that have not started; the others finish."""
        for future in self._futures:
            future.cancel()


def run(
    job: Job,
    folder: Folder,
    engine: Any,
    devices: Sequence[str],
    workers: int,
    settings: Settings,
    address: str | None = None,
    stop: threading.Event | None = None,
) -> Generator[str, None, list[str]]:
    """Do the items of a folder, and yield the name of each that is done or failed, once.

    Those of earlier runs come first. One local worker is this process. The other parameters are
    those of `start`; when ``stop`` is set, the workers end their steps, give their items back and
    leave.

    Returns
    -------
    list of str
        What made workers leave early, in words.
    """
    stop = stop or threading.Event()
    seen = ended(folder, job.items)
    yield from sorted(seen)
    if engine == "local" and len(devices) * workers == 1:
        worker = Worker(job, folder, devices[0], settings, stop)
        for item in worker.run():
            if item not in seen:
                seen.add(item)
                yield item
        yield from sorted(ended(folder, job.items) - seen)  # by other workers of the folder
        return [worker.full] if worker.full else []
    crew = start(engine, job, folder, devices, workers, settings, address)
    try:
        yield from follow(folder, job.items, crew, stop, seen)
    except KeyboardInterrupt:
        crew.stop(at_once=True)
        raise
    finally:
        crew.stop()
        said = crew.close()
    return said if folder.tokens() - set(names(folder.failed)) else []


def ended(folder: Folder, items: Sequence[str]) -> set[str]:
    """Return the items that are done or failed."""
    return {*names(folder.items), *names(folder.failed)}.intersection(items)


def follow(
    folder: Folder, items: Sequence[str], crew: Crew, stop: threading.Event, seen: set[str]
) -> Iterator[str]:
    """Yield the items, but those seen before, as workers finish them, or as they fail."""
    working = True
    while working:
        # Asked before the look, which so sees all that they did. A worker that is still starting
        # when everything is done is not waited for.
        working = crew.working() and len(seen) < len(items)
        now = ended(folder, items)
        yield from sorted(now - seen)
        seen |= now
        if stop.is_set():
            crew.stop()
        if working:
            time.sleep(POLL)
