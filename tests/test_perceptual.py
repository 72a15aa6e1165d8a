"""Perceptual distances: LPIPS from weights on the machine, masks, and their use in `solve`."""

from __future__ import annotations

import shutil
import subprocess
import sys
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import gprior
import gprior.distances.choice
from gprior.distances import (
    FeatureDistance,
    feature_distance,
    median_distance,
    perceptual_scores,
    random_distance,
    random_maps,
)
from gprior.distances.choice import unit_of
from gprior.distances.lpips import BACKBONES, locate
from gprior.operators import Downsampling, Masking, PartialCirculant
from gprior.problem import Problem
from gprior.randomness import normal
from gprior.solvers import CSGM, LBRGM, SOLVERS
from gprior.training import random_features

DOUBLE = torch.float64
nets = pytest.mark.parametrize("net", BACKBONES)


def images(n, channels=3, height=64, width=72, dtype=torch.float32):
    """Return smooth images in [0, 1], each from its own key."""
    noise = normal(
        [(0, "image", i) for i in range(n)], (channels, 8, 9), torch.zeros((), dtype=dtype)
    )
    return F.interpolate(noise, size=(height, width), mode="bicubic").sigmoid()


@pytest.fixture(scope="session")
def backbones(tmp_path_factory):
    """Return lpips's own models with random backbones, and these on disk as torchvision's."""
    import lpips

    folder, models = tmp_path_factory.mktemp("backbones"), {}
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # lpips calls torchvision as it was years ago
        torch.manual_seed(0)
        for net, (_, file, _) in BACKBONES.items():
            models[net] = lpips.LPIPS(net=net, pnet_rand=True, verbose=False)
            state = models[net].net.state_dict()
            state = {f"features.{key.split('.', 1)[1]}": value for key, value in state.items()}
            torch.save({**state, "classifier.0.weight": torch.zeros(3)}, folder / file)
    return models, folder


@pytest.fixture
def weights(backbones):
    """Return the path of a random backbone."""
    return lambda net: backbones[1] / BACKBONES[net][1]


