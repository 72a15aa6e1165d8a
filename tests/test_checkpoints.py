"""Published checkpoints: priors have the images and gradients of the original code.

Files are read as data and never as code. The fixtures have recorded inputs and outputs of the
original code beside each checkpoint.
"""

from __future__ import annotations

import functools
import json
import lzma
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

import gprior
from gprior.checkpoints import load, load_prior, read_checkpoint, save_prior
from gprior.checkpoints.inert import tensors_of
from gprior.checkpoints.nvlabs_tf import from_tensorflow
from gprior.checks import InputError
from gprior.cli import main
from gprior.priors import BigGAN, StyleGAN2

DATA = Path(__file__).parent / "data"
FILES = {
    "ada": DATA / "nvlabs_ada" / "uncond32" / "network.pkl",
    "ada conditional": DATA / "nvlabs_ada" / "cond32_fp16clamp" / "network.pkl",
    "ada clamped": DATA / "nvlabs_ada" / "clamp_tight16" / "network.pkl",
    "ada without noise": DATA / "nvlabs_ada" / "nonoise16" / "network.pkl",
    "stylegan3 repository": DATA / "nvlabs_sg3repo" / "sg2_32" / "network.pkl",
    "tensorflow": DATA / "nvlabs_tf" / "sg2_32" / "network.pkl",
    "rosinality": DATA / "rosinality" / "size32_converted" / "checkpoint.pt",
    "rosinality training": DATA / "rosinality" / "size64_training" / "checkpoint.pt",
    "psp": DATA / "rosinality" / "size32_psp" / "checkpoint.pt",
}
ORIGINS = {
    "ada": "StyleGAN2 of NVIDIA (PyTorch)",
    "tensorflow": "StyleGAN2 of NVIDIA (TensorFlow)",
    "rosinality": "StyleGAN2 of rosinality/stylegan2-pytorch",
    "psp": "StyleGAN2 decoder of pSp or e4e",
}
KINDS = pytest.mark.parametrize("kind", FILES)
PLAIN = DATA / "biggan_ajbrock" / "res64" / "G_ema.pth"


@functools.cache
def loaded(kind):
    """Return the prior of a fixture. It is shared between tests, which must not change it."""
    return load_prior(FILES[kind])


@functools.cache
def recorded(kind):
    """Return the recorded inputs and outputs, and the facts in meta.json."""
    folder = FILES[kind].parent
    arrays = {k: torch.from_numpy(v) for k, v in np.load(folder / "io.npz").items()}
    return arrays, json.loads((folder / "meta.json").read_text())


def classes(kind):
    return recorded(kind)[0]["c"] if loaded(kind).c_dim else None


# --- The same images -------------------------------------------------------------------------


@KINDS
def test_styles_are_those_of_the_original(kind):
    arrays, _ = recorded(kind)
    ws = loaded(kind).mapping(arrays["z"], classes(kind))
    expected = arrays["ws"] if "ws" in arrays else arrays["w"][:, None].expand_as(ws)
    torch.testing.assert_close(ws, expected, rtol=0, atol=5e-6)


@KINDS
def test_truncated_images_are_those_of_the_original(kind):
    arrays, meta = recorded(kind)
    prior = loaded(kind)
    if kind == "rosinality training":  # its mean style is not in the file
        prior = load_prior(FILES[kind])
        assert "estimated" in prior.record["w_avg"]
        assert (prior.w_avg - arrays["w_avg"]).abs().max() < 0.1
        prior.w_avg.copy_(arrays["w_avg"])
    mean = prior.w_avg[0] if prior.c_dim else prior.w_avg
    torch.testing.assert_close(mean, arrays["w_avg"], rtol=0, atol=1e-6)
    ws = prior.mapping(arrays["z"], classes(kind), meta["psi"], meta.get("truncation_cutoff"))
    expected = arrays["ws_psi" if "ws_psi" in arrays else "latent_psi"]
    torch.testing.assert_close(ws, expected, rtol=0, atol=5e-6)
    same(prior.synthesis(ws), arrays["img_z_psi_const"])


