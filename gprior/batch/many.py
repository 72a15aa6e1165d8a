"""`solve_many`: any number of measurements, resumable, by one worker or by many."""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gprior.batch.engines import check_engine, devices_of, run
from gprior.batch.folder import Folder
from gprior.batch.items import as_items
from gprior.batch.job import SolveJob
from gprior.batch.summary import write_status, write_summary
from gprior.batch.worker import Settings
from gprior.checks import integer, number
from gprior.priors import Prior
from gprior.result import Result

__all__ = ["Solved", "solve_many"]


@dataclass(frozen=True, eq=False)
class Solved:
    """An item that is done, or that failed.

    Attributes
    ----------
    id : str
        Its name.
    result : Result or None
        Its result, with one image; None if it failed.
    error : str or None
        Why it failed.
    """

    id: str
    result: Result | None
    error: str | None = None


def solve_many(
    items: Any,
    A: Any,
    prior: Prior,
    solver: Any = None,
    *,
    out: str | Path | None = None,
    engine: Any = "local",
    devices: str | None = None,
    workers: int = 1,
    address: str | None = None,
    max_batch: int | None = None,
    refill: bool = True,
    retry_failed: bool = False,
    patience: float = 60.0,
    **options: Any,
) -> Iterator[Solved]:
    """Reconstruct many images, each as `gprior.solve` does, and yield them as they are done.

    Items of one shape and operator go through the generator together. A row that is done leaves,
    and its place is filled by the next item. The answer of an item depends on the item, its seed
    and the options; it does not depend on the batch, the worker or the order.

    Parameters
    ----------
    items : sequence
        `gprior.Item` objects, mappings with their fields, or pairs (id, y). A measurement y has
        **no** batch dimension, and may be a function that returns it, so that not all of them are
        in memory.
    A : object
        The operator, as for `gprior.solve`, of every item that has none of its own. It acts on a
        batch of any size: operators with one parameter per image go with their items.
    prior : Prior
        The generator.
    solver : str or Solver, optional
        As for `gprior.solve`.
    out : path-like, optional
        Folder of the run, which has one folder for each item and a ``summary.csv``. A run that was
        stopped or killed continues with the same call. Any number of processes, on any machine that
        sees the folder, can make this call at the same time and share the work. None takes a
        temporary folder.
    engine : {"local", "ray"} or concurrent.futures.Executor
        Who works: this process or others of this machine, a Ray cluster (needs the extra ``ray``),
        or an executor. Other processes need items, A and prior that pickle.
    devices : str, optional
        ``"all"`` (every GPU, or else the CPU), ``"cpu"``, or such as ``"cuda:0,1"``. None is where
        the prior is.
    workers : int
        Workers for each device; of a Ray cluster, all of them. With ``engine="local"`` and one
        worker, this process works.
    address : str, optional
        Address of the Ray cluster; None starts one on this machine.
    max_batch : int, optional
        Rows (images times restarts) in the generator at once. None is as many as the free memory
        is enough for, at most 32 on a CPU and 256 on a GPU. It is halved where the memory is not
        enough.
    refill : bool
        Whether items start as soon as places are free. False waits until the whole batch is done.
    retry_failed : bool
        Whether items that failed in an earlier run are tried again.
    patience : float
        A worker that gives no sign of life for so many seconds is taken for dead, and its items are
        done by others.
    **options
        ``label``, ``noise_std``, ``seed``, ``stop``, ``restarts``, ``init``, ``correction``,
        ``check`` and ``budget`` of `gprior.solve`, and constants of the solver.

    Yields
    ------
    Solved
        Each item once, in the order in which they are done. An item that cannot be solved has an
        ``error``, and the others go on. Items that an earlier run has done come first.

    Raises
    ------
    InputError
        If an argument is wrong, two items have one id, or ``out`` has a run with other options.
    OSError
        If ``out`` cannot be written. If the disk is full, what can be done is done first.
    RuntimeError
        If workers ended and left items undone.

    Examples
    --------
    >>> import gprior
    >>> prior = gprior.load_prior("phantom-64")
    >>> A = gprior.operators.Downsampling(prior.image_shape, 4)
    >>> items = [(f"head-{k}", y) for k, y in enumerate(A(prior.sample(3, seed=1)))]
    >>> done = list(gprior.solve_many(items, A, prior, "csgm", steps=2))
    >>> sorted(one.id for one in done), done[0].result.x.shape
    (['head-0', 'head-1', 'head-2'], torch.Size([1, 1, 64, 64]))
    """
    if max_batch is not None:
        integer("max_batch", max_batch, least=1)
    check_engine(engine, workers)
    settings = Settings(number("patience", patience, above=0), refill)
    places = [str(prior.like.device)] if devices is None else devices_of(devices, engine)
    job = SolveJob(as_items(items), A, prior, solver, max_batch, options)
    temporary = None if out is not None else Path(tempfile.mkdtemp(prefix="gprior-"))
    folder = Folder(Path(out) if temporary is None else temporary)  # type: ignore[arg-type]
    try:
        folder.begin(job.facts(), job.inputs())
        folder.redo_damaged(job.items)
        if retry_failed:
            folder.retry_failed()
    except BaseException:
        _remove(temporary)
        raise
    stop = threading.Event()
    working = run(job, folder, engine, places, workers, settings, address, stop)
    return _solved(job, folder, working, stop, temporary)


def _solved(
    job: SolveJob,
    folder: Folder,
    working: Generator[str, None, list[str]],
    stop: threading.Event,
    temporary: Path | None,
) -> Iterator[Solved]:
    """Yield the items, first those that are done."""
    try:
        try:
            while True:
                try:
                    item = next(working)
                except StopIteration as end:
                    said = end.value
                    break
                yield _result(folder, item, temporary is not None)
        finally:
            stop.set()
            working.close()
            if temporary is None:
                folder.clean()
                write_summary(folder)
                write_status(folder)
        left = folder.tokens().intersection(job.items) - set(folder.failures())
        if left:
            raise RuntimeError(
                f"{len(left)} items are left, because workers ended early: {'; '.join(said)}. "
                "Call it again to continue"
            )
    finally:
        _remove(temporary)


def _result(folder: Folder, item: str, once: bool) -> Solved:
    """Return an item that is done, or why it failed; of a temporary folder, take it away."""
    place = folder.items / item
    if not place.exists():
        return Solved(item, None, folder.failures().get(item, "it failed"))
    result = Result.load(place / "result.safetensors")
    if once:
        shutil.rmtree(place)
    return Solved(item, result)


def _remove(temporary: Path | None) -> None:
    if temporary is not None:
        shutil.rmtree(temporary, ignore_errors=True)
