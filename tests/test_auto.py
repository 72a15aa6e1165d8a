"""The default method: its objective, how far it trusts the prior, and the correction."""

from __future__ import annotations

import itertools
import math

import deepinv
import numpy as np
import pytest
import torch
from scipy import sparse
from scipy.sparse.linalg import aslinearoperator

import gprior
from gprior.operators import Downsampling, Masking, PartialCirculant
from gprior.priors.styles import moments
from gprior.problem import build_problem
from gprior.randomness import normal
from gprior.search.correction import correct, sees_all
from gprior.search.linear import LinearRows
from gprior.search.residuals import coarse_trust, misfit, observed, response, smooth_image, trust
from gprior.search.tv import gradient, gradient_adjoint, minimise_tv, total_variation
from gprior.solvers import in_range
from gprior.training import phantoms

DOUBLE = torch.float64


@pytest.fixture
def prior(tiny_prior):
    return tiny_prior()


def rows_of(A, prior, x, **options):
    y = A.A(x) if hasattr(A, "A") else A(x)
    return build_problem(y, A, prior, seed=list(range(len(x))), **options)


# --- The search


def test_the_objective_is_the_one_of_the_docstring(prior):
    A = PartialCirculant(prior.image_shape, m=100)
    y = A(prior.sample(2, seed=5)) + 0.05 * normal(
        [(0, "n", i) for i in range(2)], (100,), prior.like
    )
    found = gprior.solve(y, A, prior, steps=(6, 0), noise_std=0.02, stop="fixed")
    mean, spread = moments(prior)
    scaled = (found.latents["w"] - mean) / spread
    e, square, n = scaled.mean(1), (A.A(found.generated) - y).square().mean(1), 6 * 16
    d = scaled - e[:, None]
    torch.testing.assert_close(found.terms["likelihood"], 100 * torch.log(square + 0.02**2))
    # e and d of the search differ from these by what is shared: their sum is the same.
    bound = e.square().sum(1) / 2 + 0.3 * n / 2 * torch.log1p(
        d.square().flatten(1).mean(1) / 0.03**2
    )
    assert (found.terms["shared"] + found.terms["deviation"] < 1.5 * bound + 20).all()
    assert found.evaluations.tolist() == pytest.approx([6 + 1 / 3] * 2)


def test_units_change_nothing(prior):
    """A and y may be in any units, with a noise level or without."""
    A = PartialCirculant(prior.image_shape, m=100)
    x = prior.sample(2, seed=5)
    y = A(x) + 0.02 * normal([(0, "n", i) for i in range(2)], (100,), x)
    for noise_std in (None, 0.02):
        expected = gprior.solve(y, A, prior, steps=(5, 5), noise_std=noise_std)
        for scale in (1e-3, 30.0):
            options = {"noise_std": None if noise_std is None else scale * noise_std}
            found = gprior.solve(
                scale * y, lambda z, s=scale: s * A.A(z), prior, steps=(5, 5), **options
            )
            assert (found.generated - expected.generated).abs().max() < 1e-6
            assert (found.x - expected.x).abs().max() < 1e-4
            torch.testing.assert_close(found.prior_weight, expected.prior_weight)


def test_trust_falls_with_the_residual(prior):
    A = PartialCirculant(prior.image_shape, m=200)
    x = prior.sample(3, seed=1)
    for sigma in (None, 0.1):
        problem = rows_of(A, prior, x, noise_std=sigma)
        masks, units = observed(problem), response(problem)
        least = 0.0 if sigma is None else sigma
        values = [
            trust(problem, torch.full((3,), least + r, dtype=DOUBLE), masks, units)
            for r in (0.0, 0.05, 0.2, 1.0)
        ]
        assert (values[0] == 1).all()
        assert all((a > b).all() for a, b in itertools.pairwise(values))
        assert (values[3] > 0).all() and (values[3] < 0.03).all()
    # 5 % above a known noise level is chance if there are few entries, and no chance if many.
    many = rows_of(A, prior, x, noise_std=0.1)
    assert (
        trust(many, torch.full((3,), 0.105, dtype=DOUBLE), observed(many), response(many)) == 1
    ).all()


