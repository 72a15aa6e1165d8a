"""The StyleGAN2 prior against an independent implementation, and its contract."""

from __future__ import annotations

import copy
import io
import math
import pickle

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from gprior.priors import AdaptedPrior, Generator, Prior, StyleGAN2, fold_

DOUBLE = torch.float64


# --- An independent reference: per-sample weights, explicit zero insertion and FIR, from
# --- Karras et al. 2020 (arXiv:1912.04958) and Karras et al. 2019. It reads our weights
# --- by name and shares no code with the package.


def fir(x, gain=1.0):
    """Filter with the outer product of [1, 3, 3, 1] / 8, four taps, no padding."""
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=x.dtype) / 8
    kernel = torch.outer(taps, taps).flip(0, 1)[None, None] * gain
    b, c, h, w = x.shape
    return F.conv2d(x.reshape(b * c, 1, h, w), kernel).reshape(b, c, h - 3, w - 3)


def insert_zeros(x):
    """Put a zero after every sample along both axes."""
    b, c, h, w = x.shape
    out = x.new_zeros(b, c, 2 * h, 2 * w)
    out[:, :, ::2, ::2] = x
    return out


def up_image(x):
    """Double an image: zero insertion, then the filter with gain 4 (2 before, 1 after)."""
    return fir(F.pad(insert_zeros(x), (2, 1, 2, 1)), 4.0)


