"""A training that measures its progress, and continues from a checkpoint."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gprior.checks import InputError
from gprior.files import atomic_write

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Run", "fast_precision"]


def fast_precision(like: Tensor) -> torch.autocast:
    """Return autocast to bfloat16 where a CPU computes faster in it, and no autocast elsewhere.

    Without the instructions of AVX-512, PyTorch emulates bfloat16, and a training step takes many
    times as long as in float32.

    Parameters
    ----------
    like : Tensor
        Has the dtype and the device of the networks.
    """
    fast = torch.backends.cpu.get_cpu_capability() == "AVX512"
    on = fast and like.device.type == "cpu" and like.dtype == torch.float32
    return torch.autocast("cpu", torch.bfloat16, enabled=on)


class Run(ABC):
    """A training as steps, whose progress is measured and can be saved.

    Parameters
    ----------
    settings : dataclass
        Constants of the run, with ``steps`` among them.
    config : dict
        What a checkpoint must agree on with the run that continues from it.
    **defaults
        Entries of ``config`` that checkpoints of older versions lack.

    Attributes
    ----------
    step, seconds : int, float
        Number of steps that were taken, and the time that they took.
    curve : list of dict
        One entry for each measurement.
    """

    PARTS: tuple[str, ...] = ()  # attributes whose states a checkpoint has
    SHOWN: tuple[str, ...] = ()  # entries of the curve that a progress bar shows
    LATER: tuple[str, ...] = ()  # those among them that checkpoints have gained

    def __init__(self, settings: Any, config: dict[str, Any], **defaults: Any) -> None:
        self.settings, self.config, self._defaults = settings, config, defaults
        self.step, self.seconds = 0, 0.0
        self.curve: list[dict[str, Any]] = []

    @abstractmethod
    def _step(self) -> dict[str, float]:
        """Take a step and return the losses by name."""

    @abstractmethod
    def measure(self) -> dict[str, Any]:
        """Return what an entry of the curve has in addition to the losses."""

    def train(
        self,
        tick: Callable[[dict[str, float]], object] = lambda values: None,
        every: int = 500,
        report: Callable[[Self], object] = lambda run: None,
    ) -> None:
        """Train until the last step.

        Parameters
        ----------
        tick : callable
            Called after each step with the losses by name.
        every : int
            Interval in steps at which the progress is measured.
        report : callable
            Called with this run after each of these measurements, and at the end.
        """
        while self.step < self.settings.steps:
            started = time.perf_counter()
            values = self._step()
            self.step += 1
            self.seconds += time.perf_counter() - started
            tick(values)
            if self.step % every == 0 or self.step == self.settings.steps:
                self.curve.append({"step": self.step, "seconds": self.seconds, **values})
                self.curve[-1] |= self.measure()
                report(self)

    def save(self, path: Path) -> None:
        """Write a checkpoint from which `restore` continues; an interruption leaves the old one."""
        state = {
            "step": self.step,
            "seconds": self.seconds,
            "curve": self.curve,
            "settings": asdict(self.settings),
            "config": self.config,
            **{name: getattr(self, name).state_dict() for name in self.PARTS},
        }
        with atomic_write(path) as temporary:
            torch.save(state, temporary)

    def restore(self, path: Path) -> None:
        """Continue from a checkpoint written by `save`.

        Raises
        ------
        ValueError
            If it is a checkpoint of another architecture, or was cut short.
        """
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            progress = state["step"], state["seconds"], state["curve"]
            config = {**self._defaults, **state["config"]}
            parts = {k: state[k] for k in self.PARTS if k in state or k not in self.LATER}
        except Exception as error:
            raise InputError(f"{path} is no readable training checkpoint: {error}") from error
        if config != self.config:
            raise InputError(
                f"{path} is a checkpoint of another architecture: {config}, "
                f"not {self.config}; give the same sizes or another folder"
            )
        for name, part in parts.items():
            getattr(self, name).load_state_dict(part)
        self.step, self.seconds, self.curve = progress
