"""``gprior reconstruct``: every operator, every format, and what is written."""

import errno
import json
import os
from pathlib import Path

import numpy as np
import pydicom
import pytest
import torch
from PIL import Image
from pydicom.data import get_testdata_file
from safetensors.torch import save_file
from scipy import sparse

import gprior
from gprior.checkpoints import load_prior, save_prior
from gprior.commands.reconstruct import Options, run
from gprior.commands.task import prepare
from gprior.images import STAMP, read_image, save_png

FILES = {
    "figure.png",
    "reconstruction.npy",
    "reconstruction.png",
    "record.json",
    "report.html",
    "result.json",
    "result.safetensors",
}


@pytest.fixture(scope="module")
def prior_file(tiny_prior, tmp_path_factory):
    path = tmp_path_factory.mktemp("prior") / "tiny.safetensors"
    save_prior(tiny_prior(16, 1, 3, torch.float32), path)
    return path


@pytest.fixture
def options(prior_file):
    """Make options that take a moment: one step from one random start, on the CPU."""

    def make(operator="half-mask", constants=("steps=1", "init=random"), **others):
        given = {"prior": str(prior_file), "constants": constants, "device": "cpu"}
        given |= {"check": False, **others}
        return Options(operator, **given)

    return make


@pytest.fixture(scope="module")
def truth(prior_file):
    return load_prior(prior_file).sample(2, seed=3).clamp(0, 1)


# --- Operators -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def operators(tmp_path_factory):
    """Every form of the operator, and the same operator through the package."""
    folder = tmp_path_factory.mktemp("operators")
    shape, rng = (1, 16, 16), np.random.default_rng(0)
    mask = (rng.random((16, 16)) < 0.5).astype(float)
    save_png(folder / "mask.png", mask)
    dense = rng.standard_normal((100, 256)).astype(np.float32) / 16
    np.save(folder / "dense.npy", dense)
    thin = sparse.random(120, 256, 0.1, random_state=1, format="csr")
    sparse.save_npz(folder / "sparse.npz", thin)
    ops = gprior.operators
    return {
        "half-mask": ops.Masking(shape, "half"),
        f"mask:{folder / 'mask.png'}": ops.Masking(shape, mask),
        "downsample:4": ops.Downsampling(shape, 4),
        "circulant:0.4": ops.PartialCirculant(shape, 0.4),
        "circulant:90": ops.PartialCirculant(shape, 90),
        f"matrix:{folder / 'dense.npy'}": lambda x: x.flatten(1) @ torch.tensor(dense).T,
        f"matrix:{folder / 'sparse.npz'}": lambda x: (
            x.flatten(1) @ torch.tensor(thin.toarray()).float().T
        ),
    }


@pytest.mark.parametrize("index", range(7))
def test_every_operator_from_measurements(index, operators, truth, options, tmp_path):
    spec, A = list(operators.items())[index]
    np.save(tmp_path / "y.npy", A(truth).numpy())
    text = run(tmp_path / "y.npy", tmp_path / "out", options(spec))
    assert {path.name for path in (tmp_path / "out").iterdir()} == FILES
    assert STAMP in text and "Image 2" in text
    x = np.load(tmp_path / "out" / "reconstruction.npy")
    result = gprior.Result.load(tmp_path / "out" / "result.safetensors")
    assert x.shape == (2, 1, 16, 16) and x.min() >= 0 and x.max() <= 1
    np.testing.assert_array_equal(x, result.x.clamp(0, 1).numpy())
    prior = load_prior(options().prior)
    expected = gprior.solve(A(truth), A, prior, steps=1, init="random")
    np.testing.assert_allclose(result.generated, expected.generated, atol=1e-4)
    np.testing.assert_allclose(result.x, expected.x, atol=1e-2)


