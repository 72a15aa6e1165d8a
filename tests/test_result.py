"""Results on disk: exact round trips, refused damage, nothing left by a full disk."""

from __future__ import annotations

import errno
import json
import random
import resource
import struct

import pytest
import torch
from safetensors.torch import save_file

import gprior
from gprior import Result
from gprior.operators import Masking
from gprior.result import best_restart


@pytest.fixture(scope="module")
def result(tiny_prior):
    prior = tiny_prior(c_dim=3).adapt((3, 20, 20), size="pad")
    A = Masking(prior.image_shape, "half")
    y = A(prior.sample(2))
    options = {"steps": 3, "init": "best-of:3", "restarts": 2, "seed": [3, 1 << 40]}
    return gprior.solve(y, A, prior, "lbrgm", perceptual=None, correction="auto", **options)


def test_a_round_trip_is_exact(result, tmp_path):
    path = tmp_path / "r.safetensors"
    result.save(path)
    loaded = Result.load(path)
    for name, value in vars(result).items():
        other = getattr(loaded, name)
        if isinstance(value, torch.Tensor):
            assert other.dtype == value.dtype and torch.equal(other, value), name
        elif name in ("latents", "terms", "diagnostics"):
            assert other.keys() == value.keys()
            assert all(torch.equal(other[k], v) for k, v in value.items())
        else:
            assert other == value, name
    assert set(result.latents) == {"w", "z", "c"} and result.perceptual
    assert loaded.prior["adapted"]["size"] == "pad"
    loaded.save(tmp_path / "again.safetensors")
    assert (tmp_path / "again.json").read_text() == (tmp_path / "r.json").read_text()


def test_the_json_is_a_copy_of_the_facts(result, tmp_path):
    result.save(tmp_path / "r.safetensors")
    facts = json.loads((tmp_path / "r.json").read_text())
    assert facts == json.loads(json.dumps(result.facts()))
    assert facts["solver"]["name"] == "lbrgm" and facts["solver"]["steps"] == 3
    assert facts["solver"]["betas"] == [0.9, 0.999]
    assert facts["label"] == result.label and facts["seed"] == [3, 1 << 40]
    assert facts["loss"] == result.loss.tolist()
    assert "not for diagnosis" in facts["note"]


def test_numbers_that_are_not_finite_keep_the_json_valid(result, tmp_path):
    """Readers other than Python's refuse NaN: a strict parser reads the copy."""
    from dataclasses import replace

    broken = replace(result, loss=torch.tensor([float("nan"), float("inf")]))
    broken.save(tmp_path / "r.safetensors")

    def refuse(constant):
        raise AssertionError(constant)

    facts = json.loads((tmp_path / "r.json").read_text(), parse_constant=refuse)
    assert facts["loss"] == [None, None]
    assert torch.equal(Result.load(tmp_path / "r.safetensors").loss.isfinite(), torch.zeros(2) > 0)


def test_paths(result, tmp_path):
    for name in ("r", "r.pt", "r.json"):
        with pytest.raises(ValueError, match=r"path must end in \.safetensors"):
            result.save(tmp_path / name)
    with pytest.raises(FileNotFoundError, match=r"missing.*r\.safetensors"):
        result.save(tmp_path / "missing" / "r.safetensors")
    with pytest.raises(FileNotFoundError, match=r"r\.safetensors"):
        Result.load(tmp_path / "r.safetensors")
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match=tmp_path.name):
        Result.load(tmp_path)


def test_damaged_files_are_refused(result, tmp_path):
    path, cut = tmp_path / "r.safetensors", tmp_path / "cut.safetensors"
    result.save(path)
    data = path.read_bytes()
    start = 8 + struct.unpack("<Q", data[:8])[0]
    rng = random.Random(0)
    for n in [
        0,
        1,
        8,
        9,
        start - 1,
        start,
        start + 1,
        len(data) - 1,
        *rng.sample(range(len(data)), 20),
    ]:
        cut.write_bytes(data[:n])
        refused(cut)
    for other in (b"text" * 100, struct.pack("<Q", 1 << 50), b"PK\x03\x04" + bytes(100)):
        cut.write_bytes(other)
        refused(cut)
    loaded = 0
    for _ in range(200):
        changed = bytearray(data)
        changed[rng.randrange(start)] ^= 1 << rng.randrange(8)
        cut.write_bytes(changed)
        try:
            Result.load(cut)
            loaded += 1
        except ValueError as error:
            assert str(cut) in str(error)
    assert loaded < 150


def test_other_files_are_refused(result, tmp_path):
    path = tmp_path / "o.safetensors"
    save_file({"x": torch.zeros(1)}, path)
    refused(path, "format is None, not 'gprior-result-1'")
    for metadata in (
        {"format": "gprior-1"},
        {"format": "gprior-result-1"},
        {"format": "gprior-result-1", "gprior": "{"},
        {"format": "gprior-result-1", "gprior": "[]"},
        {"format": "gprior-result-1", "gprior": "{}"},
        {"format": "gprior-result-1", "gprior": "[" * 100_000},
    ):
        save_file({"x": torch.zeros(1)}, path, metadata)
        refused(path)
    torch.save({"x": torch.zeros(1)}, path)
    refused(path)


def refused(path, message="is no whole gprior result"):
    with pytest.raises(ValueError, match=message) as caught:
        Result.load(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("before", [None, b"old"])
def test_a_full_disk_leaves_nothing(before, result, tmp_path):
    path = tmp_path / "r.safetensors"
    if before:
        path.write_bytes(before)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, hard))
    try:
        with pytest.raises(OSError, match=r"r\.safetensors") as caught:
            result.save(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.errno == errno.EFBIG
    left = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    assert left == ({path.name: before} if before else {})


def test_the_best_restart_of_each_image():
    criterion = torch.tensor([3.0, 1.0, 2.0, torch.nan, 5.0, torch.inf, 4.0, 4.0, 4.0])
    assert best_restart(criterion, 3).tolist() == [1, 4, 6]
    assert best_restart(criterion, 1).tolist() == list(range(9))
