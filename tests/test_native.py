"""The native checkpoint: exact round trips, and one clear error for every damage."""

from __future__ import annotations

import copy
import errno
import json
import random
import resource
import struct
import time

import pytest
import torch
from safetensors.torch import load_file, save_file

import gprior
from gprior.checkpoints import embedded, header, load_prior, save_prior
from gprior.priors import StyleGAN2


@pytest.fixture(scope="module")
def saved(tiny_prior, tmp_path_factory):
    """Return a float32 class-conditional prior and its file."""
    prior = tiny_prior(c_dim=3, dtype=torch.float32)
    path = tmp_path_factory.mktemp("native") / "tiny.safetensors"
    save_prior(prior, path)
    return prior, path


@pytest.fixture(scope="module")
def bare(tiny_prior, tmp_path_factory):
    """Return the file of a prior without a discriminator."""
    path = tmp_path_factory.mktemp("native") / "bare.safetensors"
    save_prior(tiny_prior(critic=False, dtype=torch.float32), path)
    return path


def rewritten(path, out, change):
    """Write the checkpoint again with other metadata and tensors."""
    with path.open("rb") as file:
        size = struct.unpack("<Q", file.read(8))[0]
        metadata = json.loads(file.read(size))["__metadata__"]
    tensors, meta = load_file(path), json.loads(metadata["gprior"])
    tensors, metadata = change(tensors, meta, metadata)
    save_file(tensors, out, metadata)
    return out


def with_meta(change):
    """Return a change of the JSON in the metadata alone."""

    def apply(tensors, meta, metadata):
        changed = change(meta)
        text = changed if isinstance(changed, str) else json.dumps(changed)
        return tensors, {**metadata, "gprior": text}

    return apply


def similar(ours, theirs):
    """Check two images for equality up to rounding, which memory alignment changes."""
    eps = torch.finfo(ours.dtype).eps
    assert (ours - theirs).abs().max() < 100 * eps


def test_a_round_trip_is_exact(saved):
    prior, path = saved
    loaded = load_prior(path)
    similar(loaded.sample(3, seed=2), prior.sample(3, seed=2))
    assert loaded.config == prior.config and loaded.image_shape == prior.image_shape
    assert {k: v for k, v in loaded.record.items() if k != "sha256"} == prior.record
    assert len(loaded.record["sha256"]) == 64
    assert loaded.name == str(path)
    assert not loaded.training and not any(p.requires_grad for p in loaded.parameters())
    x = prior.sample(2)
    for ours, theirs in zip(
        loaded.discriminator.features(x), prior.discriminator.features(x), strict=True
    ):
        similar(ours, theirs)
    state = loaded.state_dict()
    assert all(torch.equal(v, state[k]) for k, v in prior.state_dict().items())


def test_loading_leaves_the_global_generator_alone(saved):
    before = torch.get_rng_state()
    load_prior(saved[1])
    assert torch.equal(torch.get_rng_state(), before)


def test_a_prior_without_a_discriminator(tiny_prior, tmp_path):
    prior = tiny_prior(critic=False, dtype=torch.float32)
    save_prior(prior, tmp_path / "bare.safetensors")
    loaded = load_prior(tmp_path / "bare.safetensors")
    assert loaded.discriminator is None
    similar(loaded.sample(1), prior.sample(1))


def test_gains_are_folded_on_the_way(tmp_path):
    torch.manual_seed(0)
    prior = StyleGAN2(16, 1, 8, 16, 0, 128, 16, 2)
    weight = prior.blocks[0].conv1.conv.weight.clone()
    expected = prior.sample(2)
    save_prior(prior, tmp_path / "raw.safetensors")
    found = load_prior(tmp_path / "raw.safetensors").sample(2)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(prior.blocks[0].conv1.conv.weight, weight)  # the prior is untouched


def test_an_adapted_prior_is_not_saved_as_its_base(tiny_prior, tmp_path):
    adapted = tiny_prior(dtype=torch.float32).adapt((3, 16, 16))
    with pytest.raises(TypeError, match=r"StyleGAN2, got AdaptedPrior; save the base"):
        save_prior(adapted, tmp_path / "adapted.safetensors")
    assert not list(tmp_path.iterdir())


def test_double_precision_is_kept(tiny_prior, tmp_path):
    prior = tiny_prior(critic=False)
    save_prior(prior, tmp_path / "double.safetensors")
    loaded = load_prior(tmp_path / "double.safetensors")
    assert loaded.like.dtype == torch.float64
    similar(loaded.sample(1), prior.sample(1))


