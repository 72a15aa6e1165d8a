"""Augmentation: what it does to images, its draws, the adaptive rule, and runs that resume."""

from __future__ import annotations

import math
from dataclasses import fields

import numpy as np
import pytest
import torch
from scipy import ndimage
from test_training import SETTINGS, equal, trainer

from gprior.training import Settings, phantom_set, phantoms
from gprior.training.augment import NAMES, USUAL, Changes, Probability, draw_changes


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def images(count=3, side=32, channels=1):
    """Return images in [-1, 1] that are smooth, so that interpolations agree."""
    x = phantoms(range(count), side)[0].double().numpy()
    x = ndimage.gaussian_filter(x, (0, 0, 1.5, 1.5), mode="mirror")
    return torch.from_numpy(2 * x - 1).expand(-1, channels, -1, -1)


def rows_of(changes, rows):
    return Changes(**{f.name: getattr(changes, f.name)[rows] for f in fields(changes)})


def still(count, **values):
    """Return changes in which nothing happens apart from the given values."""
    changes = draw_changes(NAMES, 0.0, count, rng())
    return Changes(**{**vars(changes), **values})


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nothing_happens_at_zero(dtype):
    x = torch.rand(5, 2, 16, 16, generator=rng(), dtype=dtype)
    assert torch.equal(draw_changes(NAMES, 0.0, 5, rng())(x), x)


@pytest.mark.parametrize("name", NAMES)
def test_each_augmentation_changes_images_alone_and_with_its_probability(name):
    x = images(1, 16).expand(400, -1, -1, -1)
    changed = draw_changes([name], 0.3, 400, rng())(x)
    assert changed.shape == x.shape and changed.isfinite().all()
    share = (changed != x).flatten(1).any(1).double().mean()
    # Half of the flips and a quarter of the turns are none.
    expected = 0.3 * {"flip": 0.5, "turn": 0.75}.get(name, 1.0)
    assert abs(share - expected) < 0.09  # four standard deviations


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("turns", range(4))
@pytest.mark.parametrize("shift", [(0, 0), (3, 0), (-2, 4)])
def test_blits_are_those_of_scipy(flip, turns, shift):
    x = torch.rand(2, 2, 16, 16, generator=rng(), dtype=torch.float64)
    changes = still(
        2,
        flip=torch.tensor([flip, False]),
        turns=torch.tensor([turns, 0]),
        shift=torch.tensor([shift, (0, 0)]) / 16,
    )
    first, second = changes(x)
    expected = x[0].flip(2) if flip else x[0]
    expected = np.rot90(expected.numpy(), turns, (1, 2))
    expected = ndimage.shift(expected, (0, *shift), order=0, mode="mirror")
    np.testing.assert_array_equal(first.numpy(), expected)
    assert torch.equal(second, x[1])


@pytest.mark.parametrize("side", [16, 32])
def test_geometry_is_that_of_scipy(side):
    """Every row at p = 1, against cubic splines; and one known movement for the directions."""
    x = images(8, side, 2)
    changes = draw_changes(["scale", "rotate", "stretch", "move"], 1.0, 8, rng(3))
    changed, middle = changes(x).numpy(), (side - 1) / 2
    for i in range(8):
        M, t = changes.source[i, :, :2].numpy(), changes.source[i, :, 2].numpy()
        offset = middle - M @ [middle, middle] + side * t
        expected = ndimage.affine_transform(x[i, 0].numpy(), M, offset, order=3, mode="mirror")
        assert np.abs(changed[i, 0] - expected).max() < 0.03
        assert np.abs(changed[i, 0] - expected).mean() < 0.005
        assert np.abs(changed[i, 0] - x[i, 0].numpy()).mean() > 0.02
        np.testing.assert_array_equal(changed[i, 0], changed[i, 1])
    eye = torch.eye(2, dtype=torch.float64)
    down = torch.cat([eye, torch.tensor([[-2.0 / side], [0.0]])], 1)[None].expand(8, -1, -1)
    expected = ndimage.shift(x.numpy(), (0, 0, 2, 0), order=0, mode="mirror")
    np.testing.assert_allclose(still(8, source=down)(x), expected, atol=0.02)


def test_geometry_does_not_alias():
    """A checkerboard that is made smaller becomes gray; without a filter it would have stripes."""
    board = (2.0 * (torch.arange(32)[:, None] + torch.arange(32)) % 4 - 1)[None, None].double()
    smaller = 1.6 * torch.eye(2, 3, dtype=torch.float64)[None]
    assert still(1, source=smaller)(board)[..., 6:-6, 6:-6].abs().max() < 0.1


def test_intensity():
    x = images(3)
    changes = draw_changes(["brightness", "contrast"], 1.0, 3, rng())
    slope, offset = (v[:, None, None, None] for v in (changes.contrast, changes.brightness))
    torch.testing.assert_close(changes(x), slope * x + offset)
    assert (changes.contrast > 0).all()  # intensities are never inverted


def test_an_image_does_not_depend_on_its_batch():
    x = torch.rand(12, 1, 16, 16, generator=rng(), dtype=torch.float64)
    changes = draw_changes(NAMES, 0.5, 12, rng())
    together, some = changes(x), [7, 2, 11]
    torch.testing.assert_close(rows_of(changes, some)(x[some]), together[some], rtol=0, atol=1e-12)
    fewer = draw_changes(NAMES, 0.5, 4, rng())  # nor do its draws
    torch.testing.assert_close(fewer(x[:4]), together[:4], rtol=0, atol=1e-12)