@KINDS
def test_images_are_those_of_the_original(kind):
    arrays, _ = recorded(kind)
    prior, z = loaded(kind), arrays["z"]
    ws, wplus = prior.mapping(z, classes(kind)), arrays["wplus"]
    same(prior.synthesis(ws), arrays["img_z_const"])
    same(prior(z=z, c=classes(kind)) * 2 - 1, arrays["img_z_const"])
    for name, styles, noise in (
        ("img_z_zero", ws, "zero"),
        ("img_z_none", ws, "zero"),
        ("img_wplus_const", wplus, "const"),
        ("img_wplus_zero", wplus, "zero"),
        ("img_wplus_noise", wplus, given_noise(kind)),
    ):
        if name in arrays:
            same(prior.synthesis(styles, noise=noise), arrays[name])
    if "img_mix" in arrays:
        half = prior.num_ws // 2
        mixed = torch.cat([ws[:1, :half], ws[1:, half:]], 1)
        same(prior.synthesis(mixed), arrays["img_mix"])


def given_noise(kind):
    arrays, _ = recorded(kind)
    names = [f"noise_{i}" for i in range(loaded(kind).num_ws - 1) if f"noise_{i}" in arrays]
    maps = [arrays[n].reshape(1, 1, *arrays[n].shape[-2:]).clone() for n in names]
    return [m.requires_grad_() for m in maps]


def similar(actual, expected):
    """Check for equality except for rounding, which depends on the alignment of memory."""
    assert (actual - expected).abs().max() < 5e-6


def same(actual, expected):
    torch.testing.assert_close(actual.detach(), expected, rtol=0, atol=5e-5)


@KINDS
def test_gradients_are_those_of_the_original(kind):
    arrays, _ = recorded(kind)
    prior, noise = loaded(kind), given_noise(kind)
    wplus = arrays["wplus"].clone().requires_grad_()
    # NVIDIA's gradients were recorded with the constant noise maps, except those of the maps.
    constant = "w" not in arrays
    images = prior.synthesis(wplus, noise="const" if constant else noise)
    actual = {"wplus": torch.autograd.grad((images * arrays["cot"]).sum(), wplus)[0]}
    if noise:
        images = prior.synthesis(wplus, noise=noise)
        gradients = torch.autograd.grad((images * arrays["cot"]).sum(), noise)
        actual |= {f"noise_{i}": g.view_as(arrays[f"noise_{i}"]) for i, g in enumerate(gradients)}
    for name, gradient in actual.items():
        expected = arrays[f"grad_{name}"]
        assert (gradient - expected).abs().max() < 1e-4 * expected.abs().max(), name


def test_the_clamp_of_a_checkpoint_is_reached():
    arrays, _ = recorded("ada clamped")
    free = StyleGAN2(**{**loaded("ada clamped").config, "conv_clamp": None})
    state = loaded("ada clamped").state_dict()
    free.load_state_dict(state)
    from gprior.priors import ready_

    ready_(free)
    assert (free.freeze().synthesis(arrays["wplus"]) - arrays["img_wplus_const"]).abs().max() > 0.1


def test_sizes_and_record_come_from_the_file():
    prior = loaded("ada conditional")
    assert (prior.c_dim, prior.config["conv_clamp"]) == (5, 256)
    assert loaded("stylegan3 repository").config["conv_clamp"] == 256  # its default
    assert loaded("ada").config["conv_clamp"] is None  # its default
    assert "noise" not in loaded("ada without noise").inputs
    assert loaded("ada without noise").z_dim == 48
    assert loaded("rosinality").widths == [32, 32, 24, 16]  # they follow no rule
    for kind, origin in ORIGINS.items():
        prior = loaded(kind)
        assert prior.record["origin"] == origin and prior.record["licence"]
        assert prior.record["source"] == FILES[kind].name and prior.name == str(FILES[kind])
        assert len(prior.record["source_sha256"]) == 64
        assert not prior.training and not any(p.requires_grad for p in prior.parameters())


@pytest.mark.parametrize("name", ["weights", "a.pkl", "b.pt", "c.safetensors", "phantom-64"])
def test_the_name_of_a_file_has_no_influence(name, tmp_path):
    for kind in ("tensorflow", "rosinality"):
        shutil.copy(FILES[kind], tmp_path / name)
        assert load_prior(tmp_path / name).record["origin"] == ORIGINS[kind]
        (tmp_path / "link").unlink(missing_ok=True)
        (tmp_path / "link").symlink_to(tmp_path / name)
        assert load_prior(tmp_path / "link").record["origin"] == ORIGINS[kind]


def test_loading_leaves_the_global_generator_and_the_file_alone():
    before, stamp = torch.get_rng_state(), FILES["rosinality training"].stat()
    load_prior(FILES["rosinality training"])
    assert torch.equal(torch.get_rng_state(), before)
    assert FILES["rosinality training"].stat().st_mtime_ns == stamp.st_mtime_ns