def modulated(x, style, weight, demodulate, up):
    """Equations 1 and 3 of the paper with per-sample weights, one sample at a time."""
    out = []
    for xi, si in zip(x, style, strict=True):
        w = weight * (si[None, :, None, None] if si.ndim == 1 else si[:, :, None, None])
        if demodulate:
            w = w / (w.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()
        if not up:
            out.append(F.conv2d(xi[None], w, padding=weight.shape[-1] // 2))
            continue
        # Zero insertion, correlation with the flipped kernel (a transposed convolution
        # scatters W), then the FIR. Samples lie at 0, 2, ..., so 2 zeros on the left and
        # right complete the support of the 3x3 kernel; the FIR has one zero on each side.
        wide = F.pad(insert_zeros(xi[None]), (2, 1, 2, 1))
        out.append(fir(F.pad(F.conv2d(wide, w.flip(2, 3)), (1, 1, 1, 1)), 4.0))
    return torch.cat(out)


def reference(prior, ws, noise, content=None):
    """Return the raw image of our weights (folded), by the reference layers."""
    p = dict(prior.named_parameters())
    clamp = prior.conv_clamp
    x = p["const"] if content is None else content
    x = x.expand(len(ws), -1, -1, -1)
    rgb, layer = None, 0

    def affine(name, w):
        return w @ p[f"{name}.affine.weight"].t() + p[f"{name}.affine.bias"]

    for k in range(int(math.log2(prior.image_shape[-1])) - 1):
        for part in ("conv0", "conv1"):
            if k == 0 and part == "conv0":
                continue
            name = f"blocks.{k}.{part}"
            style = affine(f"{name}.conv", ws[:, layer])
            x = modulated(x, style, p[f"{name}.conv.weight"], True, up=part == "conv0")
            if noise is not None and f"{name}.noise_strength" in p:
                x = x + p[f"{name}.noise_strength"] * noise[layer]
            x = F.leaky_relu(x + p[f"{name}.bias"][:, None, None], 0.2) * math.sqrt(2)
            if clamp is not None:
                x = x.clamp(-clamp, clamp)
            layer += 1
        name = f"blocks.{k}"
        style = affine(f"{name}.to_rgb", ws[:, layer])
        new = modulated(x, style, p[f"{name}.to_rgb.weight"], False, up=False)
        new = new + p[f"{name}.rgb_bias"][:, None, None]
        if clamp is not None:
            new = new.clamp(-clamp, clamp)
        rgb = new if rgb is None else up_image(rgb) + new
    return rgb


def reference_mapping(prior, z, c=None):
    """Return w by the reference layers."""
    p = dict(prior.named_parameters())
    x = z / (z.square().mean(1, keepdim=True) + 1e-8).sqrt()
    if c is not None:
        embed = c @ p["mapping_network.embed.weight"].t() + p["mapping_network.embed.bias"]
        x = torch.cat([x, embed / (embed.square().mean(1, keepdim=True) + 1e-8).sqrt()], 1)
    k = 0
    while f"mapping_network.layers.{k}.weight" in p:
        # The factor sqrt(2) is folded into weight and bias.
        y = x @ p[f"mapping_network.layers.{k}.weight"].t() + p[f"mapping_network.layers.{k}.bias"]
        x = F.leaky_relu(y, 0.2)
        k += 1
    return x


def draws(prior, n=2, seed=0):
    """Return z, ws around M(z), and noise maps, all random."""
    g = torch.Generator().manual_seed(seed)
    z = torch.randn(n, prior.z_dim, generator=g, dtype=DOUBLE)
    c = torch.softmax(torch.randn(n, prior.c_dim, generator=g, dtype=DOUBLE), 1)
    c = c if prior.c_dim else None
    ws = prior.mapping(z, c)
    ws = ws + 0.3 * torch.randn(ws.shape, generator=g, dtype=DOUBLE)
    noise = [torch.randn(n, *s, generator=g, dtype=DOUBLE) for s in prior.noise_shapes]
    return z, c, ws, noise


SIZES = [
    (16, 1, 0, {}),
    (16, 3, 3, {}),
    (32, 3, 0, {}),
    (64, 1, 2, {}),
    (16, 1, 0, {"conv_clamp": 0.6}),
]


@pytest.mark.parametrize(("resolution", "channels", "c_dim", "config"), SIZES)
def test_images_and_gradients_equal_the_reference(tiny_prior, resolution, channels, c_dim, config):
    prior = tiny_prior(resolution, channels, c_dim, critic=False, **config)
    z, c, ws, noise = draws(prior)
    torch.testing.assert_close(prior.mapping(z, c)[:, 3], reference_mapping(prior, z, c))

    content = prior.const.detach() + 0.1
    inputs = [t.detach().requires_grad_() for t in (ws, content, *noise)]
    ours = prior.synthesis(inputs[0], noise=inputs[2:], content=inputs[1])
    theirs = reference(prior, inputs[0], inputs[2:], inputs[1])
    assert ours.shape == (2, channels, resolution, resolution)
    assert (ours - theirs).abs().max() < 1e-10 * max(1, theirs.abs().max())
    probe = torch.randn(ours.shape, generator=torch.Generator().manual_seed(1), dtype=DOUBLE)
    for a, b in zip(
        torch.autograd.grad((ours * probe).sum(), inputs),
        torch.autograd.grad((theirs * probe).sum(), inputs),
        strict=True,
    ):
        assert b.abs().max() > 0
        assert (a - b).abs().max() < 1e-9 * b.abs().max()


def test_the_clamp_is_reached(tiny_prior):
    free, tight = tiny_prior(critic=False), tiny_prior(critic=False, conv_clamp=0.6)
    ws = draws(free)[2]
    assert (free.synthesis(ws) - tight.synthesis(ws)).abs().max() > 0.01


def test_folding_keeps_the_map():
    torch.manual_seed(0)
    prior = StyleGAN2(16, 1, 8, 16, 0, 128, 16, 2).double()
    z, _, ws, noise = draws(prior)
    w, image = prior.mapping(z), prior.synthesis(ws, noise=noise)
    fold_(prior)
    prior.freeze()
    torch.testing.assert_close(prior.mapping(z), w)
    torch.testing.assert_close(prior.synthesis(ws, noise=noise), image)
    fold_(prior)
    torch.testing.assert_close(prior.synthesis(ws, noise=noise), image)


@pytest.mark.parametrize(("resolution", "c_dim"), [(16, 0), (32, 3)])
def test_equal_rows_of_filter_styles_are_the_shared_style(tiny_prior, resolution, c_dim):
    prior = tiny_prior(resolution, 1, c_dim, critic=False)
    ws = draws(prior)[2]
    wide = ws[:, :, None].expand(-1, -1, prior.max_filters, -1)
    torch.testing.assert_close(prior.synthesis(wide), prior.synthesis(ws), rtol=1e-10, atol=1e-10)


def test_filter_styles_act_on_their_own_filter(tiny_prior):
    """One layer with a style per output filter, against the reference's loop."""
    prior = tiny_prior(critic=False)
    conv = prior.blocks[1].conv0.conv
    g = torch.Generator().manual_seed(3)
    x = torch.randn(2, 16, 4, 4, generator=g, dtype=DOUBLE)
    w = torch.randn(2, 20, 16, generator=g, dtype=DOUBLE)  # 20 rows, 16 filters
    ours, demod = conv(x, w)
    style = (w @ conv.affine.weight.t() + conv.affine.bias)[:, :16]
    assert demod is None
    torch.testing.assert_close(ours, modulated(x, style, conv.weight, True, up=True))


def test_too_few_filter_rows_are_refused(tiny_prior):
    prior = tiny_prior(critic=False)
    with pytest.raises(ValueError, match="at least 16 rows"):
        prior.synthesis(torch.zeros(1, prior.num_ws, 15, prior.w_dim, dtype=DOUBLE))


@pytest.mark.parametrize("rows", [None, 16])
def test_a_state_reproduces_the_image(tiny_prior, rows):
    prior = tiny_prior(32, 3, critic=False)
    _, _, ws, noise = draws(prior)
    if rows:
        ws = ws[:, :, None] + 0.1 * torch.randn(2, prior.num_ws, rows, 16, dtype=DOUBLE)
    whole = prior.synthesis(ws, noise=noise)
    for k in range(1, len(prior.blocks)):
        state = prior.run_blocks(ws, noise=noise, to_block=k)
        assert state[0].shape[-1] == state[1].shape[-1] == 2 * 2**k
        assert torch.equal(prior.synthesis(ws, noise=noise, from_block=k, state=state), whole)


def test_noise_modes(tiny_prior):
    prior = tiny_prior(critic=False)
    ws = draws(prior, 2)[2][:1].expand(2, -1, -1)
    const, zero = prior.synthesis(ws), prior.synthesis(ws, noise="zero")
    assert torch.equal(const[0], const[1]) and torch.equal(zero[0], zero[1])
    assert not torch.allclose(const, zero)
    assert torch.equal(prior.synthesis(ws, noise=prior.noise_maps()), const)
    zeros = [torch.zeros_like(m) for m in prior.noise_maps()]
    torch.testing.assert_close(prior.synthesis(ws, noise=zeros), zero)
    random = prior.synthesis(ws, noise="random")
    assert not torch.allclose(random[0], random[1])
    torch.testing.assert_close(reference(prior, ws, prior.noise_maps()), const)
    torch.testing.assert_close(reference(prior, ws, None), zero)


def test_noise_maps_act_in_the_listed_order(tiny_prior):
    """Map i changes nothing before its own layer: 4x4, 8x8 first, 8x8 second, ..."""
    prior = tiny_prior(32, 1, critic=False)
    _, _, ws, noise = draws(prior)
    assert prior.noise_shapes == [(1, r, r) for r in (4, 8, 8, 16, 16, 32, 32)]
    for i in range(len(noise)):
        changed = [m + (j == i) for j, m in enumerate(noise)]
        block = (i + 1) // 2
        if block:
            before = prior.run_blocks(ws, noise, to_block=block)[0]
            assert torch.equal(prior.run_blocks(ws, changed, to_block=block)[0], before)
        after = prior.run_blocks(ws, noise, to_block=block + 1)[0]
        assert not torch.allclose(prior.run_blocks(ws, changed, to_block=block + 1)[0], after)


def test_a_prior_without_noise_inputs(tiny_prior):
    prior = tiny_prior(critic=False, use_noise=False)
    assert "noise" not in prior.inputs
    ws = torch.randn(2, prior.num_ws, 16, dtype=DOUBLE)
    torch.testing.assert_close(prior.synthesis(ws), reference(prior, ws, None))


def test_truncation(tiny_prior):
    prior = tiny_prior(critic=False)
    z = torch.randn(3, 8, dtype=DOUBLE)
    ws, mean = prior.mapping(z), prior.w_avg
    torch.testing.assert_close(prior.mapping(z, truncation_psi=0.0), mean.expand_as(ws))
    torch.testing.assert_close(prior.mapping(z, truncation_psi=0.4), mean + 0.4 * (ws - mean))
    cut = prior.mapping(z, truncation_psi=0.4, truncation_cutoff=2)
    torch.testing.assert_close(cut[:, :2], mean + 0.4 * (ws[:, :2] - mean))
    assert torch.equal(cut[:, 2:], ws[:, 2:])
    assert torch.equal(prior.mapping(z, truncation_psi=0.4, truncation_cutoff=0), ws)
    assert not torch.allclose(prior(z, truncation_psi=0.4), prior(z))


def test_samples_may_be_truncated(tiny_prior):
    prior = tiny_prior()
    z = prior.draw([(4, "sample", i) for i in range(3)])
    small = prior.sample(3, seed=4, truncation=0.4)
    torch.testing.assert_close(small, prior(z, truncation_psi=0.4))
    assert torch.equal(prior.sample(3, seed=4, truncation=1), prior.sample(3, seed=4))
    assert (
        prior.adapt((3, 16, 16))
        .sample(3, seed=4, truncation=0.4)
        .equal(small.expand(-1, 3, -1, -1))
    )
    for value in (float("nan"), "half", True):
        with pytest.raises(ValueError, match="truncation must be a finite number, got"):
            prior.sample(1, truncation=value)


def test_a_prior_without_truncation_refuses_one():
    net = torch.nn.Sequential(torch.nn.Linear(4, 64), torch.nn.Unflatten(1, (1, 8, 8)))
    with pytest.raises(ValueError, match="a Generator has none; leave truncation=None"):
        Generator(net, 4).adapt((3, 8, 8)).sample(1, truncation=0.5)


@pytest.mark.parametrize("n", [0, 1.5, True, "2"])
def test_the_number_of_samples_is_a_positive_integer(n, tiny_prior):
    with pytest.raises(ValueError, match="n must be an integer of at least 1, got"):
        tiny_prior().sample(n)


def test_it_describes_itself(tiny_prior):
    prior = tiny_prior()
    assert prior.describe() == "StyleGAN2, z 8, w 6 x 16"
    assert prior.adapt((3, 8, 8)).describe() == "StyleGAN2, z 8, w 6 x 16, adapted to 3 x 8 x 8"


@pytest.mark.parametrize("adapted", [False, True])
def test_an_unfrozen_copy_follows_its_weights(adapted, tiny_prior):
    frozen = tiny_prior()
    prior = copy.deepcopy(frozen)
    outer = prior.adapt((3, 16, 16)) if adapted else prior
    known = prior.statistics
    assert outer.unfreeze() is outer and prior.statistics == known != {}
    learned = {name for name, p in prior.named_parameters() if p.requires_grad}
    assert learned == {n for n, _ in prior.named_parameters() if not n.startswith("discriminator.")}
    assert not prior.training
    torch.testing.assert_close(prior.sample(2), frozen.sample(2))
    with torch.no_grad():
        for parameter in prior.blocks.parameters():
            parameter.mul_(1.1)
    images = prior.sample(2)
    torch.testing.assert_close(prior.freeze().sample(2), images)


def test_truncation_is_towards_the_mean_of_the_class(tiny_prior):
    prior = tiny_prior(c_dim=3, critic=False)
    assert prior.w_avg.shape == (3, 16)
    z, c = torch.randn(3, 8, dtype=DOUBLE), torch.eye(3, dtype=DOUBLE)
    means = prior.mapping(z, c, truncation_psi=0.0)
    torch.testing.assert_close(means, prior.w_avg[:, None].expand_as(means))
    soft = torch.tensor([[0.25, 0.25, 0.5]], dtype=DOUBLE)
    expected = 0.25 * prior.w_avg[0] + 0.25 * prior.w_avg[1] + 0.5 * prior.w_avg[2]
    found = prior.mapping(z[:1], soft, truncation_psi=0.0)
    torch.testing.assert_close(found[0, 0], expected)


WRONG = {
    "z": (lambda p: p.mapping(torch.zeros(2, 9)), r"z must have shape \(B, 8\), got \(2, 9\)"),
    "z without batch": (lambda p: p.mapping(torch.zeros(8)), "z must have shape"),
    "c where there are none": (
        lambda p: p.mapping(torch.zeros(2, 8), torch.zeros(2, 3)),
        "no classes",
    ),
    "ws": (lambda p: p.synthesis(torch.zeros(2, 5, 16)), r"ws must have shape \(B, 6, 16\)"),
    "ws without layers": (lambda p: p.synthesis(torch.zeros(2, 16)), "ws must have shape"),
    "noise mode": (lambda p: p.synthesis(WS, noise="constant"), "noise must be one of"),
    "noise count": (
        lambda p: p.synthesis(WS, noise=p.noise_maps()[:-1]),
        "noise must have 5 maps, got 4",
    ),
    "noise order": (
        lambda p: p.synthesis(WS, noise=p.noise_maps()[::-1]),
        r"noise\[0\] must have shape",
    ),
    "noise batch": (
        lambda p: p.synthesis(WS, noise=[m.expand(3, -1, -1, -1) for m in p.noise_maps()]),
        r"noise\[0\].* batch of 1 or 2, got 3",
    ),
    "content": (
        lambda p: p.synthesis(WS, content=torch.zeros(1, 15, 4, 4)),
        "content must have shape",
    ),
    "content batch": (
        lambda p: p.synthesis(WS, content=torch.zeros(3, 16, 4, 4)),
        "content.* got 3",
    ),
    "from_block": (
        lambda p: p.synthesis(WS, from_block=3, state=STATE),
        "from_block must be an integer from 0 to 2",
    ),
    "state alone": (lambda p: p.synthesis(WS, state=STATE), "go together"),
    "from_block alone": (lambda p: p.synthesis(WS, from_block=1), "go together"),
    "state of another block": (
        lambda p: p.synthesis(WS, from_block=2, state=STATE),
        r"state\[0\] must have",
    ),
    "rgb of another block": (
        lambda p: p.synthesis(WS, from_block=1, state=(STATE[0], torch.zeros(2, 1, 8, 8))),
        r"state\[1\] must have",
    ),
    "state batch": (
        lambda p: p.synthesis(
            WS,
            from_block=1,
            state=tuple(s.expand(4, -1, -1, -1) for s in (STATE[0][:1], STATE[1][:1])),
        ),
        r"state\[0\].* got 4",
    ),
    "z and ws": (lambda p: p(torch.zeros(2, 8), ws=WS), "either z or ws"),
    "nothing": (lambda p: p(), "either z or ws"),
}
WS = torch.zeros(2, 6, 16)
STATE = (torch.zeros(2, 16, 4, 4), torch.zeros(2, 1, 4, 4))


@pytest.mark.parametrize("case", WRONG)
def test_wrong_inputs_are_refused_by_name(tiny_prior, case):
    call, message = WRONG[case]
    with pytest.raises(ValueError, match=message):
        call(tiny_prior(dtype=torch.float32, critic=False))


def test_wrong_classes_are_refused_by_name(tiny_prior):
    prior = tiny_prior(c_dim=3, critic=False)
    z = torch.zeros(2, 8, dtype=DOUBLE)
    with pytest.raises(ValueError, match=r"pass c of shape \(B, 3\)"):
        prior.mapping(z)
    with pytest.raises(ValueError, match=r"c must have shape \(B, 3\), got \(2, 4\)"):
        prior.mapping(z, torch.zeros(2, 4))
    with pytest.raises(ValueError, match="c must have"):
        prior.mapping(z, torch.zeros(3, 3, dtype=DOUBLE))
    for label, message in (
        (3, "between 0 and 2"),
        (-1, "between 0 and 2"),
        ([0, 1, 2], "one index or one per image"),
        (torch.zeros(4), "soft label must have shape"),
        (None, "needs a label"),
    ):
        with pytest.raises(ValueError, match=message):
            prior.classes(label, 2)
    with pytest.raises(ValueError, match="has no classes"):
        tiny_prior(critic=False).classes(0, 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"img_resolution": 48}, "img_resolution must be a power of two from 16 to 1024, got 48"),
        ({"img_resolution": 8}, "img_resolution"),
        ({"img_resolution": 2048}, "img_resolution"),
        ({"img_channels": 2}, "img_channels must be 1 or 3"),
        ({"z_dim": 0}, "z_dim"),
        ({"c_dim": -1}, "c_dim"),
        ({"num_mapping_layers": 0}, "num_mapping_layers"),
        ({"conv_clamp": -1.0}, "conv_clamp"),
    ],
)
def test_wrong_sizes_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        StyleGAN2(**{"img_resolution": 16, "img_channels": 1, **change})