def test_the_trust_tells_images_in_range_from_others():
    prior = gprior.load_prior("phantom-64")
    A = Downsampling(prior.image_shape, 4)
    drawn = phantoms(range(40, 42), 64, seed=9)[0].roll(6, 3)
    x = torch.cat([prior.sample(2, seed=77), drawn])
    found = gprior.solve(A(x), A, prior, steps=(60, 10))
    belief = found.diagnostics["trust"]
    assert belief[:2].min() > 2 * belief[2:].max()
    assert (found.prior_weight[:2] > found.prior_weight[2:].max()).all()


# --- The search in the range of the mapping network


def found_rows(result):
    """Return which rows the Gauss-Newton search has found: all layers have one style."""
    w = result.latents["w"]
    return ((w - w[:, :1]).abs().flatten(1).amax(1) < 1e-9).tolist()


@pytest.fixture
def eager(monkeypatch):
    """Try the search early: few steps on a random prior come less near than on a trained one."""
    monkeypatch.setattr(in_range, "TRUSTED", 0.06)


def test_half_of_an_image_in_range_is_found():
    prior = gprior.load_prior("phantom-64")
    A = Masking(prior.image_shape, "half")
    x = prior.sample(1, seed=3, label=1)
    found = gprior.solve(A(x), A, prior, budget=300, label=1)
    assert found_rows(found) == [True] and float(found.evaluations) <= 300
    assert (found.generated - x).square().mean() < 10**-3.6  # 36 dB


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("c_dim", [0, 2])
def test_an_image_in_range_is_found_exactly(tiny_prior, c_dim):
    prior = tiny_prior(c_dim=c_dim)
    A = PartialCirculant(prior.image_shape, m=100)
    label = [1, 0] if c_dim else None
    x = torch.cat([prior.sample(1, seed=s, label=label and label[s > 1]) for s in (1, 7)])
    seen = []
    found = gprior.solve(
        A(x), A, prior, steps=(40, 120), stop="fixed", label=label,
        callback=lambda step, rows, loss, image: seen.append((step, rows.tolist(), loss)),
    )  # fmt: skip
    assert found_rows(found) == [True, True]
    assert (found.generated - x).square().mean().sqrt() < 1e-5
    assert (found.evaluations <= 161).all() and (found.diagnostics["trust"] > 0.99).all()
    # Nothing is left to correct, unless one asks for it.
    assert torch.equal(found.x, found.generated) and (found.prior_weight == 1).all()
    assert found.diagnostics["in range"].tolist() == [1, 1]
    # The latents decode to the image, and the rounds are steps for the callback.
    ws = {"ws": found.latents["w"], **({"c": found.latents["c"]} if c_dim else {})}
    torch.testing.assert_close(prior(**ws), found.generated)
    assert seen[40][:2] == (40, [0, 1]) and seen[41][2].max() < seen[40][2].max()


@pytest.mark.usefixtures("eager")
def test_the_search_in_range_is_the_same_in_any_batch(prior):
    """Rows that are found, given up or never tried go through the second stage together."""
    A = PartialCirculant(prior.image_shape, m=100)
    strange = normal([(0, "strange")], prior.image_shape, prior.like).sigmoid()
    x = prior.sample(2, seed=5)
    y = A(torch.cat([x, strange, prior.sample(1, seed=7), x[:1].flip(2)]))
    options = {"steps": (40, 60), "stop": "fixed"}
    together = gprior.solve(y, A, prior, seed=[0, 1, 2, 3, 4], **options)
    alone = [gprior.solve(y[k : k + 1], A, prior, seed=k, **options) for k in range(5)]
    apart = gprior.Result.join(alone)
    assert found_rows(together) == found_rows(apart) == [False, True, False, True, False]
    torch.testing.assert_close(together.x, apart.x)
    assert together.evaluations.tolist() == pytest.approx(apart.evaluations.tolist())
    steps = (together.history.isfinite().sum(1) - 40).tolist()
    assert steps[1] == steps[3] == 0 and 0 < steps[0] < 60 and steps[2] == 60
    assert (together.evaluations <= 101).all()


@pytest.mark.usefixtures("eager")
def test_the_callback_stops_the_search_in_range(prior):
    A = PartialCirculant(prior.image_shape, m=100)
    y, steps = A(prior.sample(1, seed=7)), []

    def callback(step, rows, loss, image):
        steps.append(step)
        return step < 40

    gprior.solve(y, A, prior, steps=(40, 60), stop="fixed", callback=callback)
    assert steps[:41] == list(range(41)) and len(steps) <= 42


