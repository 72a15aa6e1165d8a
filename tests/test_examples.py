"""The scripts of the gallery, run with a very small budget."""

from __future__ import annotations

import re
import runpy
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

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


def numbers_below(axis: Any) -> tuple[float, float]:
    """Return score and data consistency in percent, the first and the last number of a label."""
    score, *_, share = re.findall(r"[\d.]+", axis.get_xlabel())
    return float(score), float(share)


def test_multicoil_mri(shown: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPRIOR_EXAMPLE_BUDGET", "8")
    runpy.run_path(str(EXAMPLES / "multicoil_mri.py"))
    (figure,) = shown
    methods = ["Zero-filled", "SENSE", "Total variation", "auto, generated", "auto, final"]
    panels = panels_of(figure)
    assert set(panels) == {"Truth", *methods}
    assert all(len(axes) == 2 for axes in panels.values())  # two slices
    found = [numbers_below(a) for a in figure.axes if "dB" in a.get_xlabel()]
    assert len(found) == 10
    for zero, sense, tv, generated, final in (found[:5], found[5:]):
        assert zero[0] < sense[0] < tv[0] and 10 < generated[0] < final[0]
        assert final[1] < generated[1]  # the correction brings the image nearer to y
        assert sense[1] < zero[1]  # least squares fit the measurements better
        noise = float(re.findall(r"[\d.]+", panels["Truth"][0].get_xlabel())[0])
        assert 2 < noise < 10 and tv[1] < 2 * noise


def test_sparse_view_ct(shown: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPRIOR_EXAMPLE_BUDGET", "8")
    runpy.run_path(str(EXAMPLES / "sparse_view_ct.py"))
    (figure,) = shown
    methods = ["Back-projection", "Least squares", "Total variation"]
    panels = panels_of(figure)
    assert set(panels) == {"Truth", *methods, "auto, generated", "auto, final"}
    (truth,) = panels["Truth"][0].get_images()
    assert truth.get_array().min() < -800 and truth.get_array().max() > 500  # HU
    found = [numbers_below(a) for a in figure.axes if "HU" in a.get_xlabel()]
    back, squares, tv, generated, final = found
    assert tv[0] < squares[0] < back[0] < 200  # HU
    assert squares[1] < back[1] and final[1] < generated[1]
    assert final[0] < generated[0] and final[0] < 500


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


def test_prior_does_not_fit(
    shown: list[Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import gprior.solving.reconstruction

    # The check itself takes thousands of evaluations, and has its own tests.
    def shares(problem: Any, *rest: Any) -> Any:
        return torch.linspace(0, 0.8, len(problem), dtype=torch.float64)

    monkeypatch.setattr(gprior.solving.reconstruction, "plausibility", shares)
    monkeypatch.setenv("GPRIOR_EXAMPLE_BUDGET", "6")
    values = runpy.run_path(str(EXAMPLES / "prior_does_not_fit.py"))
    (figure,) = shown
    rows = np.array(figure.axes).reshape(5, 5)
    for row, axes in enumerate(rows):
        assert all(axis.get_images()[0].get_clim() == (0, 1) for axis in axes)
        pictures = [np.asarray(axis.get_images()[0].get_array()) for axis in axes]
        images = [values["truth"]]
        for k, result in enumerate(values["results"].values()):
            images += [result.generated, result.x]
            said, weight = (axes[i].get_title().splitlines()[-1] for i in (1 + 2 * k, 2 + 2 * k))
            checked = f", plausibility {0.2 * row:.2f}" if k == 0 else ""
            assert said == f"misfit {result.misfit[row]:.2f}{checked}"
            assert weight == f"prior weight {result.prior_weight[row]:.2f}"
        for picture, x in zip(pictures, images, strict=True):
            np.testing.assert_array_equal(picture, x[row, 0].numpy())
    # A disc of 1 in a phantom whose mean there is known from the arrays themselves.
    lesion, around, head = values["lesion"], values["around"], values["head"][0, 0]
    assert f"truth: {1 - head[around].mean():.2f};" in capsys.readouterr().out
    assert int(lesion.sum()) == 49 and not (lesion & around).any()


def test_posterior_samples(
    shown: list[Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GPRIOR_EXAMPLE_BUDGET", "15")
    runpy.run_path(str(EXAMPLES / "posterior_samples.py"))
    (figure,) = shown
    panels = panels_of(figure)
    assert {"truth", "y", "mean", "sample 6", "standard deviation"} <= set(panels)
    seen, missing = (float(v) for v in re.findall(r"half ([\d.]+)", capsys.readouterr().out))
    assert missing > 1.5 * seen


def test_edits(
    shown: list[Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GPRIOR_EXAMPLE_BUDGET", "20")
    values = runpy.run_path(str(EXAMPLES / "edits.py"))
    (figure,) = shown
    rows = list(values["rows"].values())
    for axes, images in zip(np.array(figure.axes).reshape(5, 5), rows, strict=True):
        for axis, x in zip(axes, images, strict=True):
            np.testing.assert_array_equal(axis.get_images()[0].get_array(), x[0, 0].numpy())
    one, t2, component, found, _ = rows
    for images in (t2, component):  # at an amount of 0, the reconstruction itself
        middle = images[0] if images is t2 else images[2]
        torch.testing.assert_close(middle, values["first"].x)
    torch.testing.assert_close(one[4], values["second"].x)
    assert [float((a - b).abs().mean()) > 0.001 for a, b in pairwise(found)] == [True] * 4
    printed = capsys.readouterr().out
    shares = [float(v) for v in re.findall(r"share ([\d.-]+), of", printed)]
    assert len(shares) == 4 and shares == sorted(shares)
    steps = [abs(float(v)) for v in re.findall(r"ed: ([\d.-]+)", printed)]
    assert len(steps) == 3 and steps[2] < steps[1]