@pytest.mark.parametrize("resolution", [16, 32, 64, 128, 256, 512, 1024])
def test_shapes_at_every_resolution(resolution):
    with torch.device("meta"):
        prior = StyleGAN2(resolution, 3)
        raw = prior.synthesis(torch.zeros(1, prior.num_ws, 512))
    log2 = int(math.log2(resolution))
    assert prior.num_ws == 2 * log2 - 2
    sides = [4] + [2**k for k in range(3, log2 + 1) for _ in range(2)]
    assert prior.noise_shapes == [(1, r, r) for r in sides]
    assert [m.shape[1:] for m in prior.noise_maps()] == prior.noise_shapes
    assert prior.image_shape == (3, resolution, resolution) == tuple(raw.shape[1:])
    assert prior.content_shape == (512, 4, 4)


def test_images_are_half_the_raw_ones_plus_a_half(tiny_prior):
    prior = tiny_prior(critic=False)
    z, _, ws, _ = draws(prior)
    assert torch.equal(prior(ws=ws), (prior.synthesis(ws) + 1) / 2)
    assert torch.equal(prior(z), prior(ws=prior.mapping(z)))
    assert prior.sample(8).max() > 1  # not clamped: this random prior exceeds the range


def test_float32_and_float64_agree(tiny_prior):
    fine = tiny_prior(32, 3, critic=False)
    coarse = copy.deepcopy(fine).float()
    ws = draws(fine)[2]
    image = coarse.synthesis(ws.float())
    assert image.dtype == torch.float32
    assert (image - fine.synthesis(ws)).abs().max() < 1e-4
    assert torch.allclose(coarse.double().synthesis(ws), fine.synthesis(ws), atol=1e-5)