@pytest.fixture
def hub(monkeypatch, tmp_path, backbones):
    """Give torch hub a cache of its own; the function puts a backbone into it."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(gprior.distances.choice, "PAIRS", 3)

    def place(net):
        path = locate(net)
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(backbones[1] / path.name, path)

    return place


@pytest.fixture
def prior(tiny_prior):
    return tiny_prior()


# --- LPIPS


@nets
def test_it_is_lpips(net, backbones, weights):
    model, distance = backbones[0][net], gprior.Perceptual(net, weights(net))
    x, y = images(4).split(2)
    with torch.no_grad():
        wanted = model(x, y, normalize=True).flatten()
        found = distance(x, y)
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
        assert found.shape == (2,) and (wanted > 1e-3).all()
        gray = images(4, 1).split(2)
        rgb = [g.expand(-1, 3, -1, -1) for g in gray]
        wanted = model(*rgb, normalize=True).flatten()
        torch.testing.assert_close(distance(*gray), wanted, atol=1e-5, rtol=1e-5)
    assert distance.name == f"lpips-{net}"


def test_its_gradient_is_that_of_lpips(backbones, weights):
    x, y = images(2, dtype=DOUBLE).split(1)
    x.requires_grad_()
    model = backbones[0]["squeeze"].double()
    (wanted,) = torch.autograd.grad(model(x, y, normalize=True).sum(), x)
    model.float()
    (found,) = torch.autograd.grad(gprior.Perceptual("squeeze", weights("squeeze"))(x, y).sum(), x)
    assert wanted.abs().max() > 0
    assert (found - wanted).abs().max() < 1e-6 * wanted.abs().max()


@nets
def test_its_gradient_is_finite_where_all_features_vanish(net, weights):
    distance = gprior.Perceptual(net, weights(net))
    for parameter in distance.backbone.parameters():
        parameter.data.fill_(-0.01)
    x = images(1).requires_grad_()
    (grad,) = torch.autograd.grad(distance(x, 1 - x.detach()).sum(), x)
    assert grad.isfinite().all()


@nets
@pytest.mark.parametrize(("size", "larger"), [((16, 16), (64, 64)), ((20, 30), (64, 96))])
def test_small_images_are_enlarged(net, size, larger, backbones, weights):
    distance = gprior.Perceptual(net, weights(net))
    x, y = images(2, 1, *size).split(1)
    up = [F.interpolate(v, size=larger, mode="bilinear").expand(-1, 3, -1, -1) for v in (x, y)]
    with torch.no_grad():
        wanted = backbones[0][net](*up, normalize=True).flatten()
        torch.testing.assert_close(distance(x, y), wanted, atol=1e-5, rtol=1e-5)
    assert wanted > 1e-3


def test_complex_images_by_their_magnitude(weights):
    distance = gprior.Perceptual("squeeze", weights("squeeze"))
    x, y = images(4, 1).split(2)
    turned = [torch.cat([v * 0.6, -v * 0.8], 1) for v in (x, y)]
    torch.testing.assert_close(distance(*turned), distance(x, y), atol=1e-5, rtol=1e-4)


def test_one_value_per_image_and_its_dtype(weights):
    distance = gprior.Perceptual("squeeze", weights("squeeze"))
    x, y = images(6, dtype=DOUBLE).split(3)
    whole = distance(x, y)
    assert whole.dtype == DOUBLE and whole.shape == (3,)
    for i in range(3):
        torch.testing.assert_close(distance(x[i : i + 1], y[i : i + 1])[0], whole[i])
    torch.testing.assert_close(distance(x.float(), y.float()), whole.float(), rtol=1e-4, atol=1e-5)
    assert not any(p.requires_grad for p in distance.backbone.parameters())


def test_images_of_another_kind_are_refused(weights):
    distance = gprior.Perceptual("squeeze", weights("squeeze"))
    x = images(2)
    with pytest.raises(ValueError, match=r"one shape \(B, C, H, W\), got \(2, .* and \(1, "):
        distance(x, x[:1])
    with pytest.raises(ValueError, match=r"images must be .*got \(2, 4, 64, 72\)"):
        distance(torch.rand(2, 4, 64, 72), torch.rand(2, 4, 64, 72))
    with pytest.raises(TypeError, match=r"floating point in \[0, 1\], got torch.uint8"):
        distance((255 * x).byte(), (255 * x).byte())


# --- Weights on the machine


def test_missing_weights_are_told_and_never_downloaded(hub, monkeypatch, tmp_path):
    def refuse(*args, **kwargs):
        raise AssertionError("a download")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    monkeypatch.setattr("torch.hub.load_state_dict_from_url", refuse)
    monkeypatch.setattr("torch.hub.download_url_to_file", refuse)
    with pytest.raises(FileNotFoundError) as caught:
        gprior.Perceptual("vgg")
    where = tmp_path / "hub" / "checkpoints" / "vgg16-397923af.pth"
    for part in (str(where), "https://download.pytorch.org/models/vgg16-397923af.pth", "weights="):
        assert part in str(caught.value)
    with pytest.raises(FileNotFoundError, match=r"elsewhere\.pth is no file"):
        gprior.Perceptual("alex", tmp_path / "elsewhere.pth")
    with pytest.raises(ValueError, match=r"net must be one of \['alex', 'squeeze', 'vgg'\]"):
        gprior.Perceptual("resnet")
    hub("alex")
    assert gprior.Perceptual("alex").name == "lpips-alex"


@dataclass
class Hostile:
    path: Path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_damaged_and_hostile_files_are_refused(tmp_path, weights):
    whole = weights("squeeze").read_bytes()
    (tmp_path / "cut.pth").write_bytes(whole[: len(whole) // 2])
    torch.save(Hostile(tmp_path / "touched"), tmp_path / "hostile.pth")
    for name in ("cut.pth", "hostile.pth"):
        with pytest.raises(ValueError, match=f"{name} is no whole state dict"):
            gprior.Perceptual("squeeze", tmp_path / name)
    assert not (tmp_path / "touched").exists()
    with pytest.raises(ValueError, match=r"no state dict of torchvision's alexnet: features\.0\."):
        gprior.Perceptual("alex", weights("squeeze"))
    for value in ([1], {"features.0.weight": 3}):
        torch.save(value, tmp_path / "odd.pth")
        with pytest.raises(ValueError, match="it is missing; give torchvision's complete file"):
            gprior.Perceptual("squeeze", tmp_path / "odd.pth")


def test_loading_draws_no_random_numbers(weights):
    before = torch.get_rng_state()
    gprior.Perceptual("vgg", weights("vgg"))
    assert torch.equal(torch.get_rng_state(), before)


def test_the_module_imports_neither_torchvision_nor_lpips():
    code = "import sys, gprior.distances.lpips; print({'torchvision', 'lpips'} & set(sys.modules))"
    root = Path(gprior.__file__).parent.parent
    run = [sys.executable, "-c", code]
    found = subprocess.run(run, capture_output=True, text=True, check=True, cwd=root)
    assert found.stdout.strip() == "set()"


# --- Masks, for any features


def pyramid(x):
    """Return features of three sizes."""
    return [torch.cat([y, 1 - y.square()], 1) for y in (x, F.avg_pool2d(x, 3), F.avg_pool2d(x, 8))]


def test_a_mask_weighs_the_positions_of_each_layer():
    distance = FeatureDistance(pyramid, [torch.rand(6), torch.rand(6), torch.rand(6)])
    x, y = images(4, dtype=DOUBLE).split(2)
    mask = torch.full((2, 1, 64, 72), 0.3, dtype=DOUBLE)
    mask[0, :, 10:40, 5:30] = 1
    mask[1, :, 30:, 40:] = 1
    wanted = torch.zeros(2, dtype=DOUBLE)
    for f, g, w in zip(pyramid(x), pyramid(y), distance.weights, strict=True):
        f, g = (v / (v.square().sum(1, keepdim=True) + 1e-8).sqrt() for v in (f, g))
        m = F.interpolate(mask, size=f.shape[2:], mode="bilinear", antialias=True)[:, 0]
        far = torch.einsum("bchw,c->bhw", (f - g).square(), w.double())
        for b in range(2):
            wanted[b] += (m[b] * far[b]).sum() / m[b].sum()
    torch.testing.assert_close(distance(x, y, mask), wanted)
    torch.testing.assert_close(distance(x, y, 7 * mask), wanted)
    torch.testing.assert_close(distance(x, y, mask[:1])[0], wanted[0])
    assert (distance(x, y) - wanted).abs().min() > 1e-4


@nets
def test_a_mask_of_ones_is_no_mask(net, weights):
    distance = gprior.Perceptual(net, weights(net))
    x, y = images(2, 1).split(1)
    plain = distance(x, y)
    torch.testing.assert_close(distance(x, y, torch.ones(1, 1, 64, 72)), plain)
    half = torch.zeros(1, 1, 64, 72)
    half[..., :36] = 1
    assert (distance(x, y, half) - plain).abs() > 1e-3 * plain


def test_what_a_mask_leaves_out_does_not_count():
    distance = FeatureDistance(lambda x: [torch.cat([x, 1 - x], 1)])
    x = images(1)
    other, mask = x.clone(), torch.ones(1, 1, 64, 72)
    other[..., :20] = 1 - other[..., :20]
    mask[..., :20] = 0
    assert distance(x, other) > 1e-3
    assert distance(x, other, mask) == 0


def test_a_single_pixel_is_not_lost_in_a_coarse_layer(weights):
    distance = gprior.Perceptual("vgg", weights("vgg"))
    x, y = images(2).split(1)
    for place in ((0, 0), (33, 47), (63, 71)):
        mask = torch.zeros(1, 1, 64, 72)
        mask[(0, 0, *place)] = 1
        found = distance(x, y, mask)
        assert found.isfinite() and found > 0


def test_masks_of_another_kind_are_refused():
    distance = FeatureDistance(pyramid)
    x = images(2)
    with pytest.raises(ValueError, match=r"mask must have shape \(2, 1, 64, 72\) or \(1, 1, 64"):
        distance(x, x, torch.ones(64, 72))
    with pytest.raises(ValueError, match="not be negative"):
        distance(x, x, -torch.ones(1, 1, 64, 72))
    mask = torch.ones(2, 1, 64, 72)
    mask[1] = 0
    with pytest.raises(ValueError, match="a pixel above 0 in each image"):
        distance(x, x, mask)


# --- In `solve`


def features_used(y, A, prior, **options):
    """Return the features of a short run."""
    options = {"perceptual": None, **options}
    return gprior.solve(y, A, prior, "lbrgm", steps=1, init="random", **options).features


def test_which_features_are_taken(hub, prior, tiny_prior):
    A, bare = Masking(prior.image_shape, "half"), tiny_prior(critic=False)
    y = A(prior.sample(1))
    assert features_used(y, A, prior) == features_used(y, A, prior, perceptual=True)
    assert features_used(y, A, prior) == "discriminator"
    assert features_used(y, A, bare) is None
    hub("squeeze")
    assert features_used(y, A, prior) == "discriminator"  # the default is VGG's alone
    assert features_used(y, A, prior, perceptual="squeeze") == "lpips-squeeze"
    with pytest.raises(FileNotFoundError, match=r"alexnet-owt-7be5be79\.pth is no file"):
        features_used(y, A, prior, perceptual="alex")
    hub("vgg")
    assert features_used(y, A, prior) == features_used(y, A, bare) == "lpips-vgg"
    assert features_used(y, A, prior, perceptual="discriminator") == "discriminator"
    assert features_used(y, A, prior, perceptual=pyramid) == "pyramid"
    assert features_used(y, A, prior, perceptual=False) is None
    with pytest.raises(ValueError, match="'discriminator' needs features: this prior has no"):
        features_used(y, A, bare, perceptual="discriminator")
    circulant = PartialCirculant(prior.image_shape, 100)
    assert features_used(circulant(prior.sample(1)), circulant, prior) is None


def test_damaged_weights_do_not_change_the_features_silently(hub, prior):
    locate("vgg").parent.mkdir(parents=True)
    locate("vgg").write_bytes(b"cut short")
    A = Masking(prior.image_shape, "half")
    with pytest.raises(ValueError, match="no whole state dict"):
        features_used(A(prior.sample(1)), A, prior)


@pytest.mark.parametrize("kind", ["mask", "small"])
def test_lpips_is_a_term_in_units_of_the_prior(kind, hub, weights, prior):
    A = Masking(prior.image_shape, "half") if kind == "mask" else Downsampling(prior.image_shape, 2)
    y = A(prior.sample(2, seed=3))
    distance = gprior.Perceptual("squeeze", weights("squeeze"))
    options = {"steps": 2, "init": "random", "stop": "fixed", "perceptual": distance}
    found = gprior.solve(y, A, prior, "brgm", feature=0.5, **options)
    unit = median_distance(distance, prior.sample(6))
    torch.testing.assert_close(found.terms["perceptual"], 0.5 * distance(A(found.x), y) / unit)
    assert found.perceptual and found.features == "lpips-squeeze"
    assert found.solver["perceptual"] == "Perceptual"
    alone = gprior.solve(y[1:], A, prior, "brgm", feature=0.5, **options)
    assert (alone.x[0] - found.x[1]).abs().max() < 1e-6


@pytest.mark.parametrize("shape", [(3, 16, 16), (2, 12, 12)])
def test_lpips_on_an_adapted_prior(shape, hub, weights, tiny_prior):
    prior = tiny_prior().adapt(shape)
    A = Masking(shape, "half")
    distance = gprior.Perceptual("squeeze", weights("squeeze"))
    found = gprior.solve(
        A(prior.sample(1)), A, prior, "lbrgm", steps=2, init="mean", perceptual=distance
    )
    assert found.x.isfinite().all() and found.terms["perceptual"] > 0


def test_the_unit_is_computed_once_for_a_prior(prior, tiny_prior):
    seen = []
    distance = FeatureDistance(lambda x: seen.append(len(x)) or pyramid(x))
    first = unit_of(distance, prior)
    assert sum(seen) == 400 and unit_of(distance, prior) == first and sum(seen) == 400
    assert unit_of(distance, tiny_prior(dtype=torch.float32)) == pytest.approx(first, rel=1e-3)
    assert sum(seen) == 800
    with pytest.raises(ValueError, match=r"'flat' give samples .* 0.0, which is no unit"):
        unit_of(FeatureDistance(lambda x: [0 * x], name="flat"), prior)


class Counting(FeatureDistance):
    """Features that count the images whose maps were asked for."""

    def __init__(self):
        super().__init__(pyramid)
        self.seen = 0

    def maps(self, images):
        self.seen += len(images)
        return super().maps(images)


@pytest.mark.parametrize(("stop", "per_step"), [("fixed", 1), ("holdout", 2)])
def test_features_of_y_are_computed_once_where_nothing_is_held_out(stop, per_step, prior):
    A = Masking(prior.image_shape, torch.ones(1, 16, 16))
    y, distance = A(prior.sample(2)), Counting()
    unit_of(distance, prior)
    seen = []
    for steps in (3, 5):
        distance.seen = 0
        gprior.solve(
            y, A, prior, "brgm", init="random", stop=stop, steps=steps, perceptual=distance
        )
        seen.append(distance.seen)
    assert seen[1] - seen[0] == 2 * 2 * per_step  # two images, two steps more
    assert seen[0] == 2 * (3 + 1) * per_step + (2 if stop == "fixed" else 0)


@pytest.mark.parametrize("noise_std", [None, 0.2])
def test_the_kept_features_change_no_answer(noise_std, monkeypatch, prior):
    """Also where rows are candidates, restarts, parts of a batch, or leave early."""
    A = Masking(prior.image_shape, "half")
    y = A(prior.sample(3, seed=3)) + 0.2 * A(
        normal([(0, "n", i) for i in range(3)], (1, 16, 16), prior.like)
    )
    options = {"steps": 8, "init": "best-of:3", "restarts": 2, "max_batch": 4, "stop": "fixed"}
    if noise_std:
        options |= {"stop": "discrepancy", "noise_std": [0.2, 0.05, 0.3]}
    found = gprior.solve(y, A, prior, "lbrgm", **options)
    monkeypatch.setattr(Problem, "prepared", lambda self: self)
    other = gprior.solve(y, A, prior, "lbrgm", **options)
    assert found.reason == other.reason
    assert noise_std is None or len(set(found.reason)) == 2
    torch.testing.assert_close(found.x, other.x, atol=1e-6, rtol=0)
    torch.testing.assert_close(found.loss, other.loss, atol=1e-6, rtol=1e-6)


def test_solvers_without_a_term_refuse_one(prior):
    A = Masking(prior.image_shape, "half")
    y = A(prior.sample(1))
    for wanted in (True, "vgg", pyramid):
        with pytest.raises(ValueError, match="CSGM has no perceptual term, so perceptual="):
            gprior.solve(y, A, prior, "csgm", steps=1, perceptual=wanted)
    for fine in (None, False):
        assert gprior.solve(y, A, prior, "csgm", steps=1, perceptual=fine).features is None
    assert [kind.has_perceptual for kind in (CSGM, LBRGM)] == [False, True]


def test_unknown_values_are_refused():
    with pytest.raises(
        ValueError, match=r"one of the names \('vgg', .*'discriminator'\), got 'res"
    ):
        LBRGM(perceptual="resnet")
    with pytest.raises(TypeError, match="perceptual must be None, True, False, one of"):
        LBRGM(perceptual=0.5)
    for name, kind in SOLVERS.items():
        assert replace(kind(), perceptual=False).perceptual is False, name


def test_names_on_the_command_line():
    from gprior.commands.arguments import parse_constants

    for text, value in (("vgg", "vgg"), ("true", True), ("False", False), ("none", None)):
        assert parse_constants("lbrgm", [f"perceptual={text}"]) == {"perceptual": value}


def test_results_of_earlier_versions_have_no_features(prior, tmp_path):
    A, path = Masking(prior.image_shape, "half"), tmp_path / "r.safetensors"
    result = gprior.solve(
        A(prior.sample(1)), A, prior, "lbrgm", steps=1, init="mean", perceptual=True
    )
    result.save(path)
    assert gprior.Result.load(path).features == result.features == "discriminator"
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    metadata["gprior"] = metadata["gprior"].replace('"features": "discriminator"', '"other": 0')
    save_file(load_file(path), path, metadata)
    assert gprior.Result.load(path).features is None


# --- The metric


def test_a_reported_metric_is_on_other_features(hub, weights):
    x, y = images(4).split(2)
    name, values = perceptual_scores(x, y)
    assert name == "random-features" and values == random_distance()(x, y).tolist()
    hub("alex")
    name, values = perceptual_scores(3 * x, y)
    clamped = gprior.Perceptual("alex", weights("alex"))((3 * x).clamp(0, 1), y)
    assert name == "lpips-alex" and values == pytest.approx(clamped.tolist())
    assert perceptual_scores(x, y, "lpips-vgg")[0] == "lpips-alex"
    assert perceptual_scores(x, y, "lpips-alex")[0] == "random-features"


@pytest.mark.parametrize(("channels", "size"), [(1, 64), (3, 64), (2, 64), (1, 16)])
def test_random_features_see_what_is_seen(channels, size):
    """Zero for equal images, and more for a blur or noise of more strength."""
    distance, x = random_distance(), images(3, channels, size, size)
    assert distance(x, x).tolist() == [0, 0, 0]
    noise = normal([(1, "noise", i) for i in range(3)], x.shape[1:], x)
    by_noise = [distance(x + s * noise, x) for s in (0.02, 0.1, 0.3)]
    assert (by_noise[0] > 0).all()
    assert (by_noise[1] > 1.5 * by_noise[0]).all() and (by_noise[2] > 1.5 * by_noise[1]).all()
    alone = torch.cat([distance(x[i : i + 1], 1 - x[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(alone, distance(x, 1 - x))


def test_random_features_are_those_of_the_frechet_distance():
    x = images(2)
    pooled = [m.mean((2, 3)) for m in random_maps(x)[:2]]
    torch.testing.assert_close(random_features(x)[:, :48], torch.cat(pooled, 1))


def test_distances_of_maps_add_up_over_layers():
    a, b = pyramid(images(2)), pyramid(images(2).flip(3))
    parts = [feature_distance([f], [g]) for f, g in zip(a, b, strict=True)]
    torch.testing.assert_close(feature_distance(a, b), torch.stack(parts).sum(0))
    with pytest.raises(ValueError, match="zip"):
        feature_distance(a, b[:2])