def test_a_prior_does_not_depend_on_the_file_after_loading(tmp_path):
    path = tmp_path / "network.pkl"
    shutil.copy(FILES["ada"], path)
    prior = load_prior(path)
    path.write_bytes(b"\0" * path.stat().st_size)
    same(prior.synthesis(recorded("ada")[0]["wplus"]), recorded("ada")[0]["img_wplus_const"])


@KINDS
def test_solvers_run_on_published_checkpoints(kind):
    prior = loaded(kind)
    A = gprior.operators.Downsampling(prior.image_shape, 2)
    result = gprior.solve(A(prior.sample(1)), A, prior, steps=2)
    assert result.x.shape == (1, *prior.image_shape)


# --- State dicts -----------------------------------------------------------------------------


@functools.cache
def rosinality_state():
    tree = read_checkpoint(FILES["rosinality"])
    size = FILES["rosinality"].stat().st_size
    return tensors_of(tree["g_ema"], size), tensors_of(tree, size)["latent_avg"]


def load_torch(tmp_path, value, **options):
    torch.save(value, tmp_path / "c.pt", **options)
    return load_prior(tmp_path / "c.pt")


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_bare_state_dicts_of_every_precision(dtype, legacy, tmp_path):
    state, mean = rosinality_state()
    half = {f"module.{k}": v.to(dtype) for k, v in state.items()}
    options = {"_use_new_zipfile_serialization": not legacy}
    prior = load_torch(tmp_path, {**half, "latent_avg": mean}, **options)
    assert prior.like.dtype == torch.float32
    expected = loaded("rosinality")
    difference = (prior.sample(2) - expected.sample(2)).abs().max()
    assert difference < {torch.float16: 0.02, torch.bfloat16: 0.2, torch.float64: 1e-5}[dtype]


def test_old_files_without_noise_maps(tmp_path):
    state, mean = rosinality_state()
    old = {k: v for k, v in state.items() if not k.startswith("noises.")}
    priors = [load_torch(tmp_path, {"g_ema": old, "latent_avg": mean}) for _ in range(2)]
    assert "drawn" in priors[0].record["noise"]
    arrays, _ = recorded("rosinality")
    same(priors[0].synthesis(arrays["wplus"], noise="zero"), arrays["img_wplus_zero"])
    similar(priors[0].sample(1), priors[1].sample(1))


def test_safetensors_without_an_architecture(tmp_path):
    state, mean = rosinality_state()
    save_file({**state, "latent_avg": mean}, tmp_path / "s.safetensors")
    prior = load_prior(tmp_path / "s.safetensors")
    similar(prior.sample(2), loaded("rosinality").sample(2))


def test_transposed_and_parameter_tensors(tmp_path):
    state, mean = rosinality_state()
    odd = {k: v.t().contiguous().t() if v.ndim == 2 else v for k, v in state.items()}
    odd["style.1.weight"] = torch.nn.Parameter(odd["style.1.weight"])
    prior = load_torch(tmp_path, {"g_ema": odd, "latent_avg": mean})
    similar(prior.sample(2), loaded("rosinality").sample(2))