def test_a_frozen_prior_has_no_weight_gradients(tiny_prior):
    prior = tiny_prior(critic=False)
    assert not prior.training
    assert not any(p.requires_grad for p in prior.parameters())
    z = torch.randn(1, 8, dtype=DOUBLE, requires_grad=True)
    prior(z).sum().backward()
    assert z.grad is not None and all(p.grad is None for p in prior.parameters())


def test_samples_depend_on_seed_and_index_alone(tiny_prior):
    prior = tiny_prior(c_dim=3, critic=False)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        many = prior.sample(40, seed=5)
        torch.manual_seed(2)
        few = prior.sample(3, seed=5)
    torch.testing.assert_close(many[:3], few)
    assert not torch.allclose(prior.sample(3, seed=6), few)
    assert not torch.allclose(few[0], few[1])


def test_sample_leaves_the_global_generator_alone(tiny_prior):
    prior = tiny_prior(critic=False)
    before = torch.get_rng_state()
    prior.sample(2)
    assert torch.equal(torch.get_rng_state(), before)


def test_samples_have_uniform_classes(tiny_prior):
    prior = tiny_prior(c_dim=3, critic=False)
    found = torch.cat([i["c"].argmax(1) for i in prior._sample_inputs(600, 0, None)])
    counts = found.bincount(minlength=3)
    assert counts.min() > 150 and counts.sum() == 600
    torch.testing.assert_close(prior.sample(2, label=1), prior.sample(2, label=[1, 1]))
    soft = torch.tensor([0.0, 1.0, 0.0])
    torch.testing.assert_close(prior.sample(2, label=1), prior.sample(2, label=soft))
    assert not torch.allclose(prior.sample(2, label=1), prior.sample(2, label=2))
    with pytest.raises(ValueError, match="n must be an integer of at least 1"):
        prior.sample(0)