def test_names_and_missing_files(tmp_path):
    for name in ("phantom-63", tmp_path / "none.safetensors", tmp_path):
        with pytest.raises(FileNotFoundError) as caught:
            load_prior(name)
        assert str(name) in str(caught.value)
        assert all(prior in str(caught.value) for prior in embedded())


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"x",
        b"hello, this is no checkpoint at all",
        b"\x80\x02}q\x00.",
        struct.pack("<Q", 1 << 40) + b"{}",
        struct.pack("<Q", 2) + b"{}",
        struct.pack("<Q", 100) + b"{" + b"[" * 99,
        struct.pack("<Q", 9) + b"{" + b"\xff" * 8,
    ],
)
def test_other_files_are_refused(data, tmp_path):
    path = tmp_path / "other.safetensors"
    path.write_bytes(data)
    refused(path)


def test_other_formats_are_refused(tmp_path):
    torch.save({"g_ema": {"w": torch.zeros(3)}}, tmp_path / "zip.pt")
    refused(tmp_path / "zip.pt", "a generator of rosinality")
    save_file({"w": torch.zeros(3)}, tmp_path / "plain.safetensors")
    refused(tmp_path / "plain.safetensors", "not a generator that gprior knows")
    save_file({"w": torch.zeros(3)}, tmp_path / "f.safetensors", {"format": "gprior-1"})
    refused(tmp_path / "f.safetensors", "names no valid architecture")


def refused(path, message="."):
    """Check that the file is refused by one ValueError that names it, soon."""
    started = time.perf_counter()
    with pytest.raises(ValueError, match=message) as caught:
        load_prior(path)
    assert str(path) in str(caught.value)
    assert time.perf_counter() - started < 2
    return str(caught.value)


