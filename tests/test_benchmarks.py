"""The benchmarks: a run can be resumed, and the documented tables are those of the results."""

import csv
import importlib
import json
import statistics
from dataclasses import replace
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = (
    "augmentation", "auto_limits", "auto_pieces", "auto_seconds", "calibration", "compare_methods",
    "default", "encoder", "ilo_csgm", "lbrgm_brgm", "perceptual_weight", "population",
    "population_choices", "sphinx_domains", "sphinx_rates", "tuning",
)  # fmt: skip
# Their results are not in the repository yet.
NO_RESULTS = ("overparameterized", "path_length", "sphinx_heads", "stopping", "summary_grid")

pytestmark = pytest.mark.skipif(
    not (ROOT / "benchmarks").is_dir(), reason="only the repository has the benchmarks"
)


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module


@pytest.mark.parametrize("name", SCRIPTS + NO_RESULTS)
def test_different_cells_have_different_keys(name, script):
    for quick in (True, False):
        cells = {}
        for cell in script(name).cells(quick):
            assert cells.setdefault(cell.key, cell) == cell  # tables may share a cell
        assert len(cells) > 3


def test_the_key_has_the_stopping_rule_only_where_a_cell_names_one(script):
    Cell = script("cells").Cell
    usual = Cell("held out", (0, 2), "half", "lbrgm", {"budget": 60})
    assert usual.key == 'held out | 0-2 | half | lbrgm | {"budget": 60}'
    assert replace(usual, stop="auto").key == f"{usual.key} | stop=auto"


@pytest.mark.parametrize("name", SCRIPTS)
def test_tables_are_those_of_the_results(name, script):
    results = json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())
    for table, rows in script(name).tables(results, False).items():
        with (ROOT / "docs" / "tables" / f"{table}.csv").open(newline="") as file:
            assert list(csv.reader(file)) == rows


def test_each_method_has_its_best_rates(script):
    with (ROOT / "docs" / "tables" / "sphinx_rates.csv").open(newline="") as file:
        _, *rows = csv.reader(file)
    best = {}
    for _, method, *rates, _ in rows:
        names = ("lr", "lr_content", "lr_noise")
        values = {name: float(v) for name, v in zip(names, rates, strict=True) if v}
        best.setdefault(method, []).append(values)
    assert best == script("sphinx_domains").BEST


def test_opponents_have_their_best_rates(script):
    module = script("sphinx_heads")
    path = ROOT / "benchmarks" / "results" / "sphinx_heads.json"
    results = json.loads(path.read_text()) if path.is_file() else {}
    for method, (_, grid) in module.OPPONENTS.items():
        keys = [module.rate(method, rates, False).key for rates in grid]
        if not set(keys) <= set(results):
            pytest.skip("its results are not in the repository yet")
        psnr = [statistics.median(results[key]["psnr"]) for key in keys]
        assert module.BEST_OPPONENT[method] == grid[psnr.index(max(psnr))]


def test_a_run_resumes(script, tmp_path):
    cells = script("cells")
    path = tmp_path / "results.json"
    constants = {"budget": 3, "init": "mean", "perceptual": False}
    first = cells.Cell("held out, angle 30", (1, 2), "all", "i2s", constants, (20,))
    scores = cells.run([first], path, jobs=1)[first.key]
    assert len(scores["psnr"]) == len(scores["psnr at 20 dB"]) == 1
    assert len(scores["perceptual"]) == len(scores["term fidelity"]) == 1
    assert 5 < scores["psnr at 20 dB"][0] < scores["psnr"][0] + 1
    marked = {first.key: {**scores, "psnr": [99.0]}}
    path.write_text(json.dumps(marked))
    second = cells.Cell("outside", (0, 2), "noise 0.2", "A+")
    again = cells.run([first, second], path, jobs=1)
    assert again[first.key]["psnr"] == [99.0]  # not computed again
    # 14 dB, and more where the background was clamped.
    assert all(14 < psnr < 17 for psnr in again[second.key]["psnr"])
    assert json.loads(path.read_text()) == again


def test_images_do_not_depend_on_their_cell(script):
    import gprior

    cells = script("cells")
    prior = gprior.load_prior("phantom-64")
    for name in ("in range", "held out", "outside", "held out, shift 4"):
        whole = cells.truth(cells.Cell(name, (0, 4), "all", "A+"), prior)
        part = cells.truth(cells.Cell(name, (2, 4), "all", "A+"), prior)
        assert (whole[2:] - part).abs().max() < 1e-5
        assert whole.min() >= 0 and whole.max() <= 1


def test_wins(script):
    cells = script("cells")
    assert cells.wins([2, 3, 4, 5], [1, 2, 3, 5]) == "3 of 3, p = 0.25"
    assert cells.wins([2, 3, 4, 5], [1, 2, 3, 5], lower=True) == "0 of 3, p = 0.25"
    first = {"psnr": [20.0], "ssim": [0.8], "perceptual": [0.1]}
    second = {"psnr": [19.0], "ssim": [0.9], "perceptual": [0.2]}
    won = ["1 of 1, p = 1", "0 of 1, p = 1", "1 of 1, p = 1"]  # the smaller distance wins
    assert cells.metric_wins(first, second) == won
