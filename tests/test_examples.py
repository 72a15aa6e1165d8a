"""The scripts of the gallery, run with a very small budget."""

from __future__ import annotations

import re
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


def panels_of(figure: Any) -> dict[str, list[Any]]:
    """Return the axes of a figure by their titles."""
    found: dict[str, list[Any]] = {}
    for axis in figure.axes:
        if axis.get_title():
            found.setdefault(axis.get_title(), []).append(axis)
    return found


def numbers_below(axis: Any) -> tuple[float, float, float]:
    """Return score, SSIM and data consistency in percent from the label below a panel."""
    score, ssim, share = re.findall(r"[\d.]+", axis.get_xlabel())
    return float(score), float(ssim), float(share)


def test_multicoil_mri(shown: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPRIOR_EXAMPLE_BUDGET", "8")
    runpy.run_path(str(EXAMPLES / "multicoil_mri.py"))
    (figure,) = shown
    methods = ["Zero-filled", "SENSE", "Total variation", "gprior"]
    panels = panels_of(figure)
    assert set(panels) == {"Truth", "k-space of one coil", *methods}
    assert all(len(axes) == 2 for axes in panels.values())  # two slices
    found = [numbers_below(a) for a in figure.axes if "dB" in a.get_xlabel()]
    assert len(found) == 8
    for zero, sense, tv, ours in (found[:4], found[4:]):
        assert zero[0] < sense[0] < tv[0] and ours[0] > 10
        assert sense[2] < zero[2]  # least squares fit the measurements better
        noise = float(re.findall(r"[\d.]+", panels["Truth"][0].get_xlabel())[0])
        assert 2 < noise < 10 and tv[2] < 2 * noise


def test_sparse_view_ct(shown: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPRIOR_EXAMPLE_BUDGET", "8")
    runpy.run_path(str(EXAMPLES / "sparse_view_ct.py"))
    (figure,) = shown
    methods = ["Back-projection", "Least squares", "Total variation", "gprior"]
    panels = panels_of(figure)
    assert set(panels) == {"Truth", "Sinogram, 30 views", *methods}
    (truth,) = panels["Truth"][0].get_images()
    assert truth.get_array().min() < -800 and truth.get_array().max() > 500  # HU
    found = [numbers_below(a) for a in figure.axes if "HU" in a.get_xlabel()]
    back, squares, tv, ours = found
    assert tv[0] < squares[0] < back[0] < 200  # HU
    assert squares[2] < back[2] and ours[0] < 500


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