# --- adapt


def test_gray_to_rgb_and_back(tiny_prior):
    prior = tiny_prior()
    gray = prior.sample(2)
    rgb = prior.adapt((3, 16, 16))
    assert torch.equal(rgb.sample(2), gray.expand(-1, 3, -1, -1))
    assert torch.allclose(rgb.adapt((1, 16, 16)).sample(2), gray)


def test_rgb_to_gray_is_the_luma(tiny_prior):
    prior = tiny_prior(channels=3)
    r, g, b = prior.sample(2).unbind(1)
    expected = 0.299 * r + 0.587 * g + 0.114 * b
    torch.testing.assert_close(prior.adapt((1, 16, 16)).sample(2)[:, 0], expected)


@pytest.mark.parametrize("channels", [1, 3])
def test_complex_images(tiny_prior, channels):
    prior = tiny_prior(channels=channels)
    gray = prior.adapt((1, 16, 16)).sample(2)
    real = prior.adapt((2, 16, 16))
    torch.testing.assert_close(real.sample(2), torch.cat([gray, torch.zeros_like(gray)], 1))
    phase = torch.linspace(-3, 3, 256).view(16, 16)
    image = prior.adapt((2, 16, 16), phase=phase).sample(2)
    expected = gray[:, 0] * torch.exp(1j * phase.to(DOUBLE))
    torch.testing.assert_close(torch.complex(image[:, 0], image[:, 1]), expected)


