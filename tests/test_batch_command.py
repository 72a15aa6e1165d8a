"""``gprior batch`` and ``gprior status``: files in, a folder of results out."""

from __future__ import annotations

import csv
import json
import re
import shutil
import signal
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
import torch
from pydicom.data import get_testdata_file
from typer.testing import CliRunner

import gprior
from gprior.batch import Folder, records, worker
from gprior.checkpoints import save_prior
from gprior.checks import InputError
from gprior.cli import main
from gprior.commands import task
from gprior.commands.batch import How, run_batch
from gprior.commands.manifest import entries_of
from gprior.commands.reconstruct import Options, run as reconstruct
from gprior.commands.run_report import write_run_report
from gprior.commands.status import describe_run
from gprior.images import save_png
from gprior.operators import from_spec

QUIET = How(quiet=True, patience=5, devices="cpu")


@pytest.fixture(scope="module")
def prior(tiny_prior):
    return tiny_prior(16, 1, 3, torch.float32)


@pytest.fixture(scope="module")
def prior_file(prior, tmp_path_factory):
    path = tmp_path_factory.mktemp("prior") / "tiny.safetensors"
    save_prior(prior, path)
    return path


@pytest.fixture
def options(prior_file):
    def make(operator: str = "downsample:2", **others: Any) -> Options:
        given = {"prior": str(prior_file), "constants": ("steps=3",), "check": False}
        return Options(operator, **{"device": "cpu", "simulate": True, **given, **others})

    return make


@pytest.fixture
def without_figures(monkeypatch):
    """Leave out what takes most of the time of a small item: the figure for print."""
    for place in ("reconstruct", "volume"):
        monkeypatch.setattr(
            f"gprior.commands.{place}.write_figure", lambda path, cases: path.write_bytes(b"")
        )


@pytest.fixture
def pictures(prior, tmp_path):
    folder = tmp_path / "in"
    (folder / "sub").mkdir(parents=True)
    for k, x in enumerate(prior.sample(4, seed=1).clamp(0, 1).numpy()):
        save_png(folder / ("sub/d.png" if k == 3 else f"{'abc'[k]}.png"), x)
    (folder / "notes.txt").write_text("no image")
    (folder / ".hidden.png").write_bytes(b"")
    return folder


def write_series(folder: Path, count: int) -> None:
    folder.mkdir(parents=True)
    data = pydicom.dcmread(str(get_testdata_file("CT_small.dcm", download=False)))
    for k in range(count):
        data.ImagePositionPatient = [0, 0, 2.5 * k]
        data.InstanceNumber, data.SOPInstanceUID = k + 1, f"1.2.{k + 1}"
        data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
        data.save_as(folder / f"{k}")


def loaded(folder: Path) -> gprior.Result:
    return gprior.Result.load(folder / "result.safetensors")


def test_a_folder_of_images(pictures, tmp_path, options):
    """Each item has what `reconstruct` writes, and its answer."""
    given = options(noise=0.05, seed=3)
    text, code = run_batch(pictures, tmp_path / "out", given, QUIET)
    assert code == 0 and text.startswith("4 of 4 done, 0 running on 0 workers, 0 failed, 0 left")
    items = tmp_path / "out" / "items"
    assert sorted(p.name for p in items.iterdir()) == ["a.png", "b.png", "c.png", "sub-d.png"]
    reconstruct(pictures / "sub" / "d.png", tmp_path / "one", given)
    alone = {path.name for path in (tmp_path / "one").iterdir()}
    written = {path.name for path in (items / "sub-d.png").iterdir()}
    assert written == {*alone, "item.json", "thumbnail.png"}
    one, many = loaded(tmp_path / "one"), loaded(items / "sub-d.png")
    assert (one.x - many.x).abs().max() < 1e-2
    assert one.seed == many.seed == [3] and many.solver["name"] == "auto"
    with (tmp_path / "out" / "summary.csv").open(newline="") as file:
        rows = {row["id"]: row for row in csv.DictReader(file)}
    record = json.loads((items / "a.png" / "record.json").read_text())
    assert float(rows["a.png"]["misfit"]) == pytest.approx(record["misfit"][0], rel=1e-4)
    assert float(rows["a.png"]["psnr"]) > 5
    assert not (tmp_path / "out" / "failed.json").exists()


@pytest.mark.usefixtures("without_figures")
def test_the_prior_is_loaded_once(pictures, tmp_path, options, monkeypatch):
    loads, load = [], task.load_prior
    monkeypatch.setattr(task, "load_prior", lambda *a: loads.append(a) or load(*a))
    run_batch(pictures, tmp_path / "out", options(), QUIET)
    assert len(loads) == 1