def test_the_report_says_how_well_the_prior_fits(options, tmp_path, monkeypatch):
    from gprior.solvers import simulation
    from gprior.solvers.auto import Auto

    monkeypatch.setattr(simulation, "METHOD", Auto(steps=(20, 0)))
    np.save(tmp_path / "image.npy", np.indices((16, 16)).sum(0) % 2 * 1.0)  # a chessboard
    text = run(tmp_path / "image.npy", tmp_path / "out", options(simulate=True, check=True))
    assert "prior weight 0.30 of 1" in text and "plausibility 0.00" in text
    assert "the prior does not contain this image" in text
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Generated" in page and "the prior does not contain this image" in page
    record = json.loads((tmp_path / "out" / "record.json").read_text())
    assert record["plausibility"] == [0] and record["correction"] == "auto"
    plain = options(simulate=True, correction=None)
    text = run(tmp_path / "image.npy", tmp_path / "plain", plain)
    assert "prior weight" not in text and "plausibility" not in text


@pytest.mark.parametrize("index", range(7))
def test_every_operator_by_simulation(index, operators, options, tmp_path):
    spec, A = list(operators.items())[index]
    image = np.random.default_rng(1).random((16, 16))
    np.save(tmp_path / "image.npy", image)
    task = prepare(tmp_path / "image.npy", options(spec, simulate=True))
    expected = A(torch.tensor(image, dtype=torch.float32)[None, None])
    torch.testing.assert_close(task.y, expected, atol=1e-5, rtol=1e-4)


def test_simulated_noise(options, tmp_path):
    np.save(tmp_path / "image.npy", np.random.default_rng(1).random((16, 16)))

    def noise(seed):
        clean, noisy = (
            prepare(tmp_path / "image.npy", options(simulate=True, noise=std, seed=seed)).y
            for std in (None, 0.1)
        )
        return noisy - clean

    first = noise(0)
    assert torch.equal(first, noise(0)) and not torch.equal(first, noise(1))
    assert not first[..., :8].any()  # missing pixels stay zero
    assert 0.08 < float(first[..., 8:].std()) < 0.12


def test_noise_is_the_stopping_rule_and_seed_and_label_arrive(options, truth, tmp_path):
    np.save(tmp_path / "y.npy", gprior.operators.Masking((1, 16, 16), "half")(truth).numpy())
    given = options(noise=0.05, seed=4, label=2, restarts=2)
    run(tmp_path / "y.npy", tmp_path / "out", given)
    facts = json.loads((tmp_path / "out" / "result.json").read_text())
    assert facts["stop"] == ["discrepancy", "discrepancy"]
    assert facts["seed"] == [4, 4] and facts["label"] == [2, 2]
    assert facts["solver"]["steps"] == [0, 1]
    assert facts["evaluations"][0] == pytest.approx(2 * (1 + 1 / 3))


def test_budget(options, truth, tmp_path):
    np.save(tmp_path / "y.npy", gprior.operators.Masking((1, 16, 16), "half")(truth).numpy())
    run(tmp_path / "y.npy", tmp_path / "out", options(constants=("init=random",), budget=5))
    facts = json.loads((tmp_path / "out" / "result.json").read_text())
    assert 4 <= facts["evaluations"][0] <= 5


