"""Both BigGANs: the published generators' images and gradients, and the prior's contract."""

from __future__ import annotations

import copy
import functools
import io
import json
import lzma
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812

import gprior
from gprior.checkpoints import load_prior, save_prior
from gprior.checkpoints.biggan import from_biggan_pytorch, from_huggingface
from gprior.priors import BigGAN

DATA = Path(__file__).parent / "data"
DEEP, PLAIN = DATA / "biggan_hf" / "deep32", DATA / "biggan_ajbrock" / "res64"
KINDS = pytest.mark.parametrize("kind", ["deep", "plain"])
PRECISIONS = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


@functools.cache
def published(kind):
    """Return config (None for the plain one), tensors, and the recorded inputs and outputs."""
    folder = DEEP if kind == "deep" else PLAIN
    recorded = {k: torch.from_numpy(v) for k, v in np.load(folder / "io.npz").items()}
    if kind == "plain":
        return None, torch.load(folder / "G_ema.pth", weights_only=True), recorded
    with lzma.open(folder / "pytorch_model.bin.xz") as file:
        tensors = torch.load(io.BytesIO(file.read()), weights_only=True)
    return json.loads((folder / "config.json").read_text()), tensors, recorded


def build(kind, config=None, tensors=None):
    """Return the prior of a published checkpoint, some of it changed."""
    own, state, _ = published(kind)
    tensors = {**state, **(tensors or {})}
    tensors = {k: v for k, v in tensors.items() if v is not ...}
    if kind == "plain":
        return from_biggan_pytorch(tensors)
    return from_huggingface({**own, **(config or {})}, tensors)


@functools.cache
def loaded(kind, dtype=torch.float32):
    """Return the prior of a published checkpoint. Shared: not to be changed."""
    return build(kind).to(dtype)


def drawn(prior, n=2):
    """Return latents and class vectors."""
    z = prior.draw([(5, "z", i) for i in range(n)])
    return z, prior.classes([(3 * i + 1) % prior.c_dim for i in range(n)], n)


# --- against what the published code computed -------------------------------------------------


def cases():
    meta = json.loads((DEEP / "meta.json").read_text())
    yield from (("deep", name, t, "y") for name, t in meta["truncations"].items())
    yield "deep", "img_soft_label", 0.4, "y_soft"
    yield "plain", "img", 1.0, "y"


@PRECISIONS
@pytest.mark.parametrize("case", list(cases()), ids=lambda case: case[1])
def test_images_are_the_published_ones(case, dtype):
    """At truncations whose statistics show how the published code picks and weighs them."""
    kind, name, truncation, label = case
    prior, recorded = loaded(kind, dtype), published(kind)[2]
    c = recorded[label] if kind == "deep" else prior.classes(recorded[label], 2)
    x = prior(z=recorded["z"].to(dtype), c=c.to(dtype), truncation=truncation)
    assert x.dtype == dtype
    assert (2 * x - 1 - recorded[name]).abs().max() < (5e-5 if dtype == torch.float32 else 1e-5)


# Float64 has the rounding of the recorded gradients alone, on any machine: 3e-7 of the deep one,
# 1.7e-5 of the plain one. Float32 adds its own: at most 9e-7 and 9e-5 over 17 orders of summation
# and last digits of weights on each of four instruction sets.
GRADIENTS = {"deep": (1e-6, 1e-5), "plain": (3e-5, 5e-4)}


@PRECISIONS
@KINDS
def test_gradients_are_the_published_ones(kind, dtype):
    prior, recorded = loaded(kind, dtype), published(kind)[2]
    c = recorded["y"] if kind == "deep" else prior.classes(recorded["y"], 2)
    z = recorded["z"].to(dtype, copy=True).requires_grad_()
    raw = 2 * prior(z=z, c=c.to(dtype), truncation=0.4) - 1
    (gradient,) = torch.autograd.grad((raw * recorded["cot"]).sum(), z)
    wanted, most = recorded["grad_z"], GRADIENTS[kind][dtype == torch.float32]
    assert (gradient - wanted).abs().max() < most * wanted.abs().max()