def test_sizes(tiny_prior):
    prior = tiny_prior()
    x = prior.sample(1)
    padded = prior.adapt((1, 19, 22), size="pad").sample(1)
    torch.testing.assert_close(padded[..., 1:17, 3:19], x)
    torch.testing.assert_close(padded.abs().sum(), x.abs().sum())
    torch.testing.assert_close(prior.adapt((1, 11, 16), size="crop").sample(1), x[..., 2:13, :])
    assert prior.adapt((1, 9, 40)).sample(1).shape == (1, 1, 9, 40)
    constant = torch.ones(1, 1, 16, 16)
    from gprior.priors.adapt import _fit

    torch.testing.assert_close(_fit(constant, (9, 40), "resize"), torch.ones(1, 1, 9, 40))


@pytest.mark.parametrize(
    ("shape", "size"), [((3, 16, 16), None), ((1, 19, 21), "pad"), ((2, 17, 17), "pad")]
)
def test_restore_undoes_the_adaptation(tiny_prior, shape, size):
    """The features of the base see the image that the base made, not one a pixel aside."""
    prior = tiny_prior()
    adapted = prior.adapt(shape, size=size)
    back = adapted.restore(adapted.sample(2))
    torch.testing.assert_close(back, prior.sample(2).abs() if shape[0] == 2 else prior.sample(2))


