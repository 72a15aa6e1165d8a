"""Augmentation of the discriminator's images, its adaptation, and path-length regularisation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from gprior.checks import InputError
from gprior.randomness import generator
from gprior.training import Settings, Trainer, phantom_set
from gprior.training.augment import GROUPS, Adaptation, augment, warp
from gprior.training.trainer import path_lengths

CONFIG = {
    "img_resolution": 16,
    "img_channels": 1,
    "z_dim": 8,
    "w_dim": 8,
    "c_dim": 3,
    "channel_base": 64,
    "channel_max": 8,
    "num_mapping_layers": 2,
}


def rng(seed: int = 0) -> torch.Generator:
    return generator(seed, "test of augmentation")


def smooth(count: int = 3, side: int = 32, channels: int = 1) -> torch.Tensor:
    noise = np.random.default_rng(0).standard_normal((count, channels, side, side))
    images = ndimage.gaussian_filter(noise, (0, 0, 3, 3), mode="mirror")
    return torch.tensor(images / np.abs(images).max())


def test_without_probability_nothing_is_drawn_or_changed():
    images, source = smooth(), rng()
    state = source.get_state()
    assert augment(images, 0, source) is images
    assert torch.equal(source.get_state(), state)


@pytest.mark.parametrize("groups", [(name,) for name in GROUPS])
def test_images_without_a_transformation_are_exact(groups):
    images = smooth(64, 16)
    out = augment(images, 0.2, rng(), groups)
    same = (out == images).flatten(1).all(1)
    assert out.shape == images.shape and 15 < int(same.sum()) < 60


@pytest.mark.parametrize(
    ("angle", "scale", "shift"),
    [(0.0, 1.0, (0.0, 0.0)), (30, 1.0, (0, 0)), (0, 1.3, (0, 0)), (-70, 0.8, (0.1, -0.06))],
)
def test_a_warp_is_that_of_scipy(angle, scale, shift):
    images, side = smooth(), 32
    c, s = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    matrix = scale * np.array([[c, -s], [s, c]])
    found = warp(
        images, torch.tensor(matrix).expand(3, 2, 2), torch.tensor([shift]).expand(3, 2)
    ).numpy()
    # scipy counts rows and columns from the corner, and asks where a pixel comes from.
    back = np.linalg.inv(matrix[::-1, ::-1])
    centre = np.full(2, (side - 1) / 2)
    offset = centre - back @ (centre + side * np.array(shift[::-1]))
    for image, out in zip(images.numpy()[:, 0], found[:, 0], strict=True):
        expected = ndimage.affine_transform(image, back, offset, order=3, mode="reflect")
        assert np.abs(out - expected)[4:-4, 4:-4].max() < 0.03


@pytest.mark.parametrize("channels", [1, 3])
def test_an_image_does_not_depend_on_the_others(channels):
    images = smooth(4, 16, channels)
    other = images.clone()
    other[1:] = other[1:].flip(0)
    out, again = augment(images, 1, rng()), augment(other, 1, rng())
    torch.testing.assert_close(out[0], again[0], rtol=0, atol=1e-12)
    assert not torch.equal(out[0], images[0])
    assert torch.equal(augment(images, 1, rng()), out)


def test_gradients():
    images = smooth(2, 8)[:, :, :, :].requires_grad_()
    assert torch.autograd.gradcheck(lambda x: augment(x, 1, rng(3)), images)


def test_blits_move_pixels_only():
    images = torch.arange(200 * 256, dtype=torch.float64).view(200, 1, 16, 16)
    out = augment(images, 1, rng(), ("blit",))
    for image, moved in zip(images, out, strict=True):
        assert set(moved.unique().tolist()) <= set(image.unique().tolist())


def test_strengths_are_those_of_the_paper():
    flat = torch.full((4000, 1, 2, 2), 0.5, dtype=torch.float64)
    out = augment(flat, 1, rng(), ("intensity",))[:, 0, 0, 0]
    contrast = np.exp(0.5 * math.log(2) * np.random.default_rng(0).standard_normal(10**6))
    brightness = 0.5 + 0.2 * np.random.default_rng(1).standard_normal(10**6)
    expected = contrast * brightness
    assert abs(float(out.mean()) - expected.mean()) < 0.02
    assert abs(float(out.std()) - expected.std()) < 0.02


def test_p_follows_the_overfitting():
    adaptation = Adaptation(images=1000, every=4)
    for step in range(100):
        adaptation.observe(torch.ones(10), step)
    assert adaptation.p == pytest.approx(1.0)
    for step in range(100):
        adaptation.observe(torch.tensor([1.0, -1.0]).repeat(5), step)
    assert adaptation.p == pytest.approx(0.0)
    adaptation.observe(torch.ones(10), 0)  # waits for the fourth step
    assert adaptation.p == 0


@pytest.fixture(scope="module")
def data():
    return phantom_set(16, 24, 12)


def trainer(data, **changes):
    given = {"steps": 12, "batch": 4, "r1_every": 3, "ema_images": 20.0, **changes}
    return Trainer(data, CONFIG, Settings(**given), torch.device("cpu"))


@pytest.mark.parametrize(
    "changes", [{"augment": "adaptive"}, {"augment": 0.5}, {"path_length": 2.0}]
)
def test_a_resumed_run_is_the_uninterrupted_one(data, tmp_path, changes):
    whole = trainer(data, **changes)
    whole.adaptation.p = 0.5  # augmented from the start
    whole.train(every=5)
    first = trainer(data, **changes)
    first.adaptation.p = 0.5

    def stop(trainer: Trainer) -> None:
        trainer.save(tmp_path / "checkpoint.pt")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        first.train(every=5, report=stop)
    again = trainer(data, **changes)
    again.restore(tmp_path / "checkpoint.pt")
    again.train(every=5)
    assert again.adaptation == whole.adaptation and again.path_mean == whole.path_mean
    for name in ("G", "D", "ema"):
        pairs = zip(
            getattr(again, name).parameters(), getattr(whole, name).parameters(), strict=True
        )
        assert all(torch.equal(a, b) for a, b in pairs)
    if changes.get("augment") == "adaptive":
        assert whole.adaptation.p != 0.5
    if "path_length" in changes:
        assert whole.path_mean > 0


def test_augmentation_changes_what_the_discriminator_sees_only(data):
    plain, augmented = trainer(data, steps=1), trainer(data, steps=1, augment=1.0)
    plain.train()
    augmented.train()
    pairs = list(zip(plain.D.parameters(), augmented.D.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in pairs)
    assert torch.equal(plain.data.images, augmented.data.images)


def test_the_path_length_of_a_linear_map():
    torch.manual_seed(0)
    M = torch.randn(16, 3 * 5, dtype=torch.float64)
    ws = torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True)
    y = torch.randn(2, 1, 4, 4, dtype=torch.float64)
    image = (ws.flatten(1) @ M.t()).view(2, 1, 4, 4)
    expected = (y.flatten(1) @ M / 4).view(2, 3, 5).square().sum(2).mean(1).sqrt()
    torch.testing.assert_close(path_lengths(image, ws, y), expected)


def test_the_gradient_of_the_path_length(data):
    """Against finite differences in the weights of a generator, in float64."""
    G = trainer(data).G.double()
    G.requires_grad_(True)
    torch.manual_seed(0)
    z, y = torch.randn(2, 8).double(), torch.randn(2, 1, 16, 16).double()
    noise = [torch.randn(2, *shape).double() for shape in G.noise_shapes]
    c = torch.eye(3).double()[:2]

    def penalty() -> torch.Tensor:
        ws = G.mapping(z, c)
        return (path_lengths(G.synthesis(ws, noise=noise), ws, y) - 0.1).square().mean()

    weights = [w for w in G.parameters() if w.ndim == 4][:2]
    gradients = torch.autograd.grad(penalty(), weights)
    for weight, gradient in zip(weights, gradients, strict=True):
        direction = torch.randn_like(weight)
        with torch.no_grad():
            weight += 1e-6 * direction
            above = penalty_value(penalty)
            weight -= 2e-6 * direction
            below = penalty_value(penalty)
            weight += 1e-6 * direction
        slope = (above - below) / 2e-6
        assert slope == pytest.approx(float((gradient * direction).sum()), rel=1e-4, abs=1e-10)


def penalty_value(penalty) -> float:
    with torch.enable_grad():
        return float(penalty().detach())


@pytest.mark.parametrize(
    "changes",
    [{"augment": 1.5}, {"augment": "often"}, {"augmentations": ("hue",)}, {"path_length": -1}],
)
def test_bad_settings_are_refused(changes):
    with pytest.raises(InputError):
        Settings(**changes)
