"""Training: reproducible and resumable runs, the losses, the Fréchet distance, the images."""

from __future__ import annotations

import copy
import math
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image
from pydicom.data import get_testdata_file

from gprior import InputError
from gprior.checkpoints import load_prior, save_prior
from gprior.training import (
    CONTRASTS,
    Settings,
    Trainer,
    folder_set,
    frechet_distance,
    lacking_spread,
    phantom_set,
    phantoms,
    random_features,
)
from gprior.training.run import fast_precision

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
SETTINGS = Settings(steps=6, batch=4, r1_every=3, ema_images=20.0)


@pytest.fixture(scope="module")
def data():
    return phantom_set(16, 24, 12)


def trainer(data, **changes):
    settings = Settings(**{**vars(SETTINGS), **changes})
    return Trainer(data, CONFIG, settings, torch.device("cpu"))


@pytest.fixture(scope="module")
def trained(data):
    """Return a trainer after its last step, and the losses of each step."""
    run, values = trainer(data), []
    run.train(values.append)
    return run, values


def equal(a, b):
    for part in ("G", "D", "ema"):
        one, two = getattr(a, part).state_dict(), getattr(b, part).state_dict()
        assert one.keys() == two.keys()
        if not all(torch.equal(v, two[k]) for k, v in one.items()):
            return False
    return True