@pytest.mark.parametrize("kind", ["npy", "npz", "pt", "safetensors", "dict.pt", "one"])
def test_every_measurement_format(kind, options, tmp_path):
    y = torch.rand(1, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    path = tmp_path / f"y.{kind}"
    if kind == "npy":
        np.save(path, y.numpy().astype(np.float64))
    elif kind == "npz":
        np.savez(path, y=y.numpy(), other=np.zeros(3))
    elif kind == "safetensors":
        save_file({"measurements": y}, path)
    elif kind == "one":  # one measurement without its batch
        path = path.with_suffix(".npy")
        np.save(path, y[0].numpy())
    else:
        torch.save({"y": y} if "dict" in kind else y, path)
    assert torch.equal(prepare(path, options()).y, y)


# --- Images ----------------------------------------------------------------------------------


def nifti():
    import nibabel

    return Path(nibabel.__file__).parent / "tests" / "data" / "example4d.nii.gz"


def image_file(kind, folder):
    rng = np.random.default_rng(2)
    gray = rng.integers(0, 60000, (24, 20)).astype(np.uint16)
    path = folder / f"image.{kind}"
    if kind == "npy":
        np.save(path, gray / 65535)
    elif kind == "rgb.png":
        Image.fromarray(rng.integers(0, 256, (24, 20, 3)).astype(np.uint8)).save(path)
    elif kind == "jpg":
        Image.fromarray((gray >> 8).astype(np.uint8)).save(path)
    elif kind == "dcm":
        return Path(get_testdata_file("CT_small.dcm", download=False))
    elif kind == "nii.gz":
        return nifti()
    else:
        Image.fromarray(gray).save(path)
    return path


@pytest.mark.parametrize("kind", ["png", "rgb.png", "tif", "jpg", "npy", "dcm", "nii.gz"])
def test_every_image_format_comes_back_on_its_grid(kind, options, tmp_path):
    source = image_file(kind, tmp_path)
    out = tmp_path / "out"
    text = run(source, out, options("downsample:2", simulate=True, noise=0.01))
    (written,) = out.glob("on-input-grid.*")
    assert {path.name for path in out.iterdir()} == {*FILES, written.name}
    assert "dB" in text and STAMP in text
    before, after = read_image(source), read_image(written)
    assert after.format == before.format and after.pixels.shape == before.pixels.shape
    record = json.loads((out / "record.json").read_text())
    assert record["image"]["format"] == before.format
    assert record["image"]["fit"]["original"] == list(before.pixels.shape[1:])
    lo, hi = record["image"]["intensity"]
    x = np.load(out / "reconstruction.npy")
    spread = (after.pixels.min() - lo) / (hi - lo), (after.pixels.max() - lo) / (hi - lo)
    # The same image in physical units (resampling may overshoot a little).
    assert spread[1] == pytest.approx(x.max(), abs=0.15) and spread[0] > -0.15


def test_geometry_of_a_volume_is_kept(options, tmp_path):
    import nibabel

    run(nifti(), tmp_path, options(simulate=True, slice=5, fit="crop"))
    before, after = nibabel.load(nifti()), nibabel.load(tmp_path / "on-input-grid.nii.gz")
    corner = before.affine @ [0, 0, 5, 1]
    np.testing.assert_allclose(after.affine @ [0, 0, 0, 1], corner, atol=1e-4)
    assert after.shape[:2] == before.shape[:2]
    record = json.loads((tmp_path / "record.json").read_text())["image"]
    assert record["geometry"]["slice"] == 5 and record["fit"]["mode"] == "crop"


def test_intensity_maps_physical_units(options, tmp_path):
    np.save(tmp_path / "ct.npy", np.linspace(-1000, 1000, 256).reshape(16, 16))
    task = prepare(tmp_path / "ct.npy", options(simulate=True, intensity="-160,240"))
    assert task.source.truth.min() == 0 and task.source.truth.max() == 1
    middle = task.source.truth.flatten()[(torch.linspace(-1000, 1000, 256) - 40).abs().argmin()]
    assert middle == pytest.approx(0.5, abs=0.02)
    assert 0.7 < task.source.record()["outside_intensity"] < 0.9


def test_nothing_about_the_patient(options, tmp_path):
    data = pydicom.dcmread(get_testdata_file("CT_small.dcm", download=False))
    data.PatientName, data.PatientID, data.PatientBirthDate = "Doe^Secret", "ID-4711", "19330303"
    (tmp_path / "Secret").mkdir()
    data.save_as(tmp_path / "Secret" / "Doe.dcm")
    save_png(tmp_path / "Secret" / "mask.png", np.ones((16, 16)))
    out = tmp_path / "out"
    spec = f"mask:{tmp_path / 'Secret' / 'mask.png'}"
    text = run(tmp_path / "Secret" / "Doe.dcm", out, options(spec, simulate=True))
    written = [p for p in out.iterdir() if not p.name.startswith("on-input-grid")]
    everything = text.encode() + b"".join(p.read_bytes() for p in written)
    for word in (b"Secret", b"4711", b"19330303", b"Doe"):
        assert word not in everything
    derived = pydicom.dcmread(out / "on-input-grid.dcm")
    assert STAMP in derived.DerivationDescription and "Secret" not in derived.DerivationDescription


def test_everything_is_labelled_as_generated(options, tmp_path):
    run(image_file("png", tmp_path), tmp_path / "out", options(simulate=True))
    for name in ("result.json", "record.json"):
        assert json.loads((tmp_path / "out" / name).read_text())["note"] == STAMP
    for name in ("reconstruction.png", "on-input-grid.png"):
        with Image.open(tmp_path / "out" / name) as picture:
            assert STAMP in picture.text["Description"]
    page = (tmp_path / "out" / "report.html").read_text()
    assert STAMP.capitalize() in page
    assert "http" not in page and 'src="data:image/png;base64,' in page  # needs no other file


def test_more_images_than_the_report_shows(options, tmp_path):
    np.save(tmp_path / "y.npy", np.random.default_rng(0).random((18, 1, 16, 16)))
    run(tmp_path / "y.npy", tmp_path / "out", options())
    assert np.load(tmp_path / "out" / "reconstruction.npy").shape[0] == 18
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Image 16" in page and "Image 17" not in page


# --- Whole or not at all ---------------------------------------------------------------------


@pytest.mark.parametrize("write", range(8))
def test_full_disk_leaves_nothing(write, options, tmp_path, monkeypatch):
    count, sync = [0], os.fsync

    def fsync(file):
        count[0] += 1
        if count[0] > write:
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(file)

    monkeypatch.setattr(os, "fsync", fsync)
    out = tmp_path / "out"
    with pytest.raises(OSError, match=r"No space left.*another place") as caught:
        run(image_file("png", tmp_path), out, options(simulate=True))
    assert caught.value.errno == errno.ENOSPC
    assert "/." not in str(caught.value)  # the folder that the user knows
    assert not out.exists()


def test_full_disk_keeps_the_results_before(options, tmp_path, monkeypatch):
    source, out = image_file("png", tmp_path), tmp_path / "out"
    run(source, out, options(simulate=True))
    before = {path.name: path.read_bytes() for path in out.iterdir()}

    def fsync(file):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match="No space left"):
        run(source, out, options(simulate=True, seed=1))
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_an_image_that_cannot_be_derived_is_refused_before_the_search(
    options, tmp_path, monkeypatch
):
    from gprior.commands import reconstruct, task

    def refuse(*args):
        raise ValueError("no image can be derived")

    monkeypatch.setattr(task, "write_like", refuse)
    monkeypatch.setattr(reconstruct, "solve", lambda *a, **k: pytest.fail("a useless search"))
    with pytest.raises(ValueError, match="derived"):
        run(image_file("png", tmp_path), tmp_path / "out", options(simulate=True))
    assert not (tmp_path / "out").exists()


def test_an_earlier_image_in_another_format_is_removed(options, tmp_path):
    out = tmp_path / "out"
    run(image_file("png", tmp_path), out, options(simulate=True))
    run(image_file("npy", tmp_path), out, options(simulate=True))
    assert [path.name for path in out.glob("on-input-grid*")] == ["on-input-grid.npy"]


def test_gaps_where_nothing_was_measured_are_zero(options, tmp_path):
    """NaN in the missing half of a mask reaches neither the search nor the report."""
    y = np.random.default_rng(0).random((1, 1, 16, 16), dtype=np.float32)
    y[..., :8] = np.nan
    np.save(tmp_path / "y.npy", y)
    task = prepare(tmp_path / "y.npy", options())
    assert (task.y[..., :8] == 0).all()
    np.testing.assert_array_equal(task.y[..., 8:].numpy(), y[..., 8:])
