"""Workers that are actors of a Ray cluster; needs the extra ``ray``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gprior.batch.worker import Job, Settings, work
from gprior.checks import InputError

__all__ = ["RayCrew"]

RESTARTS = 3  # of an actor whose process or machine was lost


class RayCrew:
    """Workers that are actors of a Ray cluster.

    Each actor loads the prior once. An actor that is lost is restarted, and works on from what the
    folder says. Every machine of the cluster must see the folder under the same path.

    Parameters
    ----------
    job, path, settings
        See `gprior.batch.worker.work`.
    places : sequence of str
        One for each actor: ``"all"`` is a GPU if the cluster has any, and ``"cpu"`` a processor.
    address : str, optional
        ``"auto"`` or the address of a cluster; None starts one on this machine.
    """

    def __init__(
        self,
        job: Job,
        path: Path,
        places: Sequence[str],
        settings: Settings,
        address: str | None,
    ) -> None:
        try:
            import ray
        except ImportError as error:
            raise InputError(
                'engine ray needs the package ray: pip install "gprior[ray]"'
            ) from error
        self._ray, self._own = ray, not ray.is_initialized()
        if self._own:
            ray.init(address=address, include_dashboard=False, log_to_driver=False)

        @ray.remote(max_restarts=RESTARTS, max_task_retries=RESTARTS)
        class Actor:
            def work(self, job: Job, path: str, device: str, settings: Settings) -> str:
                return work(job, Path(path), device, settings)

        kept, whole = ray.put(job), str(path.resolve())
        self._actors: list[Any] = []
        self._tasks: list[Any] = []
        for place in places:
            on_gpu = place != "cpu" and ray.cluster_resources().get("GPU", 0) > 0
            actor = Actor.options(num_gpus=int(on_gpu), num_cpus=1).remote()  # type: ignore[attr-defined]
            self._actors.append(actor)
            # An actor with a GPU of its own sees it as the first one.
            device = "cuda:0" if on_gpu else "cpu"
            self._tasks.append(actor.work.remote(kept, whole, device, settings))

    def working(self) -> bool:
        """Return whether at least one of them is at work."""
        _, pending = self._ray.wait(self._tasks, num_returns=len(self._tasks), timeout=0)
        return bool(pending)

    def close(self) -> list[str]:
        """Wait until all have left, and return what they reported."""
        said = []
        for task in self._tasks:
            try:
                said.append(self._ray.get(task))
            except Exception as error:  # whatever happened to it, the others went on
                said.append(f"a worker ended: {str(error).strip().splitlines()[-1]}")
        if self._own:
            self._ray.shutdown()
        return [text for text in said if text]

    def stop(self, at_once: bool = False) -> None:
        """End the actors. Their items are free for the next run, after its patience."""
        if self.working():
            for actor in self._actors:
                self._ray.kill(actor)