def test_a_prior_without_styles_is_searched_in_z():
    weights = normal([(0, "weights")], (64, 6), torch.zeros((), dtype=DOUBLE))[0]
    prior = gprior.priors.Generator(
        lambda z: torch.sigmoid(torch.tanh(z) @ weights.T.to(z)).view(-1, 1, 8, 8), 6
    ).double()
    A = normal([(1, "A")], (20, 64), torch.zeros((), dtype=DOUBLE))[0]
    x = prior.sample(2, seed=3)
    found = gprior.solve(x.flatten(1) @ A.T, A, prior, steps=(40, 60), stop="fixed")
    assert (found.generated - x).abs().max() < 1e-4


# --- The correction


def test_the_gradient_and_its_adjoint():
    x, p = torch.randn(2, 3, 7, 5, dtype=DOUBLE), torch.randn(2, 3, 2, 7, 5, dtype=DOUBLE)
    torch.testing.assert_close((gradient(x) * p).sum(), (x * gradient_adjoint(p)).sum())
    assert not gradient(torch.ones(1, 1, 4, 4)).any()


def objective(A, y, x, g, a, lam):
    fit = (A(x) - y).square().flatten(1).sum(1) / 2
    return fit + lam * ((1 - a) * total_variation(x) + a * total_variation(x - g))


@pytest.mark.parametrize("a", [0.0, 0.3, 0.75, 1.0])
def test_the_minimum_is_found(a, prior):
    """No small change of the answer lowers the objective, and the iterations converge to it."""
    A = Masking(prior.image_shape, "random", keep=0.6, seed=1)
    x = prior.sample(2, seed=3)
    g = prior.sample(2, seed=4)
    problem = rows_of(A, prior, x)
    rows, masks = LinearRows(problem), observed(problem)
    weight, lam = torch.full((2,), a, dtype=DOUBLE), torch.tensor([0.02, 0.1], dtype=DOUBLE)
    found = minimise_tv(rows, masks, g, weight, lam, 3000)
    value = objective(A.A, problem.y[0], found, g, weight, lam)
    again = minimise_tv(rows, masks, g, weight, lam, 3000, start=x)
    other = objective(A.A, problem.y[0], again, g, weight, lam)
    torch.testing.assert_close(value, other, rtol=1e-3, atol=1e-6)
    for k in range(20):
        change = 0.01 * normal([(k, "change", i) for i in range(2)], prior.image_shape, x)
        assert (objective(A.A, problem.y[0], found + change, g, weight, lam) >= value).all()


def test_the_adjoint_and_the_norm_of_any_operator(prior):
    matrix = normal([(0, "A", i) for i in range(40)], (256,), prior.like)
    mask = torch.ones(16, 16, dtype=DOUBLE)
    mask[::3] = 0
    for A, shape in (
        (matrix, None),
        (matrix.numpy(), None),
        (sparse.csr_matrix(matrix.numpy()), None),
        (aslinearoperator(matrix.numpy()), None),
        (lambda x: x.flatten(1) @ matrix.T + 2.0, None),
        (PartialCirculant(prior.image_shape, m=40), None),
        (deepinv.physics.MRI(mask=mask, img_size=(2, 16, 16)), (2, 16, 16)),
    ):
        used = prior if shape is None else prior.adapt(shape, phase=torch.zeros(16, 16))
        y = (
            torch.zeros(1, 40, dtype=DOUBLE)
            if shape is None
            else torch.zeros(1, 2, 16, 16, dtype=DOUBLE)
        )
        rows = LinearRows(build_problem(y, A, used, noise_std=0.1))
        assert rows.are_linear().all()
        dense = torch.cat(
            [
                rows.forward(e.view(1, *used.image_shape))[0].flatten(1)
                for e in torch.eye(math.prod(used.image_shape), dtype=DOUBLE)
            ]
        )
        top = torch.linalg.matrix_norm(dense, 2) ** 2
        assert 0.9 * top < float(rows.norm2[0]) < 1.2 * top