@pytest.mark.usefixtures("without_figures")
def test_a_file_that_is_no_image_fails_alone(pictures, tmp_path, options):
    (pictures / "bad.png").write_bytes(b"\x89PNG\r\n and nothing else")
    out = tmp_path / "out"
    text, code = run_batch(pictures, out, options(), QUIET)
    assert code == 1 and "1 failed: see" in text
    failures = json.loads((out / "failed.json").read_text())
    assert list(failures) == ["bad.png"] and "bad.png" in failures["bad.png"]
    assert failures["bad.png"] in (out / "report.html").read_text().replace("&#x27;", "'")
    # Repaired, it is done by a run that is asked to try it again. A result that is there is no
    # more that of its file if the file changes.
    shutil.copy(pictures / "a.png", pictures / "bad.png")
    assert run_batch(pictures, out, options(), QUIET)[1] == 1
    assert run_batch(pictures, out, options(), replace(QUIET, retry_failed=True))[1] == 0
    shutil.copy(pictures / "b.png", pictures / "a.png")
    with pytest.raises(InputError, match=r"a\.png changed since the first run"):
        run_batch(pictures, out, options(), QUIET)
    shutil.rmtree(out / "items" / "a.png")
    assert run_batch(pictures, out, options(), QUIET)[1] == 0
    a, b = loaded(out / "items" / "a.png"), loaded(out / "items" / "b.png")
    assert (a.x - b.x).abs().max() < 1e-2


@pytest.mark.usefixtures("without_figures")
def test_a_failure_is_tried_again_when_asked(pictures, tmp_path, options, monkeypatch):
    out, prepare = tmp_path / "out", task.read_image

    def flaky(path, *others, **more):
        if path.name == "b.png":
            raise OSError(5, "Input/output error")
        return prepare(path, *others, **more)

    monkeypatch.setattr(task, "read_image", flaky)
    assert run_batch(pictures, out, options(), QUIET)[1] == 1
    monkeypatch.undo()
    assert run_batch(pictures, out, options(), QUIET)[1] == 1
    text, code = run_batch(pictures, out, options(), replace(QUIET, retry_failed=True))
    assert code == 0 and text.startswith("4 of 4 done")
    assert not (out / "failed.json").exists()