def test_what_is_drawn_does_not_depend_on_the_other_augmentations():
    alone, all_ = (draw_changes(names, 0.6, 50, rng()) for names in (["contrast"], NAMES))
    assert torch.equal(alone.contrast, all_.contrast)


def test_gradients_are_those_of_finite_differences():
    x = torch.rand(3, 1, 8, 8, generator=rng(), dtype=torch.float64, requires_grad=True)
    changes = draw_changes(NAMES, 1.0, 3, rng(2))
    assert torch.autograd.gradcheck(changes, (x,))


def test_draws_are_those_of_their_generator():
    torch.manual_seed(1)
    state = torch.get_rng_state()
    one, two, other = (draw_changes(USUAL, 0.5, 9, rng(seed)) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(one.source, two.source) and not torch.equal(one.source, other.source)
    assert not one.flip.any() and not one.turns.any()  # not in the usual ones


# --- The rule


def test_p_rises_while_the_discriminator_is_sure_of_real_images():
    rule = Probability(0.0, images=1000)
    for _ in range(40):
        rule.see(torch.tensor([3.0, 0.2, 1.0, 2.0, 0.1, 0.3, 0.4, 0.5, 1.0, -1.0]))  # r_t = 0.8
    assert rule.r == pytest.approx(0.8)
    assert rule.p == pytest.approx(0.4)  # 400 of 1000 images
    for _ in range(20):
        rule.see(torch.tensor([1.0, -1.0] * 5))
    assert rule.r == 0 and rule.p == pytest.approx(0.2)


def test_p_stays_in_its_range_and_changes_at_every_fourth_step():
    rule, seen = Probability(0.0, images=40), []
    for _ in range(16):
        rule.see(torch.ones(4))
        seen.append(round(rule.p, 6))
    assert seen == [0.0] * 3 + [0.4] * 4 + [0.8] * 9  # samples would change above 0.8
    for _ in range(16):
        rule.see(-torch.ones(4))
    assert rule.p == 0
    fixed = Probability(0.9)
    for _ in range(8):
        fixed.see(torch.ones(4))
    assert fixed.p == 0.9 and fixed.r == 1


# --- Training


@pytest.fixture(scope="module")
def data():
    return phantom_set(16, 24, 12)


QUICK = {"augment": "adaptive", "augment_images": 20.0, "steps": 7}


def test_a_fixed_probability_changes_the_run_and_zero_does_not(data):
    plain, none, some = (trainer(data, **v) for v in ({}, {"augment": 0.0}, {"augment": 0.5}))
    for run in (plain, none, some):
        values = run._step()
    assert equal(plain, none) and not equal(plain, some)
    assert values["p"] == 0.5


def test_real_and_generated_images_are_changed_alike(data, monkeypatch):
    """In D's step by draws of the same distribution, in G's step by the same draws."""
    from gprior.training import trainer as module

    seen, call = [], Changes.__call__
    monkeypatch.setattr(
        Changes, "__call__", lambda self, raw: seen.append((self, raw)) or call(self, raw)
    )
    probabilities = []
    monkeypatch.setattr(
        module,
        "draw_changes",
        lambda names, p, *rest: probabilities.append(p) or draw_changes(names, p, *rest),
    )
    trainer(data, augment=0.5)._step()
    (real, _), (fake, _), (one, generated), (two, _) = seen
    assert probabilities == [0.5] * 3
    assert one is two and generated.requires_grad
    assert not torch.equal(real.source, fake.source)


@pytest.mark.parametrize("stop", [3, 5])
def test_an_adaptive_run_resumes_as_if_it_had_never_stopped(data, stop, tmp_path, monkeypatch):
    """Between two adjustments of p, and after one."""
    see = Probability.see  # so that p rises
    monkeypatch.setattr(Probability, "see", lambda self, logits: see(self, logits.abs()))
    whole, first, second = (trainer(data, **QUICK) for _ in range(3))
    whole.train()
    assert whole.probability.p == 0.8 and whole.curve[-1]["p"] == 0.8
    while first.step < stop:
        first._step()
        first.step += 1
    first.save(tmp_path / "state.pt")
    second.restore(tmp_path / "state.pt")
    assert second.probability.state_dict() == first.probability.state_dict()
    second.train()
    assert equal(second, whole)
    assert second.probability.state_dict() == whole.probability.state_dict()
    assert second.curve[-1]["frechet"] == whole.curve[-1]["frechet"]


def test_checkpoints_from_before_augmentation_are_resumed(data, tmp_path):
    whole, second = trainer(data), trainer(data)
    while whole.step < 3:
        whole._step()
        whole.step += 1
    whole.save(tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    del state["probability"], state["path_length"]
    torch.save(state, tmp_path / "state.pt")
    second.restore(tmp_path / "state.pt")
    whole.train()
    second.train()
    assert second.step == 6 and equal(second, whole)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"augment": "often"}, "augment must be 'adaptive' or a number from 0 to 1, got 'often'"),
        ({"augment": 1.5}, "augment must be .* got 1.5"),
        ({"augment": math.nan}, "augment must be .* got nan"),
        ({"augment_images": 0.0}, "augment_images"),
        ({"augmentations": ("flip", "hue")}, "augmentations must be some of flip, .* got hue"),
        ({"augmentations": ()}, "augmentations must be some of flip, .* got none"),
        ({"path_length": -1.0}, "path_length"),
    ],
)
def test_settings_are_checked(wrong, message):
    with pytest.raises(ValueError, match=message):
        Settings(**{**vars(SETTINGS), **wrong})