def test_what_held_out_entries_can_tell(prior):
    x = prior.sample(1)
    for A, expected in (
        (PartialCirculant(prior.image_shape, m=128), True),
        (Masking(prior.image_shape, torch.ones(16, 16)), True),
        (Masking(prior.image_shape, "half"), False),
        (Downsampling(prior.image_shape, 4), False),
    ):
        problem = rows_of(A, prior, x)
        assert bool(sees_all(LinearRows(problem), observed(problem))[0]) == expected


def test_a_wrong_image_is_repaired_and_a_right_one_kept():
    prior = gprior.load_prior("phantom-64")
    A = PartialCirculant(prior.image_shape, 0.3)
    x = torch.cat([prior.sample(1, seed=5), phantoms([70], 64, seed=9)[0]])
    wrong = torch.cat([x[:1], phantoms([71], 64, seed=9)[0]])
    problem = rows_of(A, prior, x)
    found = correct(problem, wrong)
    before, after = ((v - x).square().mean((1, 2, 3)) for v in (wrong, found.image))
    assert after[0] < 1e-5 and after[1] < 0.2 * before[1]
    assert found.weight[0] >= 0.5 and misfit(problem, found.image)[1] < misfit(problem, wrong)[1]
    alone = correct(problem.take(torch.tensor([1])), wrong[1:])
    assert (alone.image - found.image[1:]).abs().max() < 1e-4


def test_noise_does_not_hide_a_wrong_image():
    """Single entries cannot tell an error of a quarter of the noise from the noise, regions can."""
    prior = gprior.load_prior("phantom-64")
    A = Masking(prior.image_shape, torch.ones(64, 64))
    x = prior.sample(2, seed=5)
    noise = 0.3 * normal([(k, "noise") for k in range(2)], prior.image_shape, x)
    problem = build_problem(x + noise, A, prior, noise_std=0.3)
    wrong = torch.stack([x[0], x[1] + 0.07 * smooth_image(problem)[0]])
    masks = observed(problem)
    residual = (wrong - x - noise).square().mean((1, 2, 3)).sqrt()
    assert (trust(problem, residual, masks, response(problem)) > 0.9).all()
    coarse = coarse_trust(LinearRows(problem), wrong, masks)
    assert coarse[0] > 0.9 and coarse[1] < 0.4
    found = correct(problem, wrong, belief=torch.ones(2), in_range=torch.ones(2))
    assert torch.equal(found.image[0], wrong[0]) and found.weight[1] == 0.5
    quiet = build_problem(x, A, prior)
    assert (coarse_trust(LinearRows(quiet), wrong, observed(quiet)) == 1).all()


def test_a_prior_that_is_far_off_says_nothing_about_what_is_not_seen(prior):
    x = prior.sample(3)
    belief = torch.tensor([0.05, 0.16, 0.5], dtype=DOUBLE)
    for A, expected in (
        (Downsampling(prior.image_shape, 4), [0.0, 0.3, 0.5]),
        (Masking(prior.image_shape, "half"), [0.0, 0.3 * 0.0625, 0.5]),
        (PartialCirculant(prior.image_shape, m=128), [0.3, 0.3, 0.5]),
    ):
        problem = rows_of(A, prior, x)
        found = correct(problem, prior.sample(3, seed=9), belief=belief)
        assert found.weight.tolist() == pytest.approx(expected)
        assert found.strength[0] >= found.strength[2]


def test_the_strength_is_that_of_most_measurements(prior):
    """As in a tomograph, whose mean is measured far better than details."""
    matrix = normal([(0, "A", i) for i in range(100)], (256,), prior.like) / 160
    sizes = []
    for A in (matrix, torch.cat([torch.full_like(matrix[:1], 1 / 16), matrix])):
        problem = build_problem(prior.sample(1).flatten(1) @ A.T, A, prior, stop="fixed")
        belief = torch.full((1,), 0.05, dtype=DOUBLE)
        sizes.append(float(correct(problem, prior.sample(1, seed=9), belief=belief).strength[0]))
    assert sizes[1] < 3 * sizes[0]


def test_an_operator_that_is_not_linear_is_left_alone(prior):
    A = torch.square
    y = A(prior.sample(2))
    found = gprior.solve(y, A, prior, steps=(3, 2))
    assert found.correction == "skipped: A is not linear" and found.prior_weight.isnan().all()
    assert torch.equal(found.x, found.generated)