@pytest.mark.usefixtures("without_figures")
def test_measurements_and_a_manifest(prior, tmp_path, options):
    """Items with masks, operators, noise, labels and seeds of their own."""
    x, shape = prior.sample(3, seed=1), prior.image_shape
    save_png(tmp_path / "m.png", (np.random.default_rng(0).random((1, 16, 16)) > 0.5) * 1.0)
    A = from_spec("downsample:2", shape)
    masked = from_spec(f"mask:{tmp_path / 'm.png'}", shape)
    np.save(tmp_path / "y0.npy", A(x)[:2].numpy())  # two images in one file
    np.save(tmp_path / "y1.npy", masked(x)[2].numpy())
    rows = [
        {"id": "two", "path": "y0.npy", "label": 1},
        {"id": "masked", "path": "y1.npy", "mask": "m.png", "noise": 0.1, "seed": 4},
        {"id": "half", "path": "y1.npy", "operator": "mask:half"},
    ]
    (tmp_path / "list.jsonl").write_text("\n".join(map(json.dumps, rows)))
    head = ["id", "path", "operator", "mask", "noise", "label", "seed"]
    with (tmp_path / "list.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, head)
        table.writeheader()
        table.writerows(rows)
    given = options(simulate=False)
    found = []
    for name in ("list.jsonl", "list.csv"):
        assert run_batch(tmp_path / name, tmp_path / f"{name}.out", given, QUIET)[1] == 0
        items = tmp_path / f"{name}.out" / "items"
        found.append({p.name: loaded(p) for p in items.iterdir()})
    assert all((found[0][k].x - found[1][k].x).abs().max() < 1e-5 for k in found[0])
    alone = {
        "two": ("y0.npy", replace(given, label=1)),
        "masked": (
            "y1.npy",
            replace(given, operator=f"mask:{tmp_path / 'm.png'}", noise=0.1, seed=4),
        ),
        "half": ("y1.npy", replace(given, operator="mask:half")),
    }
    for name, (file, own) in alone.items():
        reconstruct(tmp_path / file, tmp_path / name, own)
        expected, result = loaded(tmp_path / name), found[0][name]
        assert (expected.x - result.x).abs().max() < 1e-2, name
        assert (expected.seed, expected.label, expected.stop) == (
            result.seed, result.label, result.stop
        )  # fmt: skip
    text = (tmp_path / "list.csv.out" / "state" / "run.json").read_text()
    assert str(tmp_path) not in text


@pytest.mark.usefixtures("without_figures")
def test_volumes_and_series(pictures, tmp_path, options):
    write_series(pictures / "patient" / "series", 3)
    values = np.random.default_rng(0).random((20, 22, 4)).astype("f4")
    nibabel.save(nibabel.Nifti1Image(values, np.diag([1, 2, 3, 1])), pictures / "v.nii.gz")
    given, out = options(slices="1-2"), tmp_path / "out"
    assert run_batch(pictures, out, given, QUIET)[1] == 0
    names = {p.name for p in (out / "items").iterdir()}
    assert names == {"a.png", "b.png", "c.png", "sub-d.png", "patient-series", "v.nii.gz"}
    made = nibabel.load(out / "items" / "v.nii.gz" / "reconstruction.nii.gz")
    assert made.shape == (20, 22, 2)
    reconstruct(pictures / "v.nii.gz", tmp_path / "one", given)
    alone = nibabel.load(tmp_path / "one" / "reconstruction.nii.gz")
    np.testing.assert_allclose(made.get_fdata(), alone.get_fdata(), atol=1e-2)
    files = sorted((out / "items" / "patient-series" / "reconstruction").iterdir())
    assert len(files) == 2
    facts = {r["id"]: r for r in records(Folder(out))}
    assert facts["v.nii.gz"]["images"] == 2 and facts["v.nii.gz"]["misfit"] > 0
    assert not list((out / "state" / "parts").iterdir())
    # A file of the series that the disk damaged is found, and the series is done again.
    before = [pydicom.dcmread(f).pixel_array for f in files]
    files[0].write_bytes(files[0].read_bytes()[:-1])
    assert run_batch(pictures, out, given, QUIET)[1] == 0
    assert sorted((out / "items" / "patient-series" / "reconstruction").iterdir()) == files
    for file, values in zip(files, before, strict=True):
        np.testing.assert_allclose(pydicom.dcmread(file).pixel_array, values, atol=2)


def test_without_slices_a_volume_is_its_middle_slice(pictures, options):
    values = np.random.default_rng(0).random((20, 22, 4)).astype("f4")
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), pictures / "v.nii.gz")
    write_series(pictures / "series", 2)
    kinds = {e.id: (e.volume, e.options.slices) for e in entries_of(pictures, options())}
    assert kinds["v.nii.gz"] == (False, None) and kinds["series"] == (True, "all")


@pytest.mark.usefixtures("without_figures")
def test_an_interrupt_stops_after_the_step(pictures, tmp_path, options, monkeypatch):
    advance, calls = worker.advance, []

    def interrupted(cohorts):
        calls.append(1)
        if len(calls) == 2:
            signal.raise_signal(signal.SIGINT)
        return advance(cohorts)

    monkeypatch.setattr(worker, "advance", interrupted)
    text, code = run_batch(pictures, tmp_path / "out", options(), QUIET)
    assert code == 130 and len(calls) == 2 and "repeat the command" in text
    assert "4 left" in text and not list((tmp_path / "out" / "state" / "claimed").iterdir())
    assert json.loads((tmp_path / "out" / "status.json").read_text())["left"] == 4
    monkeypatch.undo()
    assert run_batch(pictures, tmp_path / "out", options(), replace(QUIET, join=True))[1] == 0


