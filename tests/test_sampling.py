"""Posterior samples: exact where the posterior is known, independent rows, kept and calibrated."""

from __future__ import annotations

import json
import math
import warnings
from contextlib import suppress
from dataclasses import replace
from functools import partial

import deepinv
import nibabel
import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import chisquare
from torch.utils.data import DataLoader
from typer.testing import CliRunner

import gprior
from gprior.checkpoints import save_prior
from gprior.cli import main
from gprior.commands.samples import KINDS
from gprior.operators import Downsampling, Masking
from gprior.priors import Generator
from gprior.problem import build_problem
from gprior.sampling import Calibration, Posterior, factor_for, posterior
from gprior.sampling.evidence import log_evidence
from gprior.sampling.latents import latents_for
from gprior.sampling.noise import with_noise_model
from gprior.sampling.rto import Settings, perturbed, redo
from gprior.search.gauss_newton import descend, minimise_model
from gprior.search.target import Target

SIZE, SIGMA = 5, 0.2


def linear_prior(c_dim=0):
    """Return a prior x = M z + b of 4 latents and 16 pixels, and M."""
    torch.manual_seed(0)
    M = torch.randn(16, 4, dtype=torch.float64) / 2

    def network(z, c=None):
        shift = 0 if c is None else 2 * c[:, :1]
        return (z @ M.T + shift).view(-1, 1, 4, 4)

    network.__name__ = "linear"
    return Generator(network, 4, range="[0, 1]", c_dim=c_dim, dtype=torch.float64), M


def exact(A, M, y):
    """Return mean (B, 4) and covariance of the posterior of z for y = A M z + noise."""
    J = A @ M
    covariance = torch.linalg.inv(J.T @ J / SIGMA**2 + torch.eye(4, dtype=torch.float64))
    return y @ J / SIGMA**2 @ covariance, covariance


