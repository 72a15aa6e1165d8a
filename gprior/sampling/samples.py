"""What `gprior.posterior` returns, and how it is kept."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from scipy.stats import t as student
from torch import Tensor

from gprior.checks import InputError, number
from gprior.files import open_tensors, write_tensors, write_text
from gprior.sampling.conformal import Calibration

__all__ = ["Posterior"]

FORMAT = "gprior-posterior-1"


@dataclass(frozen=True, eq=False)
class Posterior:
    """Samples of the images that explain the measurements; every value is one per image.

    Attributes
    ----------
    samples : Tensor
        K samples of each image, (B, K, C, H, W), nominally in [0, 1], not clamped.
    generated : Tensor
        (B, K, C, H, W), what the generator makes of the latents. Without correction it is
        ``samples``.
    latents : dict of Tensor
        The latents of the samples, each (B, K, ...), by the names of ``Result.latents``.
    misfit : Tensor
        (B, K), root mean square of y - A x of the generated image, in units of the noise level.
    noise_std : Tensor
        (B, K), the noise level. Where it was unknown, it is a sample too.
    converged : Tensor
        (B, K), whether the search of this sample has converged. Samples that have not converged
        may agree and be wrong.
    redone : Tensor
        (B, K), whether the search of this sample was stuck and was done again.
    evaluations : Tensor
        (B,), forward and backward passes of the generator for all samples of an image; a forward
        alone counts 1/3.
    p_value : Tensor or None
        (B,), the share of simulated problems of the prior's own samples that have a larger misfit.
        Below 0.05 the prior does not contain this image, and the intervals are about images of the
        prior, not about this one.
    r_hat : Tensor or None
        (B,), split R-hat of the chains, with ``method="hmc"``. Above 1.05 they have not mixed.
    seed : list of int
        Seed of each image.
    method, space, noise : str
        The method, the space of the latents, and what was known of the noise.
    correction : str or None
        ``"auto"`` if the samples were corrected, each against its own perturbed measurements.
    prior : dict
        Name and record of the prior.
    seconds : float
        Wall-clock time of the whole batch.
    calibration : Calibration or None
        What scales the intervals, from `calibrated`.
    """

    samples: Tensor
    generated: Tensor
    latents: dict[str, Tensor]
    misfit: Tensor
    noise_std: Tensor
    converged: Tensor
    redone: Tensor
    evaluations: Tensor
    p_value: Tensor | None
    r_hat: Tensor | None
    seed: list[int]
    method: str
    space: str
    noise: str
    correction: str | None
    prior: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    calibration: Calibration | None = None

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.samples)

    @property
    def mean(self) -> Tensor:
        """The mean of the samples, (B, C, H, W): the estimate of least expected square error."""
        return self.samples.mean(1)

    @property
    def std(self) -> Tensor:
        """The standard deviation of the samples, (B, C, H, W)."""
        return self.samples.std(1)

    def interval(self, level: float | None = None) -> tuple[Tensor, Tensor]:
        """Return the ends of an interval for each pixel, (B, C, H, W) each.

        It is mean ± t s sqrt(1 + 1/K), with the quantile t of Student's distribution: for a normal
        posterior, the true pixel is inside with probability ``level``, however few samples there
        are. If the posterior is `calibrated`, the half-widths are those of the calibration instead.

        Parameters
        ----------
        level : float, optional
            Above 0 and below 1. The default is 0.9, or the level of the calibration.

        Raises
        ------
        InputError
            If the level is out of range, or not that of the calibration.
        """
        known = self.calibration
        level = number(
            "level", (known.level if known else 0.9) if level is None else level, above=0
        )
        if level >= 1:
            raise InputError(f"level must be below 1, got {level}")
        if known is not None:
            if level != known.level:
                raise InputError(
                    f"level must be that of the calibration, {known.level}, got {level}; calibrate "
                    "for this level, or ask the posterior that is not calibrated"
                )
            half = known.half_width(self.std)
        else:
            return self.interval_of(self.samples, level)
        return self.mean - half, self.mean + half

    @staticmethod
    def interval_of(samples: Tensor, level: float) -> tuple[Tensor, Tensor]:
        """Return the ends of the interval of samples (B, K, ...) of anything; see `interval`."""
        K = samples.shape[1]
        half = samples.std(1) * float(student.ppf(0.5 + level / 2, K - 1)) * math.sqrt(1 + 1 / K)
        mean = samples.mean(1)
        return mean - half, mean + half

    def calibrated(self, calibration: Calibration | str | Path) -> Posterior:
        """Return the same samples, with intervals that were calibrated on images like yours.

        Parameters
        ----------
        calibration : Calibration or path
            From `gprior.calibrate`, or the file that ``gprior calibrate`` wrote.

        Raises
        ------
        InputError
            If the calibration is of another prior, method, space, correction or number of samples.
        """
        if not isinstance(calibration, Calibration):
            calibration = Calibration.load(calibration)
        calibration.check(self.settings())
        return replace(self, calibration=calibration)

    def settings(self) -> dict[str, Any]:
        """Return what a calibration depends on."""
        return {
            "prior": self.prior.get("sha256"),
            "method": self.method,
            "space": self.space,
            "correction": self.correction,
            "samples": self.samples.shape[1],
        }

    def facts(self) -> dict[str, Any]:
        """Return everything but the images and latents, as JSON values."""

        def plain(value: Any) -> Any:
            if isinstance(value, Tensor):
                return plain(value.tolist())
            if isinstance(value, list):
                return [plain(part) for part in value]
            return None if isinstance(value, float) and not math.isfinite(value) else value

        names = [f.name for f in fields(self) if f.name not in (*ARRAYS, "latents", "calibration")]
        values = {name: plain(getattr(self, name)) for name in names}
        return {
            **values,
            "calibration": None if self.calibration is None else self.calibration.facts(),
            "note": "samples of a generative model, not for diagnosis",
        }

    def save(self, path: str | Path) -> None:
        """Write one safetensors file, and its facts as a ``.json`` file beside it.

        Raises
        ------
        InputError
            If the path does not end in ``.safetensors``.
        OSError
            If it cannot be written; nothing is left behind.
        """
        values = {name: getattr(self, name) for name in (*ARRAYS, *TENSORS)}
        tensors = {name: value for name, value in values.items() if value is not None}
        tensors |= {f"latents.{k}": v for k, v in self.latents.items()}
        facts = json.dumps(self.facts(), indent=1)
        write_tensors(path, tensors, {"format": FORMAT, "gprior": facts}, "the samples")
        write_text(Path(path).with_suffix(".json"), facts + "\n", "the facts of the samples")

    @classmethod
    def load(cls, path: str | Path) -> Posterior:
        """Read samples that `save` wrote.

        Raises
        ------
        InputError
            If the file is truncated, or has no posterior samples.
        """
        with open_tensors(path, FORMAT, "has no whole posterior samples") as (metadata, tensors):
            facts = json.loads(metadata["gprior"])
            known = facts["calibration"]
            latents = {k[8:]: v for k, v in tensors.items() if k.startswith("latents.")}
            return cls(
                **{name: tensors[name] for name in ARRAYS},
                **{name: tensors.get(name) for name in TENSORS},  # type: ignore[arg-type]
                **{name: facts[name] for name in FACTS},
                latents=latents,
                calibration=None if known is None else Calibration(**known),
            )


ARRAYS = ("samples", "generated")
TENSORS = ("misfit", "noise_std", "converged", "redone", "evaluations", "p_value", "r_hat")
FACTS = ("seed", "method", "space", "noise", "correction", "prior", "seconds")