def test_truncated_files_are_refused(saved, tmp_path):
    data = saved[1].read_bytes()
    start = 8 + struct.unpack("<Q", data[:8])[0]
    cuts = {1, 4, 8, 9, 100, start - 1, start, start + 1, (start + len(data)) // 2, len(data) - 1}
    cuts |= {random.Random(0).randrange(len(data)) for _ in range(20)}
    path = tmp_path / "cut.safetensors"
    for cut in sorted(cuts):
        path.write_bytes(data[:cut])
        refused(path)
    path.write_bytes(data + b"\0")
    refused(path)


META = {
    "not JSON": (lambda m: "{", "names no valid architecture"),
    "a number": (lambda m: "5", "names no valid architecture"),
    "a list": (lambda m: [], "names no valid architecture"),
    "no architecture": (lambda m: {**m, "architecture": None}, "architecture must be one of"),
    "another architecture": (lambda m: {**m, "architecture": "Glow"}, "StyleGAN2.*got 'Glow'"),
    "the other architecture": (lambda m: {**m, "architecture": "BigGAN"}, "names no valid"),
    "a list as architecture": (lambda m: {**m, "architecture": [1]}, "architecture must be"),
    "no generator": (lambda m: {"architecture": "StyleGAN2"}, "generator"),
    "generator is a list": (lambda m: {**m, "generator": [16, 1]}, "names no valid"),
    "record is a list": (lambda m: {**m, "record": [1]}, "record"),
    "discriminator is null": (lambda m: {**m, "discriminator": None}, "names no valid"),
    "deep": (lambda m: "[" * 200_000, "names no valid architecture"),
}
GENERATOR = {
    "missing argument": ({"img_resolution": ...}, "img_resolution"),
    "unknown argument": ({"depth": 3}, "depth"),
    "48 pixels": ({"img_resolution": 48}, "power of two"),
    "infinite": ({"img_resolution": float("inf")}, "img_resolution"),
    "a fraction": ({"img_resolution": 16.0}, "img_resolution"),
    "text": ({"img_resolution": "16"}, "img_resolution"),
    "another size": ({"img_resolution": 32}, "should have shape"),
    "other channels": ({"img_channels": 3}, r"tensor blocks.*should have shape \(3,"),
    "w_dim": ({"w_dim": 17}, "should have shape"),
    "more layers": ({"num_mapping_layers": 3}, "mapping_network.layers.2.*the file has none"),
    "fewer layers": ({"num_mapping_layers": 1}, "layers.1.*should have shape none"),
    "no noise": ({"use_noise": False}, "noise"),
    "huge z": ({"z_dim": 1 << 60}, "z_dim must be an integer from"),
    "largest": (
        {"img_resolution": 1024, "channel_base": 1 << 20, "channel_max": 1 << 14, "w_dim": 1 << 14},
        "should have shape",
    ),
    "deepest": (
        {"num_mapping_layers": 64, "c_dim": 1 << 16, "z_dim": 1 << 14},
        "should have shape",
    ),
    "negative": ({"c_dim": -1}, "c_dim"),
    "clamp is text": ({"conv_clamp": "256"}, "conv_clamp"),
    "huge clamp": ({"conv_clamp": float("nan")}, "conv_clamp"),
}


@pytest.mark.parametrize("case", META)
def test_wrong_metadata_is_refused(case, saved, tmp_path):
    change, message = META[case]
    refused(rewritten(saved[1], tmp_path / "m.safetensors", with_meta(change)), message)


@pytest.mark.parametrize("case", GENERATOR)
def test_a_wrong_architecture_is_refused(case, bare, tmp_path):
    """Also one of terabytes, before anything is allocated."""
    fields, message = GENERATOR[case]

    def change(meta):
        merged = {**meta["generator"], **fields}
        return {**meta, "generator": {k: v for k, v in merged.items() if v is not ...}}

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    path = rewritten(bare, tmp_path / "m.safetensors", with_meta(change))
    resource.setrlimit(resource.RLIMIT_AS, (used() + (1 << 30), hard))
    try:
        refused(path, message)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def used():
    """Return the address space of this process in bytes."""
    with open("/proc/self/statm") as file:  # noqa: PTH123
        return int(file.read().split()[0]) * resource.getpagesize()


def test_missing_extra_and_misshapen_tensors_are_named(saved, tmp_path):
    def without(tensors, meta, metadata):
        return {k: v for k, v in tensors.items() if k != "const"}, metadata

    def extra(tensors, meta, metadata):
        return {**tensors, "surplus": torch.zeros(2)}, metadata

    def misshapen(tensors, meta, metadata):
        return {**tensors, "const": tensors["const"].flatten().clone()}, metadata

    def halves(tensors, meta, metadata):
        return {**tensors, "const": tensors["const"].half()}, metadata

    def mixed(tensors, meta, metadata):
        return {**tensors, "const": tensors["const"].double()}, metadata

    def foreign(tensors, meta, metadata):
        return tensors, {**metadata, "format": "pt"}

    path = tmp_path / "t.safetensors"
    refused(rewritten(saved[1], path, without), "tensor const should.*the file has none")
    refused(rewritten(saved[1], path, extra), "tensor surplus should have shape none")
    refused(rewritten(saved[1], path, misshapen), r"const.*\(1, 16, 4, 4\).*has \(256,\)")
    refused(rewritten(saved[1], path, halves), "F16.*must all be float32 or all float64")
    refused(rewritten(saved[1], path, mixed), "F32.*F64")
    refused(rewritten(saved[1], path, foreign), "not a generator that gprior knows")


def test_a_discriminator_of_other_images_is_refused(saved, tiny_prior, tmp_path):
    prior = copy.deepcopy(saved[0])
    prior.discriminator = tiny_prior(channels=3, c_dim=3, dtype=torch.float32).discriminator
    save_prior(prior, tmp_path / "d.safetensors")
    refused(tmp_path / "d.safetensors", "discriminator")


def test_fuzzed_files_load_or_are_refused(saved, tmp_path):
    """Bit flips and overwritten stretches, most of them in the header."""
    data, rng = saved[1].read_bytes(), random.Random(1)
    start = 8 + struct.unpack("<Q", data[:8])[0]
    path, loaded = tmp_path / "fuzz.safetensors", 0
    for i in range(300):
        changed = bytearray(data)
        at = rng.randrange(8 if i % 10 == 0 else start if i % 10 < 8 else len(data))
        for k in range(rng.choice([1, 1, 1, 2, 8])):
            if at + k < len(data):
                changed[at + k] ^= 1 << rng.randrange(8)
        path.write_bytes(changed)
        started = time.perf_counter()
        try:
            load_prior(path)  # a flip inside a weight or a string cannot be told
            loaded += 1
        except ValueError as error:
            assert str(path) in str(error)
        assert time.perf_counter() - started < 2
    assert 10 < loaded < 250


def test_the_header_is_enough_to_know_the_shapes(saved):
    meta, shapes = header(saved[1])
    assert meta["generator"]["img_resolution"] == 16
    assert shapes["const"] == (1, 16, 4, 4)


def test_a_full_disk_leaves_the_old_file(saved, tmp_path):
    path = tmp_path / "p.safetensors"
    path.write_bytes(b"old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(OSError, match=r"p\.safetensors") as caught:
            save_prior(saved[0], path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.errno == errno.EFBIG
    assert path.read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("name", embedded())
def test_embedded_priors_load(name):
    prior = gprior.load_prior(name)
    assert prior.name == name
    x = prior.sample(2)
    assert x.shape == (2, *prior.image_shape) and x.isfinite().all()
    assert prior.statistics["perceptual_unit"] > 0