@pytest.mark.parametrize("capability", ["AVX512", "AVX2", "DEFAULT"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_cpu_computes_in_bfloat16_only_where_that_is_faster(capability, dtype, monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    with fast_precision(torch.zeros(1, dtype=dtype)):
        fast = torch.is_autocast_enabled("cpu")
    assert fast == (capability == "AVX512" and dtype == torch.float32)


def test_a_run_is_a_function_of_its_seed(data, trained):
    torch.manual_seed(5)
    state = torch.get_rng_state()
    again, other = trainer(data), trainer(data, seed=1)
    again.train()
    assert torch.equal(torch.get_rng_state(), state)
    assert equal(again, trained[0])
    other.train()
    assert not equal(other, trained[0])


def test_every_step_draws_other_images(data, monkeypatch):
    seen = []
    batch = type(data).batch
    monkeypatch.setattr(
        type(data), "batch", lambda self, rows: seen.append(rows) or batch(self, rows)
    )
    trainer(data).train()
    assert len({tuple(rows.tolist()) for rows in seen}) == 12  # two batches in each of six steps


def test_a_resumed_run_is_the_uninterrupted_one(data, trained, tmp_path):
    first = trainer(data)
    while first.step < 4:  # after one step with R1 and before the next
        first._step()
        first.step += 1
    first.seconds = 7.0
    first.save(tmp_path / "state.pt")
    torch.manual_seed(9)
    second = trainer(data)
    second.restore(tmp_path / "state.pt")
    assert second.step == 4 and second.seconds == 7.0
    second.train()
    assert equal(second, trained[0])
    for part in ("opt_g", "opt_d"):
        one, two = (getattr(t, part).state_dict() for t in (second, trained[0]))
        assert one["param_groups"] == two["param_groups"]
        assert all(
            torch.equal(v, two["state"][k][name])
            for k, moments in one["state"].items()
            for name, v in moments.items()
        )
    assert second.curve[-1]["frechet"] == trained[0].curve[-1]["frechet"]


def test_other_checkpoints_are_refused(data, trained, tmp_path):
    path = tmp_path / "state.pt"
    trained[0].save(path)
    other = Trainer(data, {**CONFIG, "w_dim": 16}, SETTINGS, torch.device("cpu"))
    with pytest.raises(ValueError, match=r"state\.pt is a checkpoint of another architecture"):
        other.restore(path)
    fresh = trainer(data)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    for refused in (b"", b"text", whole[:-100]):
        with pytest.raises(ValueError, match=r"state\.pt is no readable training checkpoint"):
            fresh.restore(path)
        path.write_bytes(refused)
    for foreign in ({"w": torch.zeros(2)}, torch.zeros(2), [1]):
        torch.save(foreign, path)
        with pytest.raises(ValueError, match=r"state\.pt"):
            fresh.restore(path)
    fresh.train()
    assert equal(fresh, trained[0])  # a refused checkpoint changed nothing


def test_checkpoints_from_before_an_argument_are_resumed(data, trained, tmp_path):
    """A checkpoint without `widths` is resumed if the trainer has the default of `widths`."""
    path, fresh = tmp_path / "state.pt", trainer(data)
    trained[0].save(path)
    state = torch.load(path, weights_only=True)
    del state["config"]["widths"]
    torch.save(state, path)
    fresh.restore(path)
    assert fresh.step == 6 and equal(fresh, trained[0])
    other = Trainer(data, {**CONFIG, "widths": [8, 8, 4]}, SETTINGS, torch.device("cpu"))
    with pytest.raises(ValueError, match="another architecture"):
        other.restore(path)
    del state["config"]["img_resolution"]
    torch.save(state, path)
    with pytest.raises(ValueError, match="another architecture"):
        fresh.restore(path)


def test_r1_runs_on_its_schedule(trained):
    values = trained[1]
    assert len(values) == 6
    assert ["r1" in v for v in values] == [True, False, False, True, False, False]
    assert all(math.isfinite(x) for v in values for x in v.values())
    assert all(v["r1"] > 0 for v in values if "r1" in v)


def test_r1_is_the_squared_gradient(data):
    """The penalty is the mean of |grad D|^2, and its weight is gamma / 2 times the interval."""
    run = trainer(data, r1_gamma=0.4)
    real, label = data.batch(torch.arange(4))
    c = run._one_hot(label)
    D = copy.deepcopy(run.D)
    x = real.clone().requires_grad_()
    (grad,) = torch.autograd.grad(D(x, c).sum(), x, create_graph=True)
    penalty = sum(g.square().sum() for g in grad) / 4
    assert abs(run._r1(real, c) / float(penalty.detach()) - 1) < 1e-5
    weighted = 0.4 / 2 * SETTINGS.r1_every * penalty
    expected = torch.autograd.grad(weighted, list(D.parameters()), allow_unused=True)
    for p, g in zip(run.D.parameters(), expected, strict=True):
        if g is not None:
            torch.testing.assert_close(p.grad, g, rtol=1e-3, atol=1e-7)


def test_the_average_follows_its_half_life(data):
    run = trainer(data, ema_images=1e9)
    average, current = next(run.ema.parameters()), next(run.G.parameters())
    with torch.no_grad():
        average.fill_(0.0)
        current.fill_(1.0)
    run.step = 999
    run._average()
    # Early in a run the half-life is a twentieth of the images seen so far.
    assert abs(float(average.flatten()[0]) - (1 - 0.5 ** (4 / (0.05 * 4000)))) < 1e-6
    run = trainer(data, ema_images=8.0)
    average, current = next(run.ema.parameters()), next(run.G.parameters())
    with torch.no_grad():
        average.fill_(0.0)
        current.fill_(1.0)
    run.step = 999
    run._average()
    run._average()
    assert abs(float(average.flatten()[0]) - 0.5) < 1e-6


def test_the_average_is_not_the_generator(trained):
    one, two = trained[0].G.state_dict(), trained[0].ema.state_dict()
    changed = [k for k, v in one.items() if not torch.equal(v, two[k])]
    assert changed and not any("noise_const" in k for k in changed)
    assert not any(p.requires_grad for p in trained[0].ema.parameters())


def test_the_rate_falls_over_the_last_fifth():
    s = Settings(steps=100, lr=0.01)
    assert s.rate(0) == s.rate(79) == 0.01
    assert abs(s.rate(90) - 0.005) < 1e-12 and abs(s.rate(99) - 0.0005) < 1e-12


def test_the_finished_prior(trained, tmp_path):
    """It is the averaged generator, has all statistics and the discriminator, and can be saved."""
    run = trained[0]
    prior = run.finish()
    z = torch.randn(5, 8)
    c = prior.classes([0, 1, 2, 0, 1], 5)
    torch.testing.assert_close(prior(z, c), run.ema(z, c), rtol=1e-4, atol=1e-4)
    assert prior.w_avg.shape == (3, 8) and prior.w_avg.abs().sum() > 0
    many = torch.randn(20000, 8)
    for k in range(3):
        mean = run.ema.mapping(many, prior.classes(k, 20000))[:, 0].mean(0)
        assert (prior.w_avg[k] - mean).abs().max() < 0.05
    assert prior.statistics["perceptual_unit"] > 0
    assert prior.record["classes"] == list(CONTRASTS)
    assert not any(p.requires_grad for p in prior.parameters())
    save_prior(prior, tmp_path / "p.safetensors")
    torch.testing.assert_close(load_prior(tmp_path / "p.safetensors").sample(2), prior.sample(2))
    assert run.ema.discriminator is None  # the trainer can continue


@pytest.mark.slow
def test_training_lowers_the_distance():
    """After 200 steps the distance is less than a fifth of what it was."""
    run = trainer(phantom_set(16, 200, 60), steps=200, batch=8, ema_images=100.0)
    before = run.frechet()
    run.train()
    assert run.frechet_real() < run.curve[-1]["frechet"] < 0.2 * before


# --- the distance


def test_the_distance_of_a_set_to_itself_is_zero():
    x = torch.randn(500, 6, generator=torch.Generator().manual_seed(0))
    assert abs(frechet_distance(x, x)) < 1e-6
    values = [frechet_distance(x + s, x) for s in (0.0, 0.5, 1.0, 2.0)]
    assert values == sorted(values) and values[1] > 0.1


@pytest.mark.parametrize("d", [1, 5])
def test_the_closed_form_of_gaussians(d):
    """The distance of samples with exact moments is that of their Gaussians."""
    rng = np.random.default_rng(0)

    def exact(mean, cov, n=200):
        x = rng.standard_normal((n, d))
        x -= x.mean(0)
        x = x @ np.linalg.inv(np.linalg.cholesky(np.atleast_2d(np.cov(x, rowvar=False)))).T
        return torch.from_numpy(x @ np.linalg.cholesky(cov).T + mean)

    for _ in range(3):
        a, b = rng.standard_normal((2, d, d))
        cov_a, cov_b = a @ a.T + np.eye(d), b @ b.T + np.eye(d)
        m_a, m_b = rng.standard_normal((2, d))
        u, v = exact(m_a, cov_a), exact(m_b, cov_b)
        scale = v.numpy().std(0)
        cov_a, cov_b = cov_a / np.outer(scale, scale), cov_b / np.outer(scale, scale)
        roots = np.sqrt(np.linalg.eigvals(cov_a @ cov_b).real).sum()
        shift = (((m_a - m_b) / scale) ** 2).sum()
        expected = shift + np.trace(cov_a) + np.trace(cov_b) - 2 * roots
        assert abs(frechet_distance(u, v) - expected) < 1e-8 * max(1, expected)


def test_the_features_are_fixed_and_show_damage():
    """Blurred, noisy, brighter and repeated images are far, and other phantoms are near."""
    x = phantoms(range(300), 16)[0]
    y = random_features(phantoms(range(300), 16, seed=1)[0])
    features = random_features(x)
    assert torch.equal(features, random_features(x))
    torch.testing.assert_close(random_features(x.expand(-1, 3, -1, -1)), features)
    assert features.shape[0] == 300 and features.isfinite().all()
    real = frechet_distance(features, y)
    blurred = torch.nn.functional.avg_pool2d(x, 5, 1, 2)
    noisy = x + 0.1 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    for worse in (blurred, noisy, 1.1 * x, x[:10].repeat(30, 1, 1, 1)):
        assert frechet_distance(random_features(worse), y) > 3 * real


# --- the images


def test_phantoms_are_functions_of_their_index():
    torch.manual_seed(3)
    state = torch.get_rng_state()
    many, labels = phantoms(range(70), 16)
    assert torch.equal(torch.get_rng_state(), state)
    assert many.shape == (70, 1, 16, 16) and many.dtype == torch.float32
    assert labels.dtype == torch.int64 and labels.tolist() == [i % 3 for i in range(70)]
    some, label = phantoms([66, 2], 16)
    torch.testing.assert_close(some, many[[66, 2]])
    assert label.tolist() == [0, 2]
    assert not torch.allclose(phantoms(range(70), 16, seed=1)[0], many)
    pairs = (many[:, None] - many[None]).abs().mean((2, 3, 4)) + torch.eye(70)
    assert pairs.min() > 0.005  # no two are alike
    empty, none = phantoms([], 16)
    assert empty.shape == (0, 1, 16, 16) and none.shape == (0,)


@pytest.mark.parametrize("resolution", [16, 33, 64])
def test_phantoms_are_heads_in_the_unit_range(resolution):
    x, labels = phantoms(range(6), resolution)
    assert x.shape == (6, 1, resolution, resolution)
    assert x.min() >= 0 and x.max() <= 1 and x.std() > 0.1
    corner = x[..., : resolution // 8, : resolution // 8]
    assert corner.max() < 0.1  # air
    assert x[..., resolution // 2 - 2 : resolution // 2 + 2, :].mean() > 0.15
    assert labels.tolist() == [0, 1, 2, 0, 1, 2]


def test_a_phantom_is_the_same_head_at_another_size():
    small, large = phantoms(range(6), 32)[0], phantoms(range(6), 64)[0]
    shrunk = torch.nn.functional.avg_pool2d(large, 2)
    error = (shrunk - small).square().mean((1, 2, 3)).sqrt()
    other = (shrunk.roll(3, 0) - small).square().mean((1, 2, 3)).sqrt()
    assert error.max() < 0.5 * other.min()


def test_a_phantom_is_the_same_head_in_another_contrast():
    own, _ = phantoms(range(3), 32)
    for contrast in range(3):
        x, labels = phantoms(range(3), 32, contrast=contrast)
        assert labels.tolist() == [contrast] * 3
        assert torch.equal(x[contrast], own[contrast])
        assert torch.equal(x > 0, own > 0)  # the outline
        others = [i for i in range(3) if i != contrast]
        assert bool(((x - own)[others].abs().amax((1, 2, 3)) > 0.2).all())
    with pytest.raises(ValueError, match="contrast must be an integer from 0 to 2"):
        phantoms([0], 32, contrast=3)


def test_only_the_ventricles_of_a_series_grow():
    heads = range(0, 60, 3)  # T1-like: fluid is dark
    small, usual, large = (phantoms(heads, ventricles=v)[0] for v in (0.7, 1, 1.3))
    assert torch.equal(usual, phantoms(heads)[0])
    for part in (slice(None, 10), slice(-10, None)):  # the edges of the ventricles are sigmoids
        assert (usual[..., part, :] - large[..., part, :]).abs().max() < 1e-3
        assert (usual[..., part] - large[..., part]).abs().max() < 1e-3
    for before, after in ((small, usual), (usual, large)):
        fall = (before - after).sum((1, 2, 3))
        assert fall.min() > -1 and fall.max() > 20 and (fall > 1).sum() > 12
    with pytest.raises(InputError, match="ventricles"):
        phantoms([0], ventricles=0)


def test_a_phantom_set(data):
    assert data.images.dtype == torch.uint8 and data.images.shape == (24, 1, 16, 16)
    assert data.classes == CONTRASTS and data.held_out.shape == (12, 1, 16, 16)
    assert not (data.images[:12] == data.held_out).flatten(1).all(1).any()
    x, label = data.batch(torch.tensor([3, 0]))
    assert x.min() >= -1 and x.max() <= 1 and label.tolist() == [0, 0]
    torch.testing.assert_close((x + 1) / 2, phantoms([3, 0], 16)[0], rtol=0, atol=0.003)
    ticks = []
    phantom_set(16, 5, 1, ticks.append)
    assert sum(ticks) == 5


def pictures(folder, n, size=(20, 24), mode="L"):
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for i in range(n):
        shape = size if mode == "L" else (*size, 3)
        Image.fromarray(rng.integers(0, 256, shape, np.uint8), mode).save(folder / f"{i:03}.png")


def test_a_folder_of_images(tmp_path):
    pictures(tmp_path / "a", 30)
    image_set = folder_set(tmp_path / "a", 16, 1)
    assert image_set.images.shape == (27, 1, 16, 16) and image_set.held_out.shape == (3, 1, 16, 16)
    assert image_set.classes == () and image_set.labels.tolist() == [0] * 27
    assert folder_set(tmp_path / "a", 16, 3).images.shape == (27, 3, 16, 16)


def test_a_folder_of_images_in_medical_formats(tmp_path):
    """All formats are read, by each of their extensions, in upper or lower case."""
    pictures(tmp_path, 18)
    shutil.copy(get_testdata_file("CT_small.dcm", download=False), tmp_path / "ct.dcm")
    shutil.copy(get_testdata_file("MR_small.dcm", download=False), tmp_path / "mr.IMA")
    scan = Path(nibabel.__file__).parent / "tests" / "data" / "example4d.nii.gz"
    shutil.copy(scan, tmp_path / "scan.nii.gz")
    (tmp_path / "notes.txt").write_text("no image")
    seen = []
    image_set = folder_set(tmp_path, 16, 1, seen.append)
    assert len(seen) == 21 == len(image_set.images) + len(image_set.held_out)
    assert all(image.float().std() > 1 for image in image_set.images)


def test_subfolders_are_classes(tmp_path):
    pictures(tmp_path / "ct", 12)
    for patient in range(6):
        pictures(tmp_path / "mr" / f"deep{patient}", 3, mode="RGB")
    image_set = folder_set(tmp_path, 16, 1)
    assert image_set.classes == ("ct", "mr")
    # One of the first ten images; then a patient with three.
    assert image_set.labels.bincount().tolist() == [11, 15] and len(image_set.held_out) == 4
    pictures(tmp_path, 1)
    with pytest.raises(ValueError, match="images beside class folders"):
        folder_set(tmp_path, 16, 1)


def test_wrong_folders_are_refused(tmp_path):
    with pytest.raises(ValueError, match="must be a folder of images"):
        folder_set(tmp_path / "none", 16, 1)
    pictures(tmp_path / "few", 5)
    with pytest.raises(ValueError, match="has 5 images; training needs at least 20"):
        folder_set(tmp_path / "few", 16, 1)


def test_lacking_spread():
    """It is 0 where samples vary as images do and 1 where they do not vary."""
    real = torch.randn(64, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    assert lacking_spread([real + 3], [real]) < 1e-6
    assert abs(float(lacking_spread([0 * real], [real])) - 1) < 0.01
    half = real.clone()
    half[:, :, :2] = 0
    half[:, :, 2:] *= 9
    assert abs(float(lacking_spread([half], [real])) - 0.5) < 0.05
    assert abs(float(lacking_spread([half, real], [real, real])) - 0.25) < 0.03
    still = (0.1 * real).requires_grad_()
    (slope,) = torch.autograd.grad(lacking_spread([still], [real]), still)
    assert (slope * (still - still.mean(0))).sum() < 0  # a descent moves the samples apart