@pytest.fixture(scope="module")
def toy():
    """One measurement of a linear prior, and 4,000 samples of each method."""
    prior, M = linear_prior()
    A = torch.randn(SIZE, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    z = prior.draw([(0, "truth")])
    noise = torch.randn(1, SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    return prior, M, A, z @ M.T @ A.T + SIGMA * noise


@pytest.mark.parametrize("method", ["rto", "hmc"])
def test_samples_of_a_linear_prior_have_the_exact_mean_and_covariance(toy, method):
    prior, M, A, y = toy
    options = {"steps": 1, "rounds": 1, "newton": 2, "candidates": 1, "max_batch": 4000}
    if method == "hmc":
        options |= {"warmup": 5, "draws": 20, "leapfrog": 3}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        drawn = posterior(y, A, prior, 4000, method=method, noise_std=SIGMA, check=False, **options)
    z = drawn.latents["z"][0]
    mean, covariance = exact(A, M, y)
    spread = covariance.diagonal().sqrt()
    assert ((z.mean(0) - mean[0]) / spread * math.sqrt(4000)).abs().max() < 4
    error = torch.cov(z.T) - covariance
    scale = (spread[:, None] * spread).mul(math.sqrt(2 / 4000))
    assert (error / scale).abs().max() < 5
    assert bool(drawn.converged.all())


def test_ranks_of_a_linear_prior_are_uniform():
    """Simulation-based calibration (Talts et al. 2018), with 200 images of 9 samples."""
    prior, M = linear_prior()
    A = torch.randn(SIZE, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    z = prior.draw([(k, "truth") for k in range(200)])
    y = z @ M.T @ A.T
    y = y + SIGMA * torch.randn(y.shape, dtype=y.dtype, generator=torch.Generator().manual_seed(3))
    drawn = posterior(
        y, A, prior, 9, noise_std=SIGMA, check=False, seed=list(range(200)),
        steps=1, rounds=1, newton=2, candidates=1, max_batch=1800,
    )  # fmt: skip
    functional = torch.tensor([1.0, -0.5, 0.3, 0.8], dtype=z.dtype)
    ranks = ((drawn.latents["z"] @ functional) < (z @ functional)[:, None]).sum(1)
    assert chisquare(np.bincount(ranks.numpy() // 2, minlength=5)).pvalue > 0.01


def measured(prior, n=2, sigma=0.02, A=None):
    A = A or Downsampling(prior.image_shape, 2)
    label = [k % prior.c_dim for k in range(n)] if prior.c_dim else None
    clean = A.A(prior.sample(n, seed=3, label=label))
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0)).to(clean)
    return clean + sigma * noise, A, label


FEW = {"steps": 4, "rounds": 1, "newton": 2, "candidates": 2, "check": False}


@pytest.mark.filterwarnings("ignore:.*have not")
@pytest.mark.parametrize("method", ["rto", "hmc"])
@pytest.mark.parametrize("space", ["z", "w+"])
def test_an_image_does_not_depend_on_its_batch(tiny_prior, method, space):
    prior = tiny_prior(c_dim=2).double()
    y, A, _ = measured(prior, 3)
    options = {"noise_std": 0.02, "method": method, "space": space, **FEW}
    if method == "hmc":
        options |= {"warmup": 2, "draws": 2, "leapfrog": 2}
    whole = posterior(y, A, prior, 3, label=[0, 1, 0], seed=[5, 6, 7], max_batch=9, **options)
    alone = posterior(y[1:2], A, prior, 3, label=1, seed=6, max_batch=1, **options)
    assert (whole.samples[1] - alone.samples[0]).abs().max() < 1e-6
    assert (whole.evaluations[1] - alone.evaluations[0]).abs() < 1e-6
    again = posterior(y, A, prior, 3, label=[0, 1, 0], seed=[5, 6, 7], max_batch=9, **options)
    assert torch.equal(whole.samples, again.samples)


def target_of(prior, n=1, rows=2, **options):
    y, A, label = measured(prior, n)
    problem = build_problem(y, A, prior, noise_std=0.02, stop="fixed", restarts=rows, **options)
    start = {"z": prior.draw(problem.draw_keys("start"))}
    if label is not None:
        start["c"] = prior.classes(label, n)[problem.image]
    return problem, start


def test_gauss_newton_ends_in_a_minimum(tiny_prior):
    prior = tiny_prior()
    problem, start = target_of(prior)
    latents, z = latents_for(prior, "z"), start["z"]
    target = Target(problem, latents, start, torch.zeros_like(z), torch.ones_like(z))
    found = descend(target, z, problem.image, rounds=20, steps=10)
    first = target.data(target.code(z)) + target.prior(z)
    assert bool(found.converged.all()) and bool((found.objective < 0.6 * first).all())
    noise = torch.randn(20, *z.shape, dtype=z.dtype, generator=torch.Generator().manual_seed(0))
    for step in noise * 0.003:
        other = target.data(target.code(found.u + step)) + target.prior(found.u + step)
        assert bool((other > found.objective - 0.5).all())


def test_a_stuck_sample_goes_on_from_another_one(tiny_prior):
    """The first row ends in a local minimum far above the second one, and is done again."""
    prior = tiny_prior()
    problem, start = target_of(prior)
    latents, z = latents_for(prior, "z"), start["z"]
    target = Target(problem, latents, start, torch.zeros_like(z), torch.ones_like(z))
    found = descend(target, z, problem.image, rounds=10, steps=10)
    assert float(found.objective[0]) > 100 * float(found.objective[1])
    again, redone = redo(target, found, Settings())
    assert redone.tolist() == [True, False]
    assert abs(float(again.objective[0] - found.objective[1])) < 1
    assert float(again.evaluations[0]) > float(found.evaluations[0])
    assert torch.equal(again.u[1], found.u[1])


def test_a_step_of_a_linear_synthesis_is_exact():
    """The model is the objective itself, so one step reaches the minimum."""
    prior, M = linear_prior()
    A = torch.randn(SIZE, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    y = torch.randn(1, SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    problem = build_problem(y, A, prior, noise_std=SIGMA, stop="fixed")
    u = prior.draw([(3, "u")])
    target = Target(problem, latents_for(prior, "z"), {"z": u}, 0 * u, 1 + 0 * u)
    _, gradient = target.slope(u)
    H = target.curvature(u) / SIGMA**2
    new, promised = minimise_model(target, u, u, gradient, H, torch.zeros(1, dtype=u.dtype))
    assert torch.allclose(new, exact(A, M, y)[0], atol=1e-4)
    before, after = (target.data(v) + target.prior(v) for v in (u, new))
    assert torch.allclose(before - after, promised, rtol=1e-3)


@pytest.mark.parametrize("space", ["z", "w+"])
@pytest.mark.parametrize("c_dim", [0, 2])
def test_the_gradient_and_curvature_are_those_of_finite_differences(tiny_prior, space, c_dim):
    prior = tiny_prior(c_dim=c_dim)
    problem, start = target_of(prior, rows=1)
    latents = latents_for(prior, space)
    u = latents.begin(start)
    target = Target(problem, latents, start, torch.zeros_like(u), torch.ones_like(u))
    code = target.code(u)
    value, gradient = target.slope(code)
    direction = torch.randn(code.shape, dtype=u.dtype, generator=torch.Generator().manual_seed(0))
    h = 1e-6
    slope = (target.data(code + h * direction) - target.data(code - h * direction)) / (2 * h)
    assert torch.allclose(slope, (gradient * direction).sum(1), rtol=1e-5)
    moved = target.problem.measure(target.image(code + h * direction))[0]
    change = (moved - target.problem.measure(target.image(code))[0]).flatten() / h
    bent = (direction @ target.curvature(code)[0] @ direction.T)[0, 0]
    assert torch.allclose(bent, change.square().sum(), rtol=0.1)
    assert torch.equal(value, target.data(code))


def test_starting_styles_are_those_of_z_in_both_spaces(tiny_prior):
    prior = tiny_prior(c_dim=2)
    _, start = target_of(prior, n=2)
    expected = prior(z=start["z"], c=start["c"])
    for space in ("z", "w+"):
        latents = latents_for(prior, space)
        u = latents.begin(start)
        image = prior(**latents.inputs(latents.code(u, start), start))
        assert torch.allclose(image, expected, atol=1e-6)


# --- Noise and classes -----------------------------------------------------------------------


def test_an_unknown_noise_level_is_sampled_and_right():
    prior, M = linear_prior()
    A = torch.randn(400, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    clean = prior.draw([(k, "truth") for k in range(2)]) @ M.T @ A.T
    g = torch.Generator().manual_seed(4)
    y = clean + torch.tensor([[0.1], [0.5]]) * torch.randn(clean.shape, dtype=M.dtype, generator=g)
    drawn = posterior(y, A, prior, 64, check=False, candidates=4, steps=5)
    assert "unknown" in drawn.noise
    levels = drawn.noise_std
    assert torch.allclose(levels.mean(1), torch.tensor([0.1, 0.5], dtype=M.dtype), rtol=0.12)
    # sigma^2 has an inverse gamma distribution of m / 2 = 200: sigma varies by 1 / sqrt(2 m).
    assert torch.allclose(levels.std(1) / levels.mean(1), torch.tensor(0.035).to(M), rtol=0.35)


@pytest.mark.parametrize("sigma", [0.0, 0.05])
def test_poisson_noise_is_approximated_entry_by_entry(tiny_prior, sigma):
    prior = tiny_prior()
    kinds = deepinv.physics.PoissonNoise, deepinv.physics.PoissonGaussianNoise
    noise = kinds[1](0.01, sigma) if sigma else kinds[0](0.01)
    A = deepinv.physics.Denoising(noise)
    y = (prior.sample(2) + 0.05).clamp(0.01, 1)
    problem, how = with_noise_model(build_problem(y, A, prior, stop="fixed"))
    assert "approximated" in how
    variance = problem.noise_std.view(-1, 1, 1, 1).square() / problem.fit[0]
    assert torch.allclose(variance, 0.01 * problem.y[0] + sigma**2)
    assert float(problem.fit[0].max()) == 1
    changed = torch.cat([perturbed(replace_keys(problem, k)).y[0] for k in range(200)])
    spread = (changed - problem.y[0].repeat(200, 1, 1, 1)).unflatten(0, (200, 2)).std(0)
    assert torch.allclose(spread.square().mean(), variance.mean(), rtol=0.05)


def replace_keys(problem, k):
    return replace(problem, keys=[(seed, k) for seed, _ in problem.keys])


def test_poisson_noise_in_other_units_is_refused(tiny_prior):
    prior = tiny_prior()
    A = deepinv.physics.Denoising(deepinv.physics.PoissonNoise(0.01, normalize=False))
    with pytest.raises(gprior.InputError, match="multiply y by the gain"):
        posterior(prior.sample(1) + 0.1, A, prior, 2)


def test_complex_noise_has_the_variance_of_both_parts_together(tiny_prior):
    prior = tiny_prior()
    y = torch.fft.fft2(prior.sample(1), norm="ortho")

    def fourier(x):
        return torch.fft.fft2(x, norm="ortho")

    problem = build_problem(y, fourier, prior, noise_std=0.1, stop="fixed", restarts=50)
    noise = perturbed(problem).y[0] - problem.y[0]
    assert abs(float(noise.abs().square().mean()) / 0.01 - 1) < 0.1


def test_classes_are_drawn_by_their_evidence():
    """For a linear prior, Laplace's approximation is the exact evidence."""
    prior, M = linear_prior(c_dim=2)
    A = torch.eye(16, dtype=torch.float64)[:SIZE]
    y = torch.full((1, SIZE), 1.0, dtype=torch.float64)  # class 0 adds 2, class 1 nothing
    problem = build_problem(y, A, prior, noise_std=SIGMA, stop="fixed")
    settings = Settings(candidates=1, steps=1, rounds=1, newton=3)
    found, cost = log_evidence(problem, latents_for(prior, "z"), settings, 32)
    J = A @ M
    covariance = J @ J.T + SIGMA**2 * torch.eye(SIZE, dtype=torch.float64)
    rest = torch.stack([y[0] - 2, y[0]])
    log = -0.5 * (rest @ torch.linalg.inv(covariance) * rest).sum(1)
    assert torch.allclose(found[0] - found[0, 0], log - log[0], atol=1e-3)
    assert float(cost) > 0


def test_samples_of_an_unknown_class_have_the_class_of_the_image(tiny_prior):
    prior = tiny_prior(c_dim=2)
    y, A, label = measured(prior, 2, sigma=0.01, A=Masking(prior.image_shape, "eye-patch"))
    options = {"noise_std": 0.01, "check": False, "steps": 20, "rounds": 5}
    drawn = posterior(y, A, prior, 4, **options)
    assert drawn.latents["c"].argmax(-1).tolist() == [[k] * 4 for k in label]


# --- What is returned ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def drawn(tiny_prior):
    prior = tiny_prior(c_dim=2)
    y, A, label = measured(prior, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return posterior(
            y, A, prior, 6, noise_std=0.02, label=label, correction="auto", method="hmc",
            warmup=2, draws=4, leapfrog=2, **FEW,
        )  # fmt: skip


def test_a_posterior_says_what_it_is(drawn):
    assert drawn.samples.shape == (2, 6, 1, 16, 16) == drawn.generated.shape
    assert not torch.equal(drawn.samples, drawn.generated) and drawn.correction == "auto"
    assert torch.equal(drawn.mean, drawn.samples.mean(1))
    assert torch.equal(drawn.std, drawn.samples.std(1))
    for name in ("misfit", "noise_std", "converged", "redone"):
        assert getattr(drawn, name).shape == (2, 6)
    assert drawn.r_hat.shape == drawn.evaluations.shape == (2,)


def test_an_image_that_the_prior_lacks_has_a_low_p_value():
    prior, M = linear_prior()
    A = Masking(prior.image_shape, torch.ones(4, 4))
    inside = (prior.draw([(0, "truth")]) @ M.T).view(1, 1, 4, 4)
    g = torch.Generator().manual_seed(0)
    noise = 0.02 * torch.randn(2, 1, 4, 4, generator=g, dtype=M.dtype)
    y = torch.cat([inside, inside + torch.eye(4, dtype=M.dtype)]) + noise
    options = {"noise_std": 0.02, "steps": 1, "rounds": 1, "candidates": 1}
    with pytest.warns(RuntimeWarning, match=r"does not contain 1 of 2 images \(numbers \[1\]"):
        drawn = posterior(y, A.double(), prior, 2, **options)
    assert drawn.p_value[0] > 0.05 > drawn.p_value[1] and drawn.misfit[1].min() > 5


def test_an_interval_of_normal_samples_has_its_level(drawn):
    g = torch.Generator().manual_seed(0)
    values = torch.randn(4000, 6, 1, 1, 1, generator=g)
    truth = torch.randn(4000, 1, 1, 1, generator=g)
    normal = replace(drawn, samples=values)
    for level in (0.5, 0.9):
        low, high = normal.interval(level)
        inside = ((truth > low) & (truth < high)).double().mean()
        assert abs(float(inside) - level) < 0.02
    with pytest.raises(gprior.InputError, match="level must be below 1"):
        drawn.interval(1)


def test_a_round_trip_is_exact(drawn, tmp_path):
    path = tmp_path / "p.safetensors"
    drawn.save(path)
    loaded = Posterior.load(path)
    for name, value in vars(drawn).items():
        other = getattr(loaded, name)
        if isinstance(value, torch.Tensor):
            assert torch.equal(other, value), name
        elif name == "latents":
            assert all(torch.equal(other[k], v) for k, v in value.items())
        else:
            assert other == value, name
    facts = json.loads((tmp_path / "p.json").read_text())
    assert facts == drawn.facts() and "not for diagnosis" in facts["note"]


def test_a_damaged_file_is_refused(drawn, tmp_path):
    path = tmp_path / "p.safetensors"
    drawn.save(path)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for length in (0, 7, 100, len(whole) // 2):
        path.write_bytes(whole[:length])
        with pytest.raises(gprior.InputError, match="no whole posterior samples"):
            Posterior.load(path)
    for _ in range(40):
        damaged = bytearray(whole)
        for place in rng.integers(0, 3000, 5):
            damaged[place] = rng.integers(256)
        path.write_bytes(damaged)
        with suppress(gprior.InputError):  # any other error is a bug
            Posterior.load(path)
    with pytest.raises(gprior.InputError, match="folder"):
        Posterior.load(tmp_path)
    with pytest.raises(gprior.InputError, match="safetensors"):
        drawn.save(tmp_path / "p.pt")


# --- Conformal calibration -------------------------------------------------------------------


def test_the_factor_controls_the_expected_risk():
    """Over many draws of 30 calibration images, the mean risk of a new image is at most 10 %."""
    g = torch.Generator().manual_seed(0)
    risks = []
    for _ in range(300):
        size = torch.rand(31, 1, generator=g) * 3  # images differ in how wrong their samples are
        scores = (size * torch.randn(31, 50, generator=g)).abs()
        risks.append(float((scores[30] > factor_for(scores[:30], 0.9)).double().mean()))
    assert 0.05 < np.mean(risks) < 0.11


def test_a_calibration_scales_the_intervals(drawn, tmp_path):
    known = Calibration(0.8, 3.0, 25, 0.5, drawn.settings(), "downsample:2")
    known.save(tmp_path / "c.json")
    text = json.loads((tmp_path / "c.json").read_text())
    assert "25 calibration images" in text["guarantee"] and "0.8" in text["guarantee"]
    scaled = drawn.calibrated(tmp_path / "c.json")
    low, high = scaled.interval()
    assert torch.allclose((high - low) / 2, 3 * (drawn.std + 1 / 255))
    with pytest.raises(gprior.InputError, match=r"level must be that of the calibration, 0\.8"):
        scaled.interval(0.9)
    other = Calibration(0.8, 3.0, 25, 0.5, {**drawn.settings(), "samples": 9})
    with pytest.raises(gprior.InputError, match="samples=9"):
        drawn.calibrated(other)
    scaled.save(tmp_path / "p.safetensors")
    assert Posterior.load(tmp_path / "p.safetensors").calibration == known


CHEAP = {"steps": 1, "rounds": 1, "newton": 1, "candidates": 1}


def test_calibrated_intervals_hold_for_images_like_those_of_the_calibration():
    """The true images vary three times as much as the prior believes."""
    prior, M = linear_prior()
    A = torch.randn(SIZE, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    z = 3 * prior.draw([(k, "wide") for k in range(120)])
    x = (z @ M.T).view(-1, 1, 4, 4)
    known = gprior.calibrate(
        x[:60], A, prior, 8, level=0.8, noise_std=SIGMA, operator="matrix", max_batch=480, **CHEAP
    )
    assert known.images == 60 and known.operator == "matrix" and known.before < 0.75
    noise = torch.randn(60, SIZE, dtype=x.dtype, generator=torch.Generator().manual_seed(2))
    y = x[60:].flatten(1) @ A.T + SIGMA * noise
    options = {"noise_std": SIGMA, "check": False, "max_batch": 480, **CHEAP}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        drawn = posterior(y, A, prior, 8, seed=list(range(500, 560)), **options)

    def inside(low, high):
        return float(((x[60:] >= low) & (x[60:] <= high)).double().mean())

    assert inside(*drawn.interval(0.8)) < 0.75
    assert 0.75 < inside(*drawn.calibrated(known).interval()) < 0.9


def test_a_calibration_refuses_too_few_or_wrong_images(tiny_prior):
    prior = tiny_prior()
    A = Downsampling(prior.image_shape, 2)
    with pytest.raises(gprior.InputError, match=r"at least 9 for level 0\.9, got 8"):
        gprior.calibrate(prior.sample(8), A, prior, noise_std=0.1)
    with pytest.raises(gprior.InputError, match=r"images must have shape \(n, 1, 16, 16\)"):
        gprior.calibrate(torch.zeros(20, 1, 8, 8), A, prior, noise_std=0.1)
    with pytest.raises(gprior.InputError, match="above 0 and below 1"):
        gprior.calibrate(prior.sample(2), A, prior, noise_std=0.1, level=1.0)


def test_the_command_calibrates_on_a_folder(tiny_prior, tmp_path):
    prior = tiny_prior(dtype=torch.float32)
    save_prior(prior, tmp_path / "prior.safetensors")
    (tmp_path / "images").mkdir()
    for k in range(20):
        pixels = np.random.default_rng(k).integers(0, 256, (16, 16), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{k}.png")
    out = tmp_path / "c.json"
    arguments = [str(tmp_path / "prior.safetensors"), "-A", "downsample:4", "--noise", "0.1"]
    arguments += ["--images", str(tmp_path / "images"), "-o", str(out), "--samples", "2"]
    found = CliRunner().invoke(main, ["calibrate", *arguments, "--level", "0.8"])
    assert found.exit_code == 0, found.output
    known = Calibration.load(out)
    assert known.images == 20 and known.operator == "downsample:4" and known.level == 0.8
    assert f"{known.factor:.2f}" in found.output
    found = CliRunner().invoke(main, ["calibrate", *arguments[:-3], "c.txt"])
    assert found.exit_code == 2


# --- The command line ------------------------------------------------------------------------


@pytest.fixture
def slow_free(monkeypatch):
    """Draw few and short samples."""
    quick = partial(posterior, steps=2, rounds=1, newton=1, candidates=2)
    monkeypatch.setattr("gprior.commands.samples.posterior", quick)


def reconstruct(*arguments):
    found = CliRunner().invoke(main, ["reconstruct", *map(str, arguments), "--no-check"])
    assert found.exit_code == 0, found.output
    return found.output


def test_the_command_writes_samples_in_the_format_of_the_input(tiny_prior, tmp_path, slow_free):
    prior = tmp_path / "prior.safetensors"
    save_prior(tiny_prior(dtype=torch.float32), prior)
    pixels = np.random.default_rng(0).normal(300, 50, (16, 16, 1)).astype(np.float32)
    affine = np.diag([2.0, 2.0, 3.0, 1.0])
    nibabel.Nifti1Image(pixels, affine).to_filename(tmp_path / "scan.nii")
    out = tmp_path / "out"
    arguments = [tmp_path / "scan.nii", "-o", out, "-A", "downsample:2", "--prior", prior]
    arguments += ["--simulate", "--noise", "0.1", "--set", "steps=2", "--intensity", "100,500"]
    reconstruct(*arguments, "--samples", 4)
    drawn = Posterior.load(out / "samples.safetensors")
    assert drawn.samples.shape == (1, 4, 1, 16, 16)
    low, high = drawn.interval(0.9)
    expected = {"mean": drawn.mean, "std": drawn.std, "low": low, "high": high}
    for name, image in expected.items():
        file = nibabel.load(out / f"{name}-on-input-grid.nii.gz")
        reference = nibabel.load(out / "on-input-grid.nii.gz")
        assert np.allclose(file.affine, reference.affine)
        assert KINDS[name] in file.header["descrip"].item().decode()
        written = np.sort(file.get_fdata().ravel())
        values = 400 * image.numpy().ravel() + (0 if name == "std" else 100)
        assert np.allclose(written, np.sort(values), atol=0.01)
    record = json.loads((out / "record.json").read_text())
    assert record["samples"] == 4 and record["sampling_method"] == "rto in z"
    page = (out / "report.html").read_text()
    assert "Posterior samples" in page and "Sample 4" in page and "Standard deviation" in page
    reconstruct(*arguments)  # what belongs to samples goes
    assert not [path.name for path in out.iterdir() if path.name.startswith(("std", "samples"))]


def test_the_command_writes_samples_of_kspace(tiny_prior, tmp_path, slow_free):
    prior = tmp_path / "prior.safetensors"
    save_prior(tiny_prior(dtype=torch.float32), prior)
    rng = np.random.default_rng(0)
    image = np.zeros((16, 16), complex)
    image[4:12, 4:12] = rng.uniform(0.5, 1, (8, 8)) * 300
    kspace = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(image), norm="ortho"))
    mask = np.zeros((16, 16))
    mask[:, ::2] = mask[:, 5:11] = 1
    np.savez(tmp_path / "k.npz", kspace=kspace * mask, mask=mask)
    out = tmp_path / "out"
    arguments = [tmp_path / "k.npz", "-o", out, "-A", "mri", "--prior", prior, "--noise", "3"]
    reconstruct(*arguments, "--samples", 3, "--set", "steps=2")
    drawn = Posterior.load(out / "samples.safetensors")
    mean, std = (np.load(out / f"{name}-on-input-grid.npy") for name in ("mean", "std"))
    assert mean.shape == std.shape == (16, 16) and mean.dtype == np.complex64
    unit = np.abs(mean).max() / drawn.mean[0].square().sum(0).sqrt().max().item()
    assert np.allclose(std, unit * drawn.std[0].square().sum(0).sqrt().numpy(), rtol=1e-2)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--samples", "1"], "samples must be at least 2"),
        (["--samples", "4", "--slices", "all"], "samples are for single images"),
    ],
)
def test_the_command_refuses_samples_that_it_cannot_draw(tmp_path, more, message):
    np.save(tmp_path / "x.npy", np.zeros((64, 64)))
    arguments = [str(tmp_path / "x.npy"), "-o", str(tmp_path / "out"), "-A", "mask:half", *more]
    found = CliRunner().invoke(main, ["reconstruct", *arguments, "--simulate"])
    assert found.exit_code == 2 and message in found.output


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"format": "gprior-calibration-1"}', "\x00"])
def test_a_file_that_is_no_calibration_is_refused(drawn, tmp_path, text):
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(gprior.InputError, match="no calibration file"):
        drawn.calibrated(tmp_path / "c.json")


# --- The door --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"samples": 1}, "samples must be an integer of at least 2"),
        ({"method": "nuts"}, "method must be one of"),
        ({"space": "w"}, "space must be one of"),
        ({"correction": "default"}, "correction must be one of"),
        ({"step": 3}, "posterior has no constant 'step'"),
        ({"steps": 0}, "steps must be an integer of at least 1"),
        ({"budget": 5}, "budget must be at least"),
        ({"budget": 500, "steps": 3}, "either budget or"),
    ],
)
def test_a_mistake_is_named(tiny_prior, options, message):
    prior = tiny_prior()
    y, A, _ = measured(prior, 1)
    options = {"samples": 3, "noise_std": 0.1, "check": False, **options}
    with pytest.raises(gprior.InputError, match=message):
        posterior(y, A, prior, **options)


def test_priors_that_cannot_be_sampled_are_refused(tiny_prior):
    prior = tiny_prior()
    phase = torch.zeros(16, 16, dtype=torch.float64)
    unknown = prior.adapt((2, 16, 16), phase=phase, phase_size=4)
    with pytest.raises(gprior.InputError, match="known phase"):
        latents_for(unknown, "z")
    with pytest.raises(gprior.InputError, match="styles"):
        latents_for(linear_prior()[0], "w+")


@pytest.mark.filterwarnings("ignore:.*have not")
def test_a_budget_is_kept(tiny_prior):
    prior = tiny_prior()
    y, A, _ = measured(prior, 2)
    drawn = posterior(y, A, prior, 4, noise_std=0.02, check=False, budget=400)
    assert bool((drawn.evaluations < 1.35 * 400).all())
    assert bool((drawn.evaluations > 0.5 * 400).all())


@pytest.mark.filterwarnings("ignore:.*have not")
def test_a_nonlinear_operator_is_sampled_without_correction(tiny_prior):
    prior = tiny_prior()
    y = prior.sample(1).square()
    drawn = posterior(y, lambda x: x.square(), prior, 2, noise_std=0.1, correction="auto", **FEW)
    assert drawn.correction.startswith("skipped") and torch.equal(drawn.samples, drawn.generated)


# --- deepinv ---------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*have not")
def test_the_deepinv_sampler(tiny_prior):
    prior = tiny_prior(c_dim=2)
    y, A, label = measured(prior, 2)
    options = {"noise_std": 0.02, "label": label, **FEW}
    model = gprior.PosteriorSampler(prior, samples=3, seed=4, **options)
    assert isinstance(model, deepinv.sampling.BaseSampling)
    drawn = posterior(y, A, prior, 3, seed=4, **options)
    assert torch.equal(model(y, A), drawn.mean)
    functions = [lambda d: d["x"], lambda d: d["x"] ** 2]
    means, variances = model.sample(y, A, g_statistics=functions)
    assert torch.allclose(means[1], drawn.samples.square().mean(1))
    assert torch.allclose(variances[0], drawn.samples.var(1))
    chain = model.get_chain()
    assert [s["x"].shape for s in chain] == [(2, 1, 16, 16)] * 3 and chain[0]["z"].shape == (2, 8)
    assert torch.equal(chain[1]["x"], drawn.samples[:, 1])
    assert model.mean_has_converged == bool(drawn.converged.all())
    state = torch.get_rng_state()
    assert not torch.equal(model(y, A, seed=5), drawn.mean)
    assert torch.equal(state, torch.get_rng_state())
    assert prior.digest() in str(model) and "seed=4" in str(model)


@pytest.mark.filterwarnings("ignore:.*have not", "ignore:non_blocking")
def test_the_sampler_in_deepinv_test(tiny_prior):
    prior = tiny_prior(dtype=torch.float32)
    A = Masking(prior.image_shape, "half")
    x = prior.sample(2)
    data = [{"x": image, "y": y} for image, y in zip(x, A(x), strict=True)]
    model = gprior.PosteriorSampler(prior, samples=2, noise_std=0.05, steps=2, rounds=1)
    found = deepinv.test(
        model,
        DataLoader(data, batch_size=2),
        A,
        metrics=[deepinv.metric.PSNR()],
        device="cpu",
        online_measurements=False,
        verbose=False,
        show_progress_bar=False,
    )
    assert found["PSNR"] > 0
