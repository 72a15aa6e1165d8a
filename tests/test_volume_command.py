"""``gprior reconstruct --slices``: a volume is complete, in order, and survives a stop."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
import torch
from pydicom.data import get_testdata_file

from gprior.checkpoints import save_prior
from gprior.checks import InputError
from gprior.commands import stacks, volume
from gprior.commands.reconstruct import Options, run
from gprior.images import read_image


@pytest.fixture(scope="module")
def prior_file(tiny_prior, tmp_path_factory):
    path = tmp_path_factory.mktemp("prior") / "tiny.safetensors"
    save_prior(tiny_prior(16, 1, 3, torch.float32), path)
    return path


@pytest.fixture
def options(prior_file):
    """Make options that take a moment."""

    def make(**others: Any) -> Options:
        given = {"prior": str(prior_file), "constants": ("steps=2",), "device": "cpu"}
        given |= {"check": False, "simulate": True, "slices": "all", **others}
        return Options("downsample:2", **given)

    return make


@pytest.fixture
def nifti(tmp_path):
    values = np.random.default_rng(0).random((20, 22, 7)).astype("f4")
    values[:, :, 2] = np.nan
    values[:, :, 5] = 0
    path = tmp_path / "in.nii.gz"
    nibabel.save(nibabel.Nifti1Image(values, np.diag([1, 1.5, 2, 1])), path)
    return path


def write_series(folder: Path, count: int) -> None:
    folder.mkdir()
    data = pydicom.dcmread(str(get_testdata_file("CT_small.dcm", download=False)))
    pixels = data.pixel_array
    for k in range(count):
        data.PixelData = (pixels + k).astype("<i2").tobytes()
        data.ImagePositionPatient = [0, 0, 2.5 * k]
        data.InstanceNumber, data.SOPInstanceUID = k + 1, f"1.2.{k + 1}"
        data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
        data.save_as(folder / f"{(k * 7) % count:03}")


def test_a_nifti_volume(nifti, tmp_path, options):
    text = run(nifti, tmp_path / "out", options())
    assert text.startswith("6 slices, 1 empty; reconstruction.nii.gz\n")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"slices", "reconstruction.nii.gz", "record.json", "report.html", "figure.png"}
    source, made = nibabel.load(nifti), nibabel.load(tmp_path / "out" / "reconstruction.nii.gz")
    np.testing.assert_allclose(made.affine, source.affine)
    x = np.asarray(made.dataobj)
    assert x.shape == source.shape and np.isnan(x[:, :, 2]).all()
    assert np.isfinite(np.delete(x, 2, 2)).all() and made.header["descrip"].item().startswith(
        b"gen"
    )
    record = json.loads((tmp_path / "out" / "record.json").read_text())
    assert [row["slice"] for row in record["per_slice"]] == [0, 1, 3, 4, 5, 6]
    assert all(row["misfit"] is not None and row["psnr"] > 0 for row in record["per_slice"])
    assert str(tmp_path) not in (tmp_path / "out" / "report.html").read_text()
    # A slice alone has the same answer, in the same window.
    lo, hi = record["intensity"]
    one = options(slices="3-3", intensity=f"{lo!r},{hi!r}")
    run(nifti, tmp_path / "one", one)
    alone = np.asarray(nibabel.load(tmp_path / "one" / "reconstruction.nii.gz").dataobj)
    np.testing.assert_allclose(alone[:, :, 0], x[:, :, 3], atol=1e-3)


def test_the_batch_does_not_matter(nifti, tmp_path, options, monkeypatch):
    found = []
    for batch in (1, 4):
        monkeypatch.setattr(stacks, "BATCH", batch)
        run(nifti, tmp_path / str(batch), options(noise=0.05))
        found.append(nibabel.load(tmp_path / str(batch) / "reconstruction.nii.gz").get_fdata())
    np.testing.assert_allclose(*found, atol=1e-3)


def test_a_series_without_slices_given(tmp_path, options):
    write_series(tmp_path / "in", 4)
    run(tmp_path / "in", tmp_path / "out", options(slices=None))
    files = sorted((tmp_path / "out" / "reconstruction").iterdir())
    derived = [pydicom.dcmread(file) for file in files]
    assert [float(d.ImagePositionPatient[2]) for d in derived] == [0, 2.5, 5, 7.5]
    assert [d.SourceImageSequence[0].ReferencedSOPInstanceUID for d in derived] == [
        f"1.2.{k}" for k in range(1, 5)
    ]
    assert len({d.SeriesInstanceUID for d in derived}) == 1
    # A second run finds every slice, and writes a new series over the earlier one.
    run(tmp_path / "in", tmp_path / "out", options(slices=None))
    assert len(list((tmp_path / "out" / "reconstruction").iterdir())) == 4


def test_a_stopped_run_continues_where_it_was(nifti, tmp_path, options, monkeypatch):
    monkeypatch.setattr(stacks, "BATCH", 2)
    run(nifti, tmp_path / "whole", options())
    solve, calls = volume.solve, []

    def stopped(y, *args, **others):
        if len(calls) == 1:
            raise KeyboardInterrupt
        calls.append(len(y))
        return solve(y, *args, **others)

    monkeypatch.setattr(volume, "solve", stopped)
    with pytest.raises(KeyboardInterrupt):
        run(nifti, tmp_path / "out", options())
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["slices"]
    assert len(list((tmp_path / "out" / "slices").glob("*.safetensors"))) == 2
    (tmp_path / "out" / "slices" / "0001.safetensors").write_bytes(b"a part")  # is done again
    calls[:] = [None, None]
    run(nifti, tmp_path / "out", options())
    assert calls[2:] == [2, 2, 1]
    whole, again = (
        nibabel.load(tmp_path / name / "reconstruction.nii.gz").get_fdata()
        for name in ("whole", "out")
    )
    np.testing.assert_allclose(again, whole, atol=1e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, "differs in seed"),
        ({"slices": "0-3"}, "differs in slices"),
        ({"noise": 0.1, "budget": 4}, "differs in noise, constants, budget"),
    ],
)
def test_other_options_do_not_mix_with_earlier_slices(nifti, tmp_path, options, change, message):
    run(nifti, tmp_path / "out", options())
    before = (tmp_path / "out" / "reconstruction.nii.gz").read_bytes()
    given = {"constants": ()} if "budget" in change else {}
    with pytest.raises(InputError, match=message):
        run(nifti, tmp_path / "out", options(**given, **change))
    assert (tmp_path / "out" / "reconstruction.nii.gz").read_bytes() == before


def test_another_source_does_not_mix_either(nifti, tmp_path, options):
    run(nifti, tmp_path / "out", options())
    os.utime(nifti, (1, 1))
    with pytest.raises(InputError, match="differs in source"):
        run(nifti, tmp_path / "out", options())
    (tmp_path / "out" / "slices" / "run.json").write_text("{")
    with pytest.raises(InputError, match="is damaged"):
        run(nifti, tmp_path / "out", options())


@pytest.mark.parametrize(
    ("others", "message"),
    [
        ({"slices": "3"}, "slices must be all"),
        ({"slices": "5-2"}, "slices must be all"),
        ({"slices": "0-7"}, "within 0-6"),
        ({"slice": 1}, "exclude each other"),
        ({"simulate": False}, "images and for k-space"),
    ],
)
def test_bad_input(nifti, tmp_path, options, others, message):
    with pytest.raises(InputError, match=message):
        run(nifti, tmp_path / "out", options(**others))
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_written_is_refused_before_the_search(tmp_path, options, monkeypatch):
    monkeypatch.setattr(volume, "solve", lambda *a, **k: pytest.fail("a useless search"))
    source = Path(str(get_testdata_file("liver_1frame.dcm", download=False)))
    with pytest.raises(InputError, match="stores 1 bits"):
        run(source, tmp_path / "out", options())


def test_k_space_of_several_slices(tmp_path, options):
    rng = np.random.default_rng(0)
    image = rng.random((3, 16, 16)) * np.hanning(16)[:, None] * np.hanning(16)
    shifted = np.fft.ifftshift(image, axes=(1, 2))
    kspace = np.fft.fftshift(np.fft.fft2(shifted, norm="ortho"), axes=(1, 2))
    np.savez(tmp_path / "k.npz", kspace=kspace[:, None].astype("c8"), mask=np.ones(16))
    given = options(simulate=False)
    run(tmp_path / "k.npz", tmp_path / "out", Options(**{**vars(given), "operator": "mri"}))
    x = np.load(tmp_path / "out" / "reconstruction.npy")
    assert x.shape == (3, 16, 16) and x.dtype == np.complex64
    error = np.linalg.norm(np.abs(x) - image) / np.linalg.norm(image)
    assert error < 0.3  # everything is measured; two steps of search, then the correction


@pytest.mark.slow
def test_nothing_is_lost_when_killed(tmp_path, options, prior_file):
    """A series of 100 slices is killed at random moments, and the command is repeated."""
    write_series(tmp_path / "in", 100)
    words = ["reconstruct", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "-A", "downsample:2"]
    words += ["--prior", str(prior_file), "--set", "steps=30", "--no-check", "--simulate"]
    code = f"import sys; from gprior.cli import main; sys.argv[1:] = {words!r}; main()"
    rng, done = np.random.default_rng(0), 0
    for _ in range(40):
        with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL) as process:
            parts = tmp_path / "out" / "slices"
            while process.poll() is None and len(list(parts.glob("*.safetensors"))) <= done:
                time.sleep(0.05)
            time.sleep(rng.uniform(0, 0.5))
            process.send_signal(signal.SIGKILL)
        kept = len(list(parts.glob("*.safetensors")))
        assert kept >= done
        done = kept
        if process.returncode == 0:
            break
    else:
        subprocess.run([sys.executable, "-c", code], check=True)
    files = sorted((tmp_path / "out" / "reconstruction").iterdir())
    assert len(files) == 100
    places = [read_image(file).geometry["position_mm"][2] for file in files]
    assert places == [2.5 * k for k in range(100)]
