"""Intervals that hold for images of the user's kind, by conformal risk control.

Angelopoulos, Bates, Fisch, Lei and Schuster 2024, "Conformal risk control" (ICLR), with the share
of pixels outside their intervals as the risk. It is the form of split conformal calibration that
fits images, as in Angelopoulos et al. 2022, "Image-to-image regression with distribution-free
uncertainty quantification" (ICML). The half-width of a pixel is λ (s + ε), with its standard
deviation s.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from gprior.checks import InputError, number
from gprior.files import write_json

__all__ = ["Calibration", "factor_for", "least_images"]

FORMAT = "gprior-calibration-1"
FLOOR = 1 / 255  # ε: a pixel on which all samples agree may still be off by a gray level


@dataclass(frozen=True)
class Calibration:
    """A factor for the intervals of posterior samples, and what it was measured on.

    Attributes
    ----------
    level : float
        In the mean over images like the calibration images, at least this share of the pixels of an
        image is inside their intervals.
    factor, floor : float
        λ and ε: the half-width is λ (s + ε), in units of the pixels.
    images : int
        Number n of calibration images.
    before : float
        Mean share of the pixels inside the intervals before the calibration.
    settings : dict
        The prior, method, space, correction and number of samples.
    operator : str
        The operator of the calibration, as the user named it.
    """

    level: float
    factor: float
    images: int
    before: float
    settings: dict[str, Any]
    operator: str = ""
    floor: float = FLOOR

    def half_width(self, std: Tensor) -> Tensor:
        """Return the half-widths of the intervals for standard deviations s."""
        return self.factor * (std + self.floor)

    def check(self, settings: dict[str, Any]) -> None:
        """Refuse samples that were not drawn as those of the calibration."""
        for name, value in settings.items():
            if self.settings.get(name) != value:
                raise InputError(
                    f"the calibration was made with {name}={self.settings.get(name)!r}, but the "
                    f"samples have {name}={value!r}; calibrate with the settings of the samples"
                )

    def facts(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return asdict(self)

    def save(self, path: str | Path) -> None:
        """Write a JSON file, which also states the guarantee in words."""
        guarantee = (
            f"For images, operators and noise like those of the {self.images} calibration images, "
            f"the expected share of pixels inside their intervals is at least {self.level:g}. "
            "For other images nothing is guaranteed."
        )
        write_json(path, {"format": FORMAT, "guarantee": guarantee, **self.facts()}, "calibration")

    @classmethod
    def load(cls, path: str | Path) -> Calibration:
        """Read a file that `save` wrote.

        Raises
        ------
        InputError
            If it is no calibration.
        """
        try:
            values = json.loads(Path(path).read_text(encoding="utf-8"))
            if values.pop("format") != FORMAT:
                raise InputError("its format is another one")
            values.pop("guarantee")
            found = cls(**values)
            number("level", found.level, above=0)
            number("factor", found.factor, least=0)
            number("floor", found.floor, least=0)
        except (OSError, AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
            raise InputError(f"{path} is no calibration file of gprior: {error}") from error
        return found


def least_images(level: float) -> int:
    """Return how many calibration images a level needs at least: 9 for 0.9.

    >>> least_images(0.9), least_images(0.5)
    (9, 1)
    """
    return math.ceil(level / (1 - level) - 1e-9)


def factor_for(scores: Tensor, level: float) -> float:
    """Return λ for scores |x - mean| / (s + ε) of n images, (n, pixels).

    It is the least λ with n/(n+1) r(λ) + 1/(n+1) <= 1 - level, where r is the mean share of scores
    above λ.

    Raises
    ------
    InputError
        If there are too few images for this level.

    Examples
    --------
    >>> import torch
    >>> factor_for(torch.arange(1.0, 101.0).expand(19, 100), 0.9)
    95.0
    """
    n, pixels = scores.shape
    if n < least_images(level):
        raise InputError(
            f"images must be at least {least_images(level)} for level {level:g}, got {n}; add "
            "images or lower the level"
        )
    allowed = ((n + 1) * (1 - level) - 1) / n  # mean share of pixels outside
    outside = math.floor(allowed * n * pixels + 1e-6)
    ordered = scores.flatten().sort(descending=True).values
    return float(ordered[min(outside, n * pixels - 1)])