WRONG = {
    "missing": ({"conv1.conv.weight": ...}, "conv1.conv.weight"),
    "missing mapping": ({"style.1.weight": ...}, "style"),
    "extra": ({"convs.0.attention": torch.zeros(3)}, "variant"),
    "another shape": ({"conv1.conv.weight": torch.zeros(1, 32, 31, 3, 3)}, r"\(1, 32, 31, 3, 3\)"),
    "5x5": ({"conv1.conv.weight": torch.zeros(1, 32, 32, 5, 5)}, r"\(1, 32, 32, 5, 5\)"),
    "integers": ({"input.input": torch.zeros(1, 32, 4, 4, dtype=torch.int64)}, "input.input"),
    "another filter": ({"convs.0.conv.blur.kernel": torch.full((4, 4), 0.25)}, "filter"),
    "NaN": ({"style.1.bias": torch.full((64,), torch.nan)}, "NaN"),
    "infinite": ({"style.1.bias": torch.full((64,), torch.inf)}, "infinite"),
    "latent_avg of rows": ({"latent_avg": torch.randn(8, 64)}, "latent_avg"),
    "short latent_avg": ({"latent_avg": torch.randn(63)}, "latent_avg"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_variant_is_refused_and_the_message_says_why(case, tmp_path):
    changed, message = WRONG[case]
    state, mean = rosinality_state()
    merged = {**state, "latent_avg": mean, **changed}
    with pytest.raises(ValueError, match=message):
        load_torch(tmp_path, {k: v for k, v in merged.items() if v is not ...})


OTHERS = {
    "discriminator": ({"d": {"final_conv.0.weight": 1}}, "g_ema"),
    "discriminator's state": ({"final_conv.0.weight": torch.zeros(2)}, "discriminator alone"),
    "look-alike": ({"synthesis.initial_conv1.adain.style_scale.weight": torch.zeros(2)}, "AdaIN"),
    "StyleGAN 1": ({"generator.progression.0.conv.0.conv.weight_orig": torch.zeros(1)}, "GAN 1"),
    "encoder": ({"input_layer.0.weight": torch.zeros(1)}, "encoder alone"),
    "NVIDIA's state dict": ({"synthesis.b4.const": torch.zeros(1)}, r"the \.pkl"),
    "StyleGAN3's": ({"synthesis.input.freqs": torch.zeros(1)}, "StyleGAN3"),
    "a classifier": ({"fc.weight": torch.zeros(1)}, "'fc.weight'"),
    "nothing": ({}, "nothing"),
    "a list": ([torch.zeros(1)], "a list"),
    "a tensor": (torch.zeros(3), "a StoredTensor"),
    "one number": (5, "a int"),
    "BigGAN-deep without config": ({"generator.gen_z.weight_orig": torch.zeros(1)}, "config.json"),
}


@pytest.mark.parametrize("case", OTHERS)
def test_other_networks_are_refused_by_name(case, tmp_path):
    value, message = OTHERS[case]
    with pytest.raises(ValueError, match=message) as caught:
        load_torch(tmp_path, value)
    assert str(tmp_path / "c.pt") in str(caught.value)
    assert "weights_only" not in str(caught.value) and "safe_globals" not in str(caught.value)


def test_stylegan3_is_refused_by_name():
    path = DATA / "nvlabs_sg3repo" / "sg3t_16_unsupported" / "network.pkl"
    with pytest.raises(ValueError, match=r"StyleGAN3 \(T or R\).*Generator"):
        load_prior(path)


def test_a_discriminator_in_the_place_of_the_generator_is_refused(tmp_path):
    data = FILES["ada conditional"].read_bytes()
    for old, new in (
        (b"\x8c\x05G_ema\x94", b"\x8c\x05other\x94"),
        (b"\x8c\1D\x94", b"\x8c\5G_ema\x94"),
    ):
        assert data.count(old) == 1
        data = data.replace(old, new)
    (tmp_path / "n.pkl").write_bytes(data)
    with pytest.raises(ValueError, match="discriminator"):
        load_prior(tmp_path / "n.pkl")
    data = FILES["tensorflow"].read_bytes()
    assert data.endswith(b"\x87\x94.")  # the three as a tuple
    (tmp_path / "n.pkl").write_bytes(data[:-3] + b"0.")  # only the second
    with pytest.raises(ValueError, match="discriminator"):
        load_prior(tmp_path / "n.pkl")


def test_networks_without_an_average_are_refused(tmp_path):
    data = FILES["ada"].read_bytes().replace(b"\x05\0\0\0G_ema", b"\x05\0\0\0G_emx")
    (tmp_path / "n.pkl").write_bytes(data)
    with pytest.raises(ValueError, match="no G_ema"):
        load_prior(tmp_path / "n.pkl")


@pytest.mark.parametrize(
    ("kind", "field", "text"),
    [("ada conditional", b"module_src", "sha256"), ("tensorflow", b"build_module_src", None)],
)
def test_code_beside_the_weights_is_not_run(kind, field, text, tmp_path):
    canary = tmp_path / "canary"
    code = f"import os; os.system('touch {canary}')".encode()[:255]
    empty = bytes([0x8C, len(field)]) + field + b"\x94\x8c\0"
    data = FILES[kind].read_bytes()
    assert data.count(empty) == 1
    path = tmp_path / "network.pkl"
    path.write_bytes(data.replace(empty, empty[:-1] + bytes([len(code)]) + code))
    prior = load_prior(path)
    assert not canary.exists()
    same(prior.synthesis(recorded(kind)[0]["wplus"]), recorded(kind)[0]["img_wplus_const"])
    if text:
        assert text in prior.record["code"] and "not run" in prior.record["code"]


@pytest.mark.parametrize(
    ("attribute", "value", "message"),
    [("skip", "orig", "architecture"), ("lrelu", "swish", "activation")],
)
def test_other_options_are_refused(attribute, value, message, tmp_path):
    old, new = (bytes([0x8C, len(word)]) + word.encode() for word in (attribute, value))
    data = FILES["ada conditional"].read_bytes()
    assert old in data
    (tmp_path / "n.pkl").write_bytes(data.replace(old, new))
    with pytest.raises(ValueError, match=message):
        load_prior(tmp_path / "n.pkl")


def nested_lists(levels=40):
    """Return a list that holds one list ten times, which holds one list ten times, and so on."""
    value = []
    for _ in range(levels):
        value = [value] * 10
    return value


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("act", "relu", "option act is 'relu', only 'lrelu' is read"),
        ("resample_kernel", [1, 2, 1], r"is \[1, 2, 1\], only \[1, 3, 3, 1\] is read"),
        ("resample_kernel", nested_lists(), "option resample_kernel is None"),
        ("mapping_lrmul", None, "mapping_lrmul should be a number above 0.*got None"),
        ("mapping_lrmul", 0, "got 0"),
        ("mapping_lrmul", nested_lists(), "got a list"),  # to print it would take for ever
        ("conv_clamp", -1.0, "conv_clamp should be a number above 0.*got -1.0"),
    ],
)
def test_other_options_of_tensorflow_are_refused(name, value, message):
    path = FILES["tensorflow"]
    network = read_checkpoint(path)[2]
    parts = [network, *network.state.get("components", {}).values()]
    for part in parts:
        part.state["static_kwargs"][name] = value
    with pytest.raises(InputError, match=message):
        from_tensorflow(network, path.stat().st_size)