@pytest.mark.usefixtures("without_figures")
def test_the_command_line(pictures, tmp_path, prior_file):
    out = tmp_path / "out"
    words = ["batch", str(pictures), "-o", str(out), "-A", "downsample:2", "--simulate"]
    words += ["--prior", str(prior_file), "--set", "steps=2", "--no-check", "--devices", "cpu"]
    (pictures / "bad.png").write_bytes(b"\x89PNG\r\n")
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 1 and "4 of 5 done" in result.output
    result = CliRunner().invoke(main, ["status", str(out)])
    assert result.exit_code == 0 and result.output.startswith("4 of 5 done, 0 running")
    assert json.loads(describe_run(out, True))["failed"] == 1
    result = CliRunner().invoke(main, [*words, "--seed", "1"])
    assert result.exit_code == 2 and "seed was 0 and is 1" in result.output
    result = CliRunner().invoke(main, ["status", str(pictures)])
    assert result.exit_code == 2 and "has no run of gprior batch" in result.output


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path\nx.png\na.png\ny.png\n", r"2 files that do not exist: x\.png \(line 2\), y"),
        ("id,path\nsame,a.png\nsame,b.png\n", "same is there more than once"),
        ("path,noize\na.png,1\n", r"has \['noize'\]; a manifest has of"),
        ("path\n", "has no images"),
        ("id,path\nx,\n", "line 2: path is missing"),
        ("path,noise\na.png,-1\n", "line 2: noise must be"),
        ("path,noise\na.png,little\n", "line 2: noise must be a number, got 'little'"),
        ("path,label\na.png,-1\n", "line 2: label must be an integer of at least 0"),
        ("path,seed\na.png,x\n", "line 2: seed must be an integer, got 'x'"),
        ("path,operator\na.png,sharpen:3\n", "line 2: operator must be one of"),
        ("path,operator,mask\na.png,mri,a.png\n", "line 2: give operator or mask"),
        ("id,path\n../x,a.png\n", "line 2: id must be of letters"),
        ("path\na.png,b.png\n", "line 2: more cells"),
    ],
)
def test_bad_manifests(pictures, options, text, message):
    (pictures / "list.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        entries_of(pictures / "list.csv", options())


@pytest.mark.parametrize(
    ("line", "message"), [("{", "line 1 is not JSON"), ("[1]", "line 1 must be an object")]
)
def test_bad_json_lines(pictures, options, line, message):
    (pictures / "list.jsonl").write_text(line)
    with pytest.raises(InputError, match=message):
        entries_of(pictures / "list.jsonl", options())


def test_nothing_to_do(tmp_path, options):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="has no images; give another folder"):
        run_batch(tmp_path / "empty", tmp_path / "out", options(), QUIET)
    with pytest.raises(InputError, match=r"has no files of type \.npy"):
        run_batch(tmp_path / "empty", tmp_path / "out", options(simulate=False), QUIET)
    (tmp_path / "x.txt").write_text("")
    with pytest.raises(InputError, match=r"must be a folder, a \.csv file"):
        run_batch(tmp_path / "x.txt", tmp_path / "out", options(), QUIET)
    assert not (tmp_path / "out").exists()


# --- The report ------------------------------------------------------------------------------


@pytest.fixture
def report(tmp_path, options):
    """A report of items of known numbers."""
    folder = Folder(tmp_path / "run")
    folder.begin({}, dict.fromkeys(["b", "a10", "a9", "<c>"][:3]))
    values = {"b": (1.5, 0.2), "a10": (0.5, None), "a9": (7.0, 0.9)}
    for name, (misfit, share) in values.items():
        place = folder.parts / name
        place.mkdir()
        (place / "thumbnail.png").write_bytes(b"png")
        folder.finish(name, place, {"misfit": misfit, "plausibility": share, "seconds": 1})
    write_run_report(folder, options())
    return folder.path / "report.html"


def names_in(page: str) -> list[str]:
    return re.findall(r'<a href="items/[^"]*">([^<]*)</a>', page)


def test_the_report_has_the_worst_first_and_needs_no_network(report):
    page = report.read_text()
    assert names_in(page) == ["a9", "b", "a10"]
    assert page.count("data:image/png;base64,") == 3 and "generative reconstruction" in page
    assert not re.search(r"(src|href)=[\"']?(https?:)?//", page)


BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")


@pytest.mark.skipif(BROWSER is None, reason="needs Chromium")
@pytest.mark.parametrize(
    ("clicks", "order"),
    [
        ([], ["a9", "b", "a10"]),
        ([1], ["a9", "a10", "b"]),  # by name, with numbers in names as numbers
        ([1, 1], ["b", "a10", "a9"]),
        ([2], ["a9", "b", "a10"]),
        ([2, 2], ["a10", "b", "a9"]),
        ([3], ["a9", "b", "a10"]),
        ([3, 3], ["b", "a9", "a10"]),  # an empty cell stays last
    ],
)
def test_a_click_sorts_the_table(report, tmp_path, clicks, order):
    code = "".join(
        f"document.querySelectorAll('.items th')[{k}].firstChild.click();" for k in clicks
    )
    page = report.read_text().replace("</body>", f"<script>{code}</script></body>")
    report.write_text(page)
    words = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-sync"]
    words += ["--disable-background-networking", f"--user-data-dir={tmp_path / 'profile'}"]
    shown = subprocess.run(
        [*words, "--dump-dom", report.as_uri()], capture_output=True, text=True, timeout=60
    )
    assert names_in(shown.stdout) == order