def test_other_methods_can_be_corrected(prior):
    A = Masking(prior.image_shape, "half")
    y = A(prior.sample(2))
    plain = gprior.solve(y, A, prior, "csgm", steps=2)
    assert plain.correction is None and plain.prior_weight is None
    assert torch.equal(plain.x, plain.generated)
    for kind in ("auto", "tv"):
        found = gprior.solve(y, A, prior, "csgm", steps=2, correction=kind)
        assert torch.equal(found.generated, plain.x) and found.correction == kind
        assert not torch.equal(found.x, plain.x)
        assert kind == "auto" or not found.prior_weight.any()
    every = gprior.solve(y, A, prior, "csgm", steps=2, correction="auto", restarts=2, keep="all")
    assert every.x.shape == (2, 2, *prior.image_shape) and every.prior_weight.shape == (2, 2)
    best = gprior.solve(y, A, prior, "csgm", steps=2, correction="auto", restarts=2)
    assert (every.best().x - best.x).abs().max() < 1e-6
    with pytest.raises(ValueError, match="correction must be one of"):
        gprior.solve(y, A, prior, steps=2, correction="sharpen")


@pytest.mark.parametrize("sigma", [None, 5.0])
def test_a_noise_level_above_the_signal_gives_a_finite_answer(sigma, prior):
    A = Masking(prior.image_shape, torch.ones(16, 16))
    found = gprior.solve(A(prior.sample(2)), A, prior, steps=(3, 2), noise_std=sigma)
    assert found.x.isfinite().all() and found.misfit.isfinite().all()


@pytest.mark.parametrize("sigma", [None, 0.1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_image_of_which_nothing_is_measured(dtype, sigma, tiny_prior):
    """It is named, its answer is finite, and its neighbour's does not change."""
    prior = tiny_prior(dtype=dtype)
    A = Masking(prior.image_shape, "half")
    y = A(prior.sample(2, seed=1))
    gone = np.zeros(y.shape, bool)
    gone[1] = True
    options = {"steps": (3, 2), "noise_std": sigma}
    with pytest.warns(RuntimeWarning, match="nothing is measured of image 1 of the batch"):
        found = gprior.solve(np.ma.masked_array(y.numpy(), gone), A, prior, **options)
    assert "non-finite" not in found.reason and found.x.isfinite().all()
    assert found.misfit.isfinite().all() and found.diagnostics["trust"].isfinite().all()
    alone = gprior.solve(y[:1], A, prior, **options)
    assert (alone.x[0] - found.x[0]).abs().max() < (1e-6 if dtype == DOUBLE else 1e-2)


# --- Does the prior contain the image?


def test_the_misfit_is_in_units_of_the_noise_or_of_y(prior):
    A = PartialCirculant(prior.image_shape, m=100)
    y = A(prior.sample(2))
    found = gprior.solve(y, A, prior, "csgm", steps=2, noise_std=0.1)
    left = (A.A(found.generated) - y).square().mean(1).sqrt()
    torch.testing.assert_close(found.misfit, left / 0.1)
    found = gprior.solve(y, A, prior, "csgm", steps=2, stop="fixed")
    left = (A.A(found.generated) - y).square().mean(1).sqrt()
    torch.testing.assert_close(found.misfit, left / y.square().mean(1).sqrt())


def test_the_plausibility_is_a_share_of_simulated_problems(prior, monkeypatch):
    from gprior.solvers import simulation
    from gprior.solvers.auto import Auto

    monkeypatch.setattr(simulation, "METHOD", Auto(steps=(15, 0)))
    A = PartialCirculant(prior.image_shape, m=128)
    far = np.indices((16, 16)).sum(0) % 2 * 1.0
    x = torch.cat([prior.sample(2, seed=8), torch.as_tensor(far)[None, None]])
    with pytest.warns(RuntimeWarning, match=r"does not contain 1 of 3 images \(numbers \[2\]\)"):
        found = gprior.solve(A(x), A, prior, steps=(2, 1), check=True)
    assert found.plausibility[2] == 0 and (found.plausibility[:2] > 0.02).all()
    again = gprior.solve(A(x[:1]), A, prior, steps=(2, 1), check=True, restarts=2, keep="all")
    assert again.plausibility.shape == (1, 2)
    torch.testing.assert_close(again.plausibility[0, 0], found.plausibility[0])