# --- BigGAN's folders ------------------------------------------------------------------------


@pytest.fixture
def deep(tmp_path):
    """Return the folder of a BigGAN-deep of Hugging Face."""
    folder = tmp_path / "deep"
    folder.mkdir()
    source = DATA / "biggan_hf" / "deep32"
    shutil.copy(source / "config.json", folder)
    data = lzma.decompress((source / "pytorch_model.bin.xz").read_bytes())
    (folder / "pytorch_model.bin").write_bytes(data)
    return folder


def test_a_folder_its_weights_and_its_config_are_the_same_prior(deep):
    arrays = np.load(DATA / "biggan_hf" / "deep32" / "io.npz")
    z, y = torch.from_numpy(arrays["z"]), torch.from_numpy(arrays["y"])
    for path in (deep, deep / "pytorch_model.bin", deep / "config.json"):
        prior = load_prior(path)
        assert isinstance(prior, BigGAN)
        image = prior(z=z, c=y, truncation=0.4)
        same(2 * image - 1, torch.from_numpy(arrays["img_trunc_0"]))
        assert prior.record["source"] == "pytorch_model.bin"


def test_a_folder_with_safetensors(deep):
    path = deep / "pytorch_model.bin"
    expected = load_prior(deep).sample(2)
    tensors = tensors_of(read_checkpoint(path), path.stat().st_size)
    save_file(tensors, deep / "model.safetensors", {"format": "pt"})
    path.unlink()
    prior = load_prior(deep)
    assert prior.record["source"] == "model.safetensors"
    similar(prior.sample(2), expected)


@pytest.mark.parametrize(
    "text", ["", "[]", "{", "5", "[" * 100_000, '{"layers": ' + "9" * 5000 + "}", "\xff", "{}"]
)
def test_a_damaged_config_is_refused(text, deep):
    (deep / "config.json").write_text(text, encoding="latin1")
    with pytest.raises(ValueError, match=str(deep)):
        load_prior(deep)


def test_folders_without_weights(deep):
    (deep / "pytorch_model.bin").unlink()
    with pytest.raises(ValueError, match=r"neither model\.safetensors nor pytorch_model\.bin"):
        load_prior(deep)
    os.mkfifo(deep / "pytorch_model.bin")  # to read it would wait for ever
    with pytest.raises(ValueError, match="not a regular file"):
        load_prior(deep)


def test_the_functions_for_files_take_text_and_name_the_file(tmp_path):
    path = FILES["rosinality"]
    assert read_checkpoint(str(path)).keys() == read_checkpoint(path).keys()
    similar(load(str(path)).sample(1), loaded("rosinality").sample(1))
    (tmp_path / "empty.pt").touch()
    for read, kind in ((read_checkpoint, "a checkpoint"), (load, "a prior")):
        with pytest.raises(InputError, match=rf"empty\.pt cannot be read as {kind}: it is empty"):
            read(str(tmp_path / "empty.pt"))


# --- Commands --------------------------------------------------------------------------------


