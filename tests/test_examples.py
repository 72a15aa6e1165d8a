"""The scripts of the gallery, run with a very small budget."""

from __future__ import annotations

import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """Yield the figures that a script shows, without opening a window."""
    import matplotlib
    import matplotlib.pyplot as plt

    figures: list[Any] = []
    monkeypatch.setattr(plt, "show", lambda: figures.append(plt.gcf()))
    backend = matplotlib.get_backend()
    plt.switch_backend("Agg")
    yield figures
    plt.close("all")
    plt.switch_backend(backend)


def test_compare_methods(shown: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPRIOR_EXAMPLE_BUDGET", "8")
    runpy.run_path(str(EXAMPLES / "compare_methods.py"))
    (figure,) = shown
    panels = {(a.get_title(), a.get_images()[0].get_clim()) for a in figure.axes if a.get_title()}
    titles = ("Truth", "Measured", "Total variation", "CSGM", "L-BRGM", "SPHInX", "ILO")
    assert panels == {(title, (0, 1)) for title in titles}
    residuals = [a for a in figure.axes if "dB" in a.get_xlabel()]
    assert len(residuals) == 10
    for axis in residuals:
        (picture,) = axis.get_images()
        low, high = picture.get_clim()
        assert low == -high
        assert np.isfinite(picture.get_array()).all() and np.ptp(picture.get_array()) > 0.1