def test_restore_through_two_adaptations(tiny_prior):
    prior = tiny_prior()
    twice = prior.adapt((3, 16, 16)).adapt((3, 21, 21), size="pad")
    torch.testing.assert_close(twice.restore(twice.sample(2)), prior.sample(2))


def test_an_adapted_prior_is_recorded_and_delegates(tiny_prior):
    prior = tiny_prior(c_dim=3)
    adapted = prior.adapt((3, 20, 20), size="pad")
    assert isinstance(adapted, AdaptedPrior) and isinstance(adapted, Prior)
    assert adapted.record["adapted"] == {"from": [1, 16, 16], "to": [3, 20, 20], "size": "pad"}
    assert adapted.core is prior and adapted.discriminator is prior.discriminator
    assert "adapted" not in prior.record
    assert adapted.image_shape == (3, 20, 20)
    assert adapted.inputs == prior.inputs and adapted.c_dim == 3
    assert adapted.num_ws == prior.num_ws and adapted.w_avg is prior.w_avg
    z, c = torch.randn(2, 8, dtype=DOUBLE), prior.classes(1, 2)
    assert torch.equal(adapted.mapping(z, c), prior.mapping(z, c))
    assert torch.equal(adapted.draw([(0, "x")]), prior.draw([(0, "x")]))
    with pytest.raises(AttributeError, match="no_such_thing"):
        adapted.no_such_thing  # noqa: B018