def call(*words):
    return CliRunner().invoke(main, [str(word) for word in words])


@pytest.mark.parametrize("source", [*FILES.values(), PLAIN], ids=[*FILES, "BigGAN-PyTorch"])
def test_a_converted_checkpoint_is_the_same_prior(source, tmp_path):
    out = tmp_path / "out.safetensors"
    result = call("convert", source, out)
    assert result.exit_code == 0, result.output
    before, after = load_prior(source), load_prior(out)
    state = after.state_dict()
    assert all(torch.equal(v, state[k]) for k, v in before.state_dict().items())
    similar(before.sample(1), after.sample(1))
    for name in ("origin", "source", "source_sha256", "licence"):
        assert after.record[name] == before.record[name]
        assert f"{name.replace('_', ' '):<13} {before.record[name]}" in result.output
    assert after.record["sha256"] != before.record["sha256"]
    assert f"sha256        {after.record['sha256']}" in call("info", out).output


def test_convert_refuses(tmp_path):
    for words, message in (
        ((FILES["ada"], tmp_path / "out.pt"), ".safetensors"),
        ((tmp_path / "none.pkl", tmp_path / "out.safetensors"), "neither a file"),
        ((PLAIN.parent / "io.npz", tmp_path / "o.safetensors"), "another archive"),
        ((FILES["ada"], tmp_path / "none" / "o.safetensors"), "No such file"),
    ):
        result = call("convert", *words)
        assert result.exit_code == 2 and message in result.output
        assert len(result.output.splitlines()) == 1
    assert not list(tmp_path.iterdir())
    save_prior(loaded("rosinality"), tmp_path / "a.safetensors")
    before = (tmp_path / "a.safetensors").read_bytes()
    assert call("convert", tmp_path / "a.safetensors", tmp_path / "a.safetensors").exit_code == 2
    assert (tmp_path / "a.safetensors").read_bytes() == before


def test_info_of_a_published_checkpoint():
    facts = dict(
        line.split(maxsplit=1)
        for line in call("info", FILES["ada conditional"]).output.split("\n")
        if line
    )
    assert facts["architecture"] == "StyleGAN2, z 64, w 8 x 64"
    assert facts["images"].startswith("3 x 32 x 32") and facts["classes"] == "5 without names"
    assert facts["origin"] == ORIGINS["ada"] and "non-commercial" in facts["licence"]
    assert "class embedding" in call("info", PLAIN).output


@pytest.mark.parametrize(
    ("source", "words", "size"),
    [
        ("phantom-64", [], (256, 256)),
        (FILES["ada conditional"], ["-n", "3", "--label", "2", "--truncation", "0.5"], (64, 64)),
        (PLAIN, ["-n", "2", "--truncation", "0.4", "--seed", "3"], (128, 64)),
    ],
)
def test_sample_draws_a_labelled_grid(source, words, size, tmp_path):
    from PIL import Image

    result = call("sample", source, "-o", tmp_path / "grid.png", "--device", "cpu", *words)
    assert result.exit_code == 0, result.output
    with Image.open(tmp_path / "grid.png") as picture:
        assert picture.size == size
        assert "generated" in picture.info["Description"]
        first = np.asarray(picture)
    call("sample", source, "-o", tmp_path / "other.png", "--device", "cpu", *words, "--seed", "9")
    with Image.open(tmp_path / "other.png") as picture:
        assert (np.asarray(picture) != first).any()


def test_the_grid_shows_the_samples_in_rows(tmp_path):
    from PIL import Image

    call("sample", "phantom-64", "-o", tmp_path / "g.png", "-n", "5", "--device", "cpu")
    with Image.open(tmp_path / "g.png") as picture:
        pixels = np.asarray(picture) / 255
    assert pixels.shape == (128, 192)
    x = load_prior("phantom-64").sample(5).clamp(0, 1).numpy()
    assert abs(pixels[64:, 64:128] - x[4, 0]).max() < 0.01
    assert (pixels[64:, 128:] == 1).all()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-o", "x.gif"], ".png"),
        (["-o", "x.png", "-n", "0"], "n must be"),
        (["-o", "x.png", "--label", "7"], "between 0 and 2"),
        (["-o", "x.png", "--truncation", "nan"], "finite"),
        (["-o", "none/x.png"], "No such file"),
    ],
)
def test_sample_refuses(words, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = call("sample", "phantom-64", "--device", "cpu", *words)
    assert result.exit_code == 2 and message in result.output, result.output
    assert not list(tmp_path.iterdir())