def test_the_shared_embedding_is_the_published_one():
    prior, recorded = loaded("plain"), published("plain")[2]
    assert torch.equal(prior.embed(prior.classes(recorded["y"], 2)), recorded["shared_y"])


def plain_reference(tensors, z, y, attended):
    """Return the raw image of BigGAN-PyTorch tensors, layer by layer as the paper draws them."""
    t = {k: v.double() for k, v in tensors.items()}

    def weight(name):
        W, u = t[f"{name}.weight"], t[f"{name}.u0"]
        v = u @ W.flatten(1) / (u @ W.flatten(1)).norm()
        return W / (W.flatten(1) @ v.t()).norm()

    def bn(x, name):
        wide = [s[:, None, None] for s in (t[f"{name}.stored_mean"], t[f"{name}.stored_var"])]
        return (x - wide[0]) / (wide[1] + 1e-5).sqrt()

    def ccbn(x, cond, name):
        gain, bias = (cond @ weight(f"{name}.{k}").t() for k in ("gain", "bias"))
        return F.relu(bn(x, name) * (1 + gain[..., None, None]) + bias[..., None, None])

    def conv(x, name):
        W = weight(name)
        return F.conv2d(x, W, t.get(f"{name}.bias"), padding=W.shape[-1] // 2)

    def twice(x):
        return x.repeat_interleave(2, 2).repeat_interleave(2, 3)

    blocks = sum(name.endswith(".conv1.weight") for name in t)
    piece = t["linear.weight"].shape[1]
    pieces = z.split(piece, 1)
    h = (pieces[0] @ weight("linear").t() + t["linear.bias"]).view(len(z), -1, 4, 4)
    for k in range(blocks):
        name = f"blocks.{k}.0"
        cond = t["shared.weight"][y]
        cond = torch.cat([cond, pieces[k + 1]], 1) if len(pieces) > 1 else cond
        a = conv(twice(ccbn(h, cond, f"{name}.bn1")), f"{name}.conv1")
        a = conv(ccbn(a, cond, f"{name}.bn2"), f"{name}.conv2")
        h = a + conv(twice(h), f"{name}.conv_sc")
        if k in attended:
            name = f"blocks.{k}.1"
            q = conv(h, f"{name}.theta").flatten(2)
            key, v = (F.max_pool2d(conv(h, f"{name}.{p}"), 2).flatten(2) for p in ("phi", "g"))
            share = torch.einsum("bcq,bck->bqk", q, key).softmax(2)
            o = torch.einsum("bck,bqk->bcq", v, share).view(len(z), -1, *h.shape[2:])
            h = h + t[f"{name}.gamma"] * conv(o, f"{name}.o")
    h = bn(h, "output_layer.0") * t["output_layer.0.gain"][:, None, None]
    return conv(F.relu(h + t["output_layer.0.bias"][:, None, None]), "output_layer.2").tanh()


@pytest.mark.parametrize("hierarchical", [True, False])
@pytest.mark.parametrize("attended", [(), (2,), (1, 2)])
def test_other_architectures_of_the_plain_layout(hierarchical, attended):
    """Without pieces of z, without attention, or with it twice."""
    torch.manual_seed(3)
    tensors = dict(published("plain")[1])
    if not hierarchical:
        gains = [k for k in tensors if k.endswith((".gain.weight", ".bias.weight"))]
        tensors |= {k: tensors[k][:, :16].clone() for k in gains}
    if 1 in attended:
        for part, out, width in (("theta", 4, 32), ("phi", 4, 32), ("g", 16, 32), ("o", 32, 16)):
            name = f"blocks.1.1.{part}"
            tensors[f"{name}.weight"] = torch.randn(out, width, 1, 1)
            tensors |= {f"{name}.u0": torch.randn(1, out), f"{name}.sv0": torch.ones(1)}
        tensors["blocks.1.1.gamma"] = torch.tensor(0.7)
    if 2 not in attended:
        tensors = {k: v for k, v in tensors.items() if not k.startswith("blocks.2.1.")}
    prior = from_biggan_pytorch(tensors).double()
    assert prior.z_dim == (40 if hierarchical else 8)
    z, c = drawn(prior)
    wanted = plain_reference(tensors, z, c.argmax(1), attended)
    assert (2 * prior(z=z, c=c) - 1 - wanted).abs().max() < 1e-5  # of float32 weights


# --- the contract of a prior --------------------------------------------------------------------


@PRECISIONS
@KINDS
def test_a_state_reproduces_the_image_exactly(kind, dtype):
    prior = loaded(kind, dtype)
    z, c = drawn(prior)
    whole = prior(z=z, c=c, truncation=0.5)
    width, side = prior.config["widths"], 4
    for k in range(1, prior.num_blocks):
        state = prior.run_blocks(z, c, truncation=0.5, to_block=k)
        side *= 1 + prior.config["up"][k - 1]
        assert state[0].shape == (2, width[k], side, side) and state[1].shape[1] == 0
        assert torch.equal(prior(z=z, c=c, truncation=0.5, from_block=k, state=state), whole)
        between = prior.run_blocks(z, c, truncation=0.5, from_block=k, to_block=k + 1, state=state)
        assert torch.equal(between[0], prior.run_blocks(z, c, truncation=0.5, to_block=k + 1)[0])


@KINDS
def test_gradients_reach_every_input(kind):
    prior = loaded(kind, torch.float64)
    z, c = drawn(prior)
    inputs = {"z": z, "embedding": prior.embed(c)}
    state = [part.clone() for part in prior.run_blocks(**inputs, to_block=2)]
    leaves = [v.requires_grad_() for v in (z, inputs["embedding"], state[0])]
    slopes = torch.autograd.grad(prior(**inputs).sum(), leaves[:2])
    slopes += torch.autograd.grad(prior(**inputs, from_block=2, state=state).sum(), leaves[2])
    assert all(bool((s.flatten(1).abs().sum(1) > 0).all()) for s in slopes)
    assert not any(p.requires_grad for p in prior.parameters()) and not prior.training
    soft = torch.softmax(c, 1).requires_grad_()
    assert bool(torch.autograd.grad(prior(z=z, c=soft).sum(), soft)[0].any())


@KINDS
def test_the_embedding_is_an_input_of_its_own(kind):
    prior = loaded(kind, torch.float64)
    z, c = drawn(prior)
    soft = torch.softmax(3 * c, 1)
    e = prior.embed(soft)
    every = [prior.embed(prior.classes(k, 1))[0] for k in range(prior.c_dim)]
    torch.testing.assert_close(e, torch.stack([sum(map(torch.mul, row, every)) for row in soft]))
    assert torch.equal(prior(z=z, embedding=e), prior(z=z, c=soft))
    assert prior.inputs == {"z", "label", "embedding", "state"}


@KINDS
def test_images_of_a_batch_do_not_meet(kind):
    prior = loaded(kind, torch.float64)
    z, c = drawn(prior, 3)
    together = prior(z=z, c=c)
    for i in range(3):
        alone = prior(z=z[i : i + 1], c=c[i : i + 1])
        assert (together[i] - alone[0]).abs().max() < 1e-12


def test_draws_are_keyed_and_truncated():
    prior = copy.deepcopy(loaded("deep"))
    keys = [(k, "z") for k in range(400)]
    z = prior.draw(keys)
    assert z.shape == (400, 16) and z.abs().max() > 2.5 and abs(float(z.std()) - 1) < 0.05
    assert torch.equal(prior.draw(keys[7:9]), z[7:9])
    prior.truncation = 0.5
    short = prior.draw(keys)
    assert 0.9 < short.abs().max() <= 1  # two standard deviations, times 0.5
    assert abs(float(short.std()) - 0.5 * 0.8796) < 0.01  # of a normal cut at 2
    assert torch.equal(short.flatten().argsort(), z.flatten().argsort())
    assert prior.double().draw(keys).dtype == torch.float64


def test_samples_may_have_a_truncation_for_one_call():
    torch.manual_seed(0)
    prior = BigGAN(**SIZES).freeze()
    adapted = prior.adapt((1, 8, 8))
    plain, small = (
        prior.sample(3, seed=1, label=2),
        prior.sample(3, seed=1, label=2, truncation=0.5),
    )
    same = adapted.sample(3, seed=1, label=2, truncation=0.5)
    assert prior.truncation == 1.0 and not torch.equal(plain, small)
    prior.truncation = 0.5
    assert torch.equal(prior.sample(3, seed=1, label=2), small)
    assert torch.equal(adapted.sample(3, seed=1, label=2), same)
    assert torch.equal(prior.sample(3, seed=1, label=2, truncation=1.0), plain)
    with pytest.raises(ValueError, match=r"a finite number from 0 to 1, got 1\.5"):
        prior.sample(1, truncation=1.5)


def test_it_describes_itself():
    prior = BigGAN([8, 8, 8], [True, True], z_dim=6, embed_dim=4, c_dim=3)
    assert prior.describe() == "BigGAN-deep, z 6, class embedding 4"
    prior = BigGAN([8, 8, 8], [True, True], z_dim=6, embed_dim=4, c_dim=3, deep=False)
    assert prior.describe() == "BigGAN, z 6, class embedding 4"


def test_the_truncation_of_a_prior_is_that_of_its_calls():
    prior = copy.deepcopy(loaded("deep"))
    z, c = drawn(prior)
    full, half = prior(z=z, c=c), prior(z=z, c=c, truncation=0.5)
    assert (full - half).abs().max() > 0.01
    before = prior.sample(2, label=3)
    prior.truncation = 0.5
    assert torch.equal(prior(z=z, c=c), half)
    assert torch.equal(prior(z=z, c=c, truncation=1.0), full)
    assert (prior.sample(2, label=3) - before).abs().max() > 0.01
    plain = loaded("plain")  # has one row of statistics
    z, c = drawn(plain)
    assert torch.equal(plain(z=z, c=c, truncation=0.1), plain(z=z, c=c))


@KINDS
def test_samples(kind):
    prior = loaded(kind)
    x = prior.sample(3, seed=1)
    assert x.shape == (3, *prior.image_shape) and x.min() >= 0 and x.max() <= 1
    torch.testing.assert_close(prior.sample(2, seed=1), x[:2])
    assert prior.adapt((1, 16, 16)).sample(1).shape == (1, 1, 16, 16)
    assert copy.deepcopy(prior).sample(1, label=0).shape[0] == 1


# --- refusals -----------------------------------------------------------------------------------


def shaped(*shape):
    return torch.zeros(*shape)


CALLS = {
    "no class": (lambda p, z, c: p(z=z), "either c of shape"),
    "two classes": (lambda p, z, c: p(z=z, c=c, embedding=p.embed(c)), "either c of shape"),
    "z": (lambda p, z, c: p(z=z[:, 1:], c=c), r"z must have shape \(B, 16\), got \(2, 15\)"),
    "c": (lambda p, z, c: p(z=z, c=c[:, 1:]), r"c must have shape \(B, 12\)"),
    "rows of c": (lambda p, z, c: p(z=z, c=c[:1]), "c must have a batch of 2, got 1"),
    "embedding": (lambda p, z, c: p(z=z, embedding=c), r"embedding must have shape \(B, 16\)"),
    "truncation": (
        lambda p, z, c: p(z=z, c=c, truncation=1.1),
        "truncation must be a finite number from 0 to 1",
    ),
    "nan": (lambda p, z, c: p(z=z, c=c, truncation=float("nan")), "truncation must be a finite"),
    "block": (lambda p, z, c: p(z=z, c=c, from_block=5, state=(z,)), "from_block must be an"),
    "no state": (lambda p, z, c: p(z=z, c=c, from_block=1), "give both"),
    "no block": (lambda p, z, c: p(z=z, c=c, state=(z, z)), "give both"),
    "state": (
        lambda p, z, c: p(z=z, c=c, from_block=2, state=(shaped(2, 64, 4, 4), None)),
        r"state\[0\] must have shape \(B, 64, 8, 8\)",
    ),
    "label": (lambda p, z, c: p.sample(1, label=12), "label must be between 0 and 11"),
    "w": (lambda p, z, c: p.mapping(z), "has no W space"),
}


@pytest.mark.parametrize("case", CALLS)
def test_wrong_calls_are_refused(case):
    prior = loaded("deep")
    call, message = CALLS[case]
    with pytest.raises((ValueError, NotImplementedError), match=message):
        call(prior, *drawn(prior))


CONFIGS = {
    "no layers": ({"layers": None}, "layers must be a list"),
    "empty": ({"layers": []}, "layers must be a list"),
    "not pairs": ({"layers": [[True, 16]]}, "layers must be a list"),
    "not chained": ({"layers": [[True, 16, 16], [True, 8, 1]]}, "in that of the layer before"),
    "no last 1": ({"layers": [[True, 16, 16]]}, "a last out of 1"),
    "up is text": (
        {"layers": [["no", 16, 16], *[[True, 16 >> k, 8 >> k] for k in range(4)]]},
        "up must have one bool",
    ),
    "jump": ({"layers": [[True, 16, 1]]}, "keeps or halves"),
    "negative": ({"z_dim": -1}, "config: z_dim must be an integer from 1"),
    "text": ({"num_classes": "12"}, "config: num_classes"),
    "truth": ({"channel_width": True}, "config: channel_width"),
    "missing": ({"n_stats": None}, "config: n_stats must be"),
    "one row": ({"n_stats": 1}, "config: n_stats must be an integer from 2"),
    "size": ({"output_dim": 64}, "layers make 32 pixels, output_dim is 64"),
    "eps": ({"eps": 0}, "eps must be a finite number above 0"),
    "odd widths": ({"channel_width": 1}, "multiple"),
    "attention elsewhere": ({"attention_layer_position": 2}, "layers.2.snconv1x1_theta.*has none"),
    "no attention": ({"attention_layer_position": 9}, "tensor generator.layers.3"),
    "z_dim": ({"z_dim": 17}, r"generator.gen_z.weight_orig should.*\(2048, 33\).*\(2048, 32\)"),
    "classes": ({"num_classes": 13}, r"embeddings.weight.*\(16, 13\)"),
    "gigantic": ({"z_dim": 1 << 16, "class_embed_dim": 1 << 16}, "embeddings.weight"),
    "too large": ({"channel_width": 1 << 16}, "every width must be"),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_wrong_configs_are_refused(case):
    config, message = CONFIGS[case]
    with pytest.raises(ValueError, match=message):
        build("deep", config)


TENSORS = {
    "missing": ("deep", {"generator.bn.weight": ...}, "generator.bn.weight should.*has none"),
    "extra": ("deep", {"generator.extra": shaped(1)}, "1 tensors are no part.*generator.extra"),
    "shape": ("deep", {"generator.bn.bias": shaped(8, 1)}, r"\(8,\).*torch.float32 \(8, 1\)"),
    "integers": ("deep", {"generator.bn.bias": shaped(8).int()}, "should be real.*torch.int32"),
    "zero norm": ("deep", {"generator.gen_z.weight_u": shaped(2048)}, "spectral norm of.*not 0"),
    "nan": ("plain", {"linear.weight": torch.full((1024, 8), torch.nan)}, "must be finite"),
    "no embedding": ("plain", {"shared.weight": ...}, "has a tensor shared.weight.*has none"),
    "flat": ("plain", {"linear.weight": shaped(9)}, "linear.weight of 2 dimensions"),
    "no blocks": ("plain", {"blocks.0.0.conv1.weight": ...}, "len.up. must be an integer from 1"),
    "a gap": ("plain", {"blocks.1.0.conv1.weight": ...}, "number|should|no part|multiple"),
    "odd linear": ("plain", {"linear.weight": shaped(1000, 8)}, "should be real with shape"),
    "gain": ("plain", {"blocks.0.0.bn1.gain.weight": shaped(64, 23)}, r"\(64, 24\).*\(64, 23\)"),
    "two vectors": ("plain", {"linear.u1": shaped(1, 1024)}, "no part.*linear.u1"),
}


@pytest.mark.parametrize("case", TENSORS)
def test_wrong_tensors_are_refused(case):
    kind, tensors, message = TENSORS[case]
    with pytest.raises(ValueError, match=message):
        build(kind, None, tensors)


def test_loading_changes_no_tensor():
    for kind in ("deep", "plain"):
        before = {k: v.clone() for k, v in published(kind)[1].items()}
        build(kind)
        assert all(torch.equal(v, before[k]) for k, v in published(kind)[1].items())


SIZES = {"widths": [16, 16, 8], "up": [True, True], "z_dim": 6, "embed_dim": 4, "c_dim": 3}
WRONG = {
    "up": ({"up": [True]}, "up must have one bool per block, 2"),
    "no block doubles": ({"up": [False, False]}, "number of blocks with up"),
    "width": ({"widths": [16, 0, 8]}, "every width"),
    "deep widths": ({"widths": [16, 12, 8]}, "keeps or halves"),
    "attention": ({"attention": [2]}, "attention must be an integer from 0 to 1"),
    "attention twice": ({"attention": [1, 1]}, "name each block once"),
    "attention width": ({"attention": [0], "widths": [8, 4, 4]}, "multiple of 8"),
    "deep": ({"deep": "yes"}, "deep must be True or False"),
    "pieces of deep": ({"hierarchical": True}, "needs deep=False"),
    "pieces": ({"hierarchical": True, "deep": False, "z_dim": 7}, "multiple of 3, got z_dim=7"),
    "eps": ({"eps": float("nan")}, "eps must be"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_sizes_are_refused(case):
    sizes, message = WRONG[case]
    with pytest.raises(ValueError, match=message):
        BigGAN(**{**SIZES, **sizes})


# --- files and solving --------------------------------------------------------------------------


@KINDS
def test_the_native_format_holds_it(kind, tmp_path):
    prior = loaded(kind)
    save_prior(prior, tmp_path / "biggan.safetensors")
    again = load_prior(tmp_path / "biggan.safetensors")
    assert isinstance(again, BigGAN) and again.config == prior.config
    assert not again.training and not any(p.requires_grad for p in again.parameters())
    state = again.state_dict()
    assert all(torch.equal(v, state[k]) for k, v in prior.state_dict().items())
    z, c = drawn(prior)
    images = [p(z=z, c=c, truncation=0.3) for p in (again, prior)]
    torch.testing.assert_close(*images, rtol=0, atol=1e-5)


@pytest.mark.parametrize("change", [{"n_stats": 50}, {"z_dim": 1 << 15}, {"deep": False}])
def test_a_native_file_of_other_sizes_is_refused(change, tmp_path):
    prior = copy.deepcopy(loaded("deep"))
    prior.config = {**prior.config, **change}
    save_prior(prior, tmp_path / "biggan.safetensors")
    with pytest.raises(ValueError, match="should have shape"):
        load_prior(tmp_path / "biggan.safetensors")


@KINDS
@pytest.mark.parametrize("label", ["given", "unknown", "soft"])
def test_solving(kind, label):
    prior = loaded(kind)
    truth = prior.sample(2, seed=4, label=3)
    A = gprior.operators.Downsampling(prior.image_shape, 4)
    soft = 0.1 * torch.ones(prior.c_dim)
    soft[3] = 1
    given = {"given": 3, "unknown": None, "soft": soft}[label]
    result = gprior.solve(A(truth), A, prior, "csgm", label=given, steps=30, seed=1, stop="fixed")
    assert result.latents["z"].shape == (2, prior.z_dim)
    assert bool((result.loss < 0.8 * result.history[:, 0]).all())
    again = prior(z=result.latents["z"], c=result.latents["c"])
    torch.testing.assert_close(again, result.x, rtol=0, atol=1e-4)
    tried = prior.c_dim if label == "unknown" else 0
    torch.testing.assert_close(result.evaluations, torch.full((2,), 30 + (1 + tried) / 3).double())


def test_w_methods_name_what_works():
    prior = loaded("deep")
    A = gprior.operators.Downsampling(prior.image_shape, 4)
    with pytest.raises(ValueError, match=r"needs the inputs \['w'\].*'csgm'"):
        gprior.solve(A(prior.sample(1)), A, prior, "lbrgm", label=0)