def test_gradients_flow_through_an_adapted_prior(tiny_prior):
    adapted = tiny_prior(channels=3).adapt((2, 24, 24), phase=torch.rand(24, 24))
    ws = torch.randn(1, 6, 16, dtype=DOUBLE, requires_grad=True)
    (grad,) = torch.autograd.grad(adapted(ws=ws).square().sum(), ws)
    assert grad.isfinite().all() and grad.abs().sum() > 0


def doubled(prior):
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.mul_(2)


CHANGES = {
    "cast": lambda prior: prior.float().double(),
    "loaded": lambda prior: prior.load_state_dict(
        {name: 2 * value for name, value in prior.state_dict().items()}
    ),
    "in place": doubled,
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_frozen_prior_computes_from_its_weights_as_they_are(change, tiny_prior):
    frozen, free = copy.deepcopy(tiny_prior()), copy.deepcopy(tiny_prior()).unfreeze()
    CHANGES[change](frozen), CHANGES[change](free)
    torch.testing.assert_close(frozen.sample(2), free.sample(2).detach(), rtol=0, atol=1e-13)


def test_an_adapted_prior_copies_casts_and_pickles(tiny_prior):
    adapted = copy.deepcopy(tiny_prior()).adapt((2, 16, 16), phase=torch.rand(16, 16))
    image = adapted.sample(1)
    for other in (copy.deepcopy(adapted), pickle.loads(pickle.dumps(adapted))):
        assert torch.equal(other.sample(1), image)
        assert other.base.const is not adapted.base.const
    buffer = io.BytesIO()
    torch.save(adapted.state_dict(), buffer)
    assert adapted.float().sample(1).dtype == torch.float32
    torch.testing.assert_close(adapted.double().sample(1), image, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((4, 16, 16), {}, "image_shape must be"),
        ((16, 16), {}, "image_shape must be"),
        ((1, 0, 16), {}, "image_shape must be"),
        ((1, 16, 16), {"size": "stretch"}, "size must be one of"),
        ((1, 12, 20), {"size": "pad"}, "needs at least 16x16"),
        ((1, 12, 20), {"size": "crop"}, "needs at most 16x16"),
        ((1, 16, 16), {"phase": torch.zeros(16, 16)}, "phase must have"),
        ((2, 16, 16), {"phase": torch.zeros(8, 8)}, "phase must have"),
    ],
)
def test_impossible_adaptations_are_refused(tiny_prior, shape, options, message):
    with pytest.raises(ValueError, match=message):
        tiny_prior().adapt(shape, **options)


def test_a_two_channel_prior_stays_one(tiny_prior):
    with pytest.raises(ValueError, match="adapt its base"):
        tiny_prior().adapt((2, 16, 16)).adapt((1, 16, 16))


def test_a_prior_copies_and_pickles(tiny_prior):
    prior = tiny_prior(c_dim=3)
    for other in (copy.deepcopy(prior), pickle.loads(pickle.dumps(prior))):
        assert torch.equal(other.sample(2), prior.sample(2))
        assert other.record == prior.record and not any(p.requires_grad for p in other.parameters())
