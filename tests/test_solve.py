"""`gprior.solve`: the suite that every solver inherits, and the contracts of the door."""

from __future__ import annotations

import copy
import itertools
import math
import re
import warnings
from typing import Any

import deepinv
import numpy as np
import pytest
import torch
from scipy import sparse
from scipy.sparse.linalg import LinearOperator, aslinearoperator

import gprior
from gprior.operators import Downsampling, Masking, PartialCirculant
from gprior.priors import Encoder, EncoderNetwork, Prior, Wrapped, latent_sizes
from gprior.problem import Forward
from gprior.randomness import normal
from gprior.search import inputs_of
from gprior.search.start import _draw
from gprior.solvers import SOLVERS, find_solver

# One row per solver: name, constants that make it quick. A new method adds a row.
ROWS: dict[str, dict[str, Any]] = {
    "auto": {"steps": (4, 3)},
    "lbrgm": {"steps": 6, "init": "best-of:3"},
    "brgm": {"steps": 6},
    "csgm": {"steps": 6},
    "pulse": {"steps": 6},
    "projector": {"steps": 6},
    "i2s": {"steps": 6},
    "i2s++": {"steps": (4, 2)},
    "pnorm": {"steps": 6},
    "ilo": {"steps": (3, 2, 1, 1), "feature": 1.0},
    "sphinx": {"steps": 6, "full": True},
    "latent": {"steps": 6, "spaces": ("z+", "content", "noise")},
    "robust": {"steps": (2, 2, 2)},
    "overparameterized": {"steps": 6},
    "adam": {"steps": 2, "population": 2},
    "cma": {"steps": 2, "population": 3},
    "cma+adam": {"steps": (1, 2), "population": 2},
    "basincma": {"steps": (2, 1, 1), "population": 2},
}
# Methods with populations, in whose tests some of the contracts are written out again.
POPULATIONS = {"adam", "cma", "cma+adam", "basincma"}
# Methods whose search sees other images than the code that they return,
DRAWING = {"projector", "sphinx"}
# whose steps depend on how many there are,
SCHEDULED = {*DRAWING, "auto", "pulse", "ilo", "i2s++", "robust", "overparameterized"}
# and that start from z alone.
FROM_Z = {"csgm", "pulse", "ilo", "latent", *POPULATIONS}
PIXEL = {"pulse": 100.0}  # weights of the data that differ from the usual one
TOLERANCE = 1e-6
DOUBLE = torch.float64

solvers = pytest.mark.parametrize("name", ROWS)
one_by_one = pytest.mark.parametrize("name", [name for name in ROWS if name not in POPULATIONS])


def test_every_solver_has_a_row():
    assert set(ROWS) == set(SOLVERS)


@pytest.fixture
def prior(tiny_prior):
    return tiny_prior()


@pytest.fixture
def scene(prior):
    """Return an operator and noisy measurements of four samples, without a noise level."""
    A = PartialCirculant(prior.image_shape, m=0.5, seed=1)
    x = prior.sample(4, seed=3)
    return A, A(x) + 0.01 * normal([(0, "noise", i) for i in range(4)], (128,), x)


def run(y, A, prior, name, **options):
    return gprior.solve(y, A, prior, name, **{**ROWS[name], **options})


def same(result, other, rows=None):
    """Check that a result is, row by row, what another one has in ``rows``."""
    rows = range(len(other.x)) if rows is None else rows
    for field in ("x", "loss", "criterion"):
        a, b = getattr(result, field), getattr(other, field)[list(rows)]
        assert a.shape == b.shape
        assert (a - b).abs().max() < TOLERANCE, field
    for k, v in result.latents.items():
        assert (v - other.latents[k][list(rows)]).abs().max() < TOLERANCE, k
    assert result.reason == [other.reason[i] for i in rows]


# --- What every solver inherits


@solvers
def test_a_batch_is_its_images_alone(name, prior, scene):
    A, y = scene
    whole = run(y, A, prior, name)
    order = [2, 0, 3, 1]
    same(run(y[order], A, prior, name), whole, order)
    for i in (0, 3):
        same(run(y[i : i + 1], A, prior, name), whole, [i])


@solvers
def test_batches_with_a_perceptual_term_too(name, prior):
    A = Downsampling(prior.image_shape, 2)
    y = A(prior.sample(3, seed=3))
    whole = run(y, A, prior, name, perceptual=None)
    assert whole.perceptual == SOLVERS[name].has_perceptual
    for i in range(3):
        same(run(y[i : i + 1], A, prior, name, perceptual=None), whole, [i])


@solvers
def test_seeds_belong_to_images(name, prior, scene):
    """Duplicates with different seeds differ; the seed travels with its image."""
    A, y = scene
    same_image = y[:1].expand(3, -1)
    init = {} if "best-of" in str(ROWS[name].get("init")) else {"init": "random"}
    whole = run(same_image, A, prior, name, seed=[5, 6, 5], **init)
    assert torch.equal(whole.x[0], whole.x[2]) or (whole.x[0] - whole.x[2]).abs().max() < TOLERANCE
    assert (whole.x[0] - whole.x[1]).abs().max() > 1e-3
    same(run(same_image[:1], A, prior, name, seed=6, **init), whole, [1])
    same(run(same_image, A, prior, name, seed=np.int64(5), **init), whole, [0, 0, 0])
    assert whole.seed == [5, 6, 5]


@solvers
def test_restarts_and_parts_change_no_neighbour(name, prior, scene):
    A, y = scene
    whole = run(y, A, prior, name, restarts=2)
    for most in (1, 3):
        same(run(y, A, prior, name, restarts=2, max_batch=most), whole)
    same(run(y[1:2], A, prior, name, restarts=2), whole, [1])


@solvers
def test_more_restarts_are_never_worse(name, prior, scene):
    """Restart 0 of three is the only one of one: the best of three is at least as good."""
    A, y = scene
    one = run(y, A, prior, name, init="random", seed=[0, 1, 2, 3])
    three = run(y, A, prior, name, init="random", seed=[0, 1, 2, 3], restarts=3)
    assert (three.criterion <= one.criterion + TOLERANCE).all()
    assert (three.criterion < one.criterion - 1e-4).any()  # picked for each image
    torch.testing.assert_close(three.evaluations, 3 * one.evaluations)


def kinds(A, prior):
    """Return the same linear map in every form that `solve` takes."""
    n = math.prod(prior.image_shape)
    basis = torch.eye(n, dtype=DOUBLE).view(n, *prior.image_shape)
    dense = A.A(basis).flatten(1).t().contiguous()
    numpy = dense.numpy()
    return {
        "callable": lambda x: A.A(x),
        "physics": deepinv.physics.LinearPhysics(
            A=lambda x, **_: A.A(x), img_size=prior.image_shape
        ),
        "tensor": dense,
        "array": numpy,
        "reversed array": np.ascontiguousarray(numpy[::-1])[::-1],
        "sparse matrix": sparse.csr_matrix(numpy),
        "sparse array": sparse.coo_array(numpy),
        "LinearOperator": LinearOperator(
            numpy.shape,
            matvec=lambda v: numpy @ v.ravel(),
            rmatvec=lambda v: numpy.T @ v.ravel(),
            dtype=float,
        ),
    }


@solvers
def test_kinds_of_operators_agree(name, prior, scene):
    A, y = scene
    expected = run(y[:2], A, prior, name)
    for kind, other in kinds(A, prior).items():
        found = run(y[:2], other, prior, name, perceptual=False)
        assert (found.x - expected.x).abs().max() < TOLERANCE, kind
    as_array = run(y[:2].numpy()[:, ::-1][:, ::-1], A, prior, name)
    same(as_array, expected)


@solvers
def test_deepinv_and_our_masking_agree(name, prior):
    mask = torch.rand(1, 16, 16, generator=torch.Generator().manual_seed(0)) < 0.6
    ours = Masking(prior.image_shape, mask.to(DOUBLE))
    theirs = deepinv.physics.Inpainting(prior.image_shape, mask=mask.to(DOUBLE))
    y = ours(prior.sample(2))
    found = run(y, theirs, prior, name)
    same(found, run(y, ours, prior, name))
    assert found.perceptual == ("perceptual" in found.terms)


@solvers
def test_a_seed_fixes_the_answer(name, prior, scene):
    A, y = scene
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002
    first = run(y, A, prior, name, seed=4)
    torch.manual_seed(2)
    np.random.seed(2)  # noqa: NPY002
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    second = run(y, A, prior, name, seed=[4, 4, 4, 4])
    assert torch.equal(torch.get_rng_state(), state)
    assert (np.random.get_state()[1] == numpy_state).all()  # noqa: NPY002
    assert torch.equal(first.x, second.x) and torch.equal(first.loss, second.loss)


@solvers
def test_nothing_that_was_passed_is_changed(name, tiny_prior, scene):
    prior = tiny_prior()
    A, y = scene
    given = y.clone().requires_grad_()
    before = {k: v.clone() for k, v in {**prior.state_dict(), **A.state_dict()}.items()}
    with torch.no_grad():
        result = run(given, A, prior, name)
    after = {**prior.state_dict(), **A.state_dict()}
    assert all(torch.equal(v, after[k]) for k, v in before.items())
    assert torch.equal(given, y) and given.grad is None and not result.x.requires_grad
    assert torch.is_grad_enabled()


def decoded(prior, result):
    """Return the image of the returned code, by the prior alone."""
    return prior(**inputs_of(result.latents))


@solvers
@pytest.mark.parametrize("stop", ["fixed", "holdout", "discrepancy"])
def test_what_is_reported_is_what_is_returned(name, stop, prior, scene):
    A = PartialCirculant(prior.image_shape, m=0.9, seed=1)
    y = A(prior.sample(3, seed=3)) + 0.02
    result = run(y, A, prior, name, stop=stop, noise_std=0.3 if stop == "discrepancy" else None)
    assert set(result.stop) == {stop} and result.x.shape == (3, *prior.image_shape)
    torch.testing.assert_close(decoded(prior, result), result.generated)
    torch.testing.assert_close(sum(result.terms.values()), result.loss)
    square = (A.A(result.generated) - y).square()
    if stop == "holdout":
        held = held_out(y)
        seen = torch.stack([s[~h].mean() for s, h in zip(square, held, strict=True)])
        criterion = torch.stack([s[h].mean() for s, h in zip(square, held, strict=True)])
    else:
        seen = square.mean(1)
        criterion = square.mean(1).sqrt() / 0.3 if stop == "discrepancy" else result.loss
    torch.testing.assert_close(result.criterion, criterion)
    if name == "auto":
        return  # its terms are in a test of their own, and those of its stages differ
    weight = PIXEL.get(name, 255**2 / 2)
    torch.testing.assert_close(result.terms["fidelity"], weight * seen)
    for k in range(0 if name in DRAWING else 3):
        values = result.history[k][result.history[k].isfinite()]
        if stop == "fixed":
            torch.testing.assert_close(values.min(), result.loss[k])
        else:
            nearest = (values - result.loss[k]).abs().min()
            assert nearest < TOLERANCE * max(1, result.loss[k].abs())


def held_out(y, seed=0):
    """Return which entries are held out, from the documented key and share."""
    from gprior.randomness import generator

    chosen = torch.rand(y.shape[1:], generator=generator(seed, "holdout", 0)) < 0.05
    assert 0.01 < chosen.double().mean() < 0.1
    return chosen.expand_as(y)


@solvers
def test_regularizers_are_those_of_the_paper(name, prior, scene):
    """The other terms, written out again from the class's docstring."""
    A, y = scene
    result = run(y, A, prior, name)
    u = result.latents
    w_bar = prior.w_avg
    from gprior.priors.styles import spread

    s = spread(prior)
    reference = (prior.mapping(torch.randn(50_000, 8, dtype=DOUBLE))[:, 0] - w_bar).square().mean()
    assert abs(s / float(reference.sqrt()) - 1) < 0.05
    if name == "lbrgm":
        own = prior.mapping(u["z"])
        expected = {
            "map": 6.0 * ((u["w"] - own) / s).square().flatten(1).mean(1),
            "latent": 0.4 * u["z"].square().mean(1),
        }
    elif name == "brgm":
        pairs = list(itertools.permutations(range(prior.num_ws), 2))
        cosine = torch.nn.functional.cosine_similarity
        apart = [1 - cosine(u["w"][:, i], u["w"][:, j], dim=1) for i, j in pairs]
        expected = {
            "gaussian": 0.195 * ((u["w"] - w_bar) / s).square().flatten(1).mean(1),
            "cosine": 3.0 * torch.stack(apart).mean(0),
        }
    elif name == "csgm":
        expected = {"latent": 0.1 * u["z"].square().mean(1)}
    elif name in ("pulse", "ilo"):
        weight, v = (0.05, u["w"]) if name == "pulse" else (0.01, u["z+"])
        expected = {"cross": weight * 64 * squared_angles(v).mean((1, 2))}
    elif name == "projector":
        expected = {"noise": 1e5 * sum(autocorrelation(u[f"noise.{k}"]) for k in range(5))}
        maps = torch.cat([u[f"noise.{k}"].flatten(1) for k in range(5)], 1)
        torch.testing.assert_close(maps.mean(), torch.zeros((), dtype=DOUBLE))
        torch.testing.assert_close(maps.square().mean(), torch.ones((), dtype=DOUBLE))
    elif name == "pnorm":
        expected = {"norm": 8.0 * u["v"].square().flatten(1).mean(1)}
    else:
        expected = {}
    if name == "auto":
        pytest.skip("it has a test of its own")
    assert set(result.terms) == {"fidelity", *expected}
    for term, value in expected.items():
        torch.testing.assert_close(result.terms[term], value, rtol=1e-5, atol=1e-6)


def squared_angles(v):
    L = v.shape[1]
    table = [
        [
            2 * torch.atan2((v[:, i] - v[:, j]).norm(dim=1), (v[:, i] + v[:, j]).norm(dim=1))
            for i in range(L)
        ]
        for j in range(L)
    ]
    return torch.stack([torch.stack(row, 1) for row in table], 1).square()


def autocorrelation(n):
    """Sum over the pyramid of the squared mean products of neighbours, in both directions."""
    total = torch.zeros(len(n), dtype=n.dtype)
    while True:
        for axis in (2, 3):
            rolled = torch.cat(
                [n.narrow(axis, n.shape[axis] - 1, 1), n.narrow(axis, 0, n.shape[axis] - 1)], axis
            )
            total += (n * rolled).mean((1, 2, 3)).square()
        if n.shape[2] <= 8:
            return total
        n = (n[:, :, ::2, ::2] + n[:, :, 1::2, ::2] + n[:, :, ::2, 1::2] + n[:, :, 1::2, 1::2]) / 4


@solvers
def test_constants_are_validated(name, prior, scene):
    A, y = scene
    with pytest.raises(
        TypeError, match=rf"{re.escape(name)} has no constant \['stepz'\].*'lr'.*'steps'"
    ):
        run(y, A, prior, name, stepz=3)
    for wrong in (0, -1, 1.5, "3"):
        with pytest.raises(ValueError, match="steps must be"):
            run(y, A, prior, name, steps=wrong)
    with pytest.raises(ValueError, match="max_batch must be an integer of at least 1"):
        run(y, A, prior, name, max_batch=0)
    instance = SOLVERS[name](steps=3)
    with pytest.raises(TypeError, match=r"constants \['lr'\] go with a solver's name"):
        gprior.solve(y, A, prior, instance, lr=0.1)
    assert gprior.solve(y, A, prior, instance).history.shape[1] == 3


class Counted(Wrapped):
    """Another prior seen through a counter of forward and backward passes."""

    def __init__(self, base):
        super().__init__(base)
        self.forwards, self.backwards = 0, 0

    def run_blocks(self, ws, **inputs):
        self.forwards += len(ws)
        return self.base.run_blocks(ws, **inputs)

    def forward(self, *args, **inputs):
        x = self.base(*args, **inputs)
        self.forwards += len(x)
        if x.requires_grad:
            x.register_hook(lambda grad: setattr(self, "backwards", self.backwards + len(grad)))
        return x


@solvers
@pytest.mark.parametrize("init", ["mean", "random", "best-of:4"])
@pytest.mark.parametrize(("c_dim", "label"), [(0, None), (3, None), (3, 1)])
def test_budgets_are_kept_and_counted(name, init, c_dim, label, tiny_prior):
    prior = Counted(tiny_prior(c_dim=c_dim))
    A = PartialCirculant(prior.image_shape, m=0.5, seed=1)
    y = A(prior.base.sample(2))
    options = {"init": init, "restarts": 2, "label": label, "stop": "fixed"}
    if name == "ilo":  # whose balls take samples of their own
        options["radius"] = None
    size = 12 if name not in POPULATIONS else 120
    result = gprior.solve(y, A, prior, name, budget=size, **options)
    spent = prior.backwards + (prior.forwards - prior.backwards) / 3
    assert abs(float(result.evaluations.sum()) - spent) < 1e-9
    assert (result.evaluations <= size + 1e-9).all()
    assert (result.evaluations > 0.75 * size).all()
    with pytest.raises(ValueError, match=r"budget must be at least (\d+\.\d)") as caught:
        gprior.solve(y, A, prior, name, budget=2, **options)
    least = float(str(caught.value).split("at least ")[1].split()[0])
    assert gprior.solve(y, A, prior, name, budget=least + 0.1, **options).history.shape[1] == 1
    with pytest.raises(ValueError, match="either budget or steps"):
        gprior.solve(y, A, prior, name, budget=12, steps=3, **options)


@pytest.mark.parametrize("budget", [math.nan, math.inf, -1, 0])
def test_impossible_budgets_are_refused(budget, prior, scene):
    A, y = scene
    with pytest.raises(ValueError, match="budget must be"):
        gprior.solve(y, A, prior, budget=budget)


@one_by_one
def test_non_finite_values_stop_one_image(name, prior, scene):
    """From its third step on, image 1 meets NaN; the others are solved as if alone."""
    A, y = scene
    expected = run(y, A, prior, name, stop="fixed")
    short = run(y, A, prior, name, stop="fixed", steps=2)
    done = []

    def breaking(x):
        out = A.A(x)
        if len(done) >= 2 and len(out) == 4 and out.requires_grad:
            out = out + torch.tensor([0, math.nan, 0, 0])[:, None]
        return out

    with pytest.warns(RuntimeWarning, match="1 of 4 rows met a non-finite value"):
        found = run(y, breaking, prior, name, stop="fixed", callback=lambda *a: done.append(a))
    others = [0, 2, 3]
    assert (found.generated[others] - expected.generated[others]).abs().max() < TOLERANCE
    assert found.reason == ["steps", "non-finite", "steps", "steps"]
    assert found.x.isfinite().all() and found.loss.isfinite().all()
    # The best of the two good iterates, as a run of two steps returns it.
    if name not in SCHEDULED:
        assert (found.x[1] - short.x[1]).abs().max() < TOLERANCE
    if name not in DRAWING | {"auto"}:  # auto's second stage has another weight
        assert abs(found.loss[1] - found.history[1, :2].min()) < TOLERANCE * found.loss[1]
    assert found.history[1, 3:].isnan().all()


def test_a_good_criterion_does_not_excuse_a_broken_loss(prior):
    """Held-out entries predicted exactly, the others NaN: the iterate before is kept."""
    A = PartialCirculant(prior.image_shape, m=256)
    y = A(prior.sample(1))
    done = []

    def breaking(x):
        out = A.A(x)
        if len(done) >= 2 and out.requires_grad:
            out = out * 0 + torch.where(held_out(y), y, math.nan)
        return out

    with pytest.warns(RuntimeWarning, match="non-finite"):
        found = run(y, breaking, prior, "csgm", callback=lambda *a: done.append(a))
    assert found.stop[0] == "holdout" and found.reason == ["non-finite"]
    short = run(y, A, prior, "csgm", steps=2)
    assert (found.x - short.x).abs().max() < TOLERANCE


class Breaking(Counted):
    """A prior whose images become NaN far from the origin, for some latents only."""

    def forward(self, *args, **inputs):
        x = super().forward(*args, **inputs)
        far = x.detach().mean((1, 2, 3), keepdim=True) > 0.6
        return x + torch.where(far, math.nan, 0.0)


@one_by_one
def test_a_prior_that_breaks(name, prior):
    A = PartialCirculant(prior.image_shape, m=0.5, seed=1)
    broken = Breaking(prior)
    y = A(torch.full((2, 1, 16, 16), 0.7, dtype=DOUBLE))  # wants to go where it breaks
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        constants = {"lr": (0.2, 0.2, 0.2)} if name == "robust" else {}
        found = run(y, A, broken, name, **{"steps": 60, "init": "mean", **constants})
    assert found.reason == ["non-finite"] * 2
    assert found.x.isfinite().all() and found.loss.isfinite().all()
    torch.testing.assert_close(decoded(broken, found), found.generated)


@solvers
def test_loss_falls_and_images_are_recovered(name, prior):
    """In range, from 40 % circulant measurements: a loose bound on a random prior."""
    A = PartialCirculant(prior.image_shape, m=0.4, seed=0)
    truth = prior.sample(3, seed=11)
    y = A(truth)
    constants = {"lr": 0.1} if name in {"csgm", *POPULATIONS} else {}
    size = {"steps": 150, "restarts": 3} if name not in POPULATIONS else {"steps": 40}
    found = gprior.solve(y, A, prior, name, init="best-of:10", stop="fixed", **size, **constants)
    error = (found.x - truth).square().mean((1, 2, 3))
    baseline = (A.A_adjoint(y) - truth).square().mean((1, 2, 3))
    assert error.median() < 0.35 * baseline.median()
    first = found.history[:, 0]
    assert (found.loss < first).all()


@solvers
def test_label_none_finds_the_class(name, tiny_prior):
    prior = tiny_prior(c_dim=3)
    A = PartialCirculant(prior.image_shape, m=0.9, seed=0)
    y = A(prior.sample(3, label=[0, 1, 2], seed=1))
    found = run(y, A, prior, name, label=None, init="best-of:30", stop="fixed")
    assert len(found.label) == 3 and set(found.label) <= {0, 1, 2}
    torch.testing.assert_close(found.latents["c"].sum(1), torch.ones(3, dtype=DOUBLE))
    assert found.latents["c"].argmax(1).tolist() == found.label
    for i in range(3):
        alone = run(y[i : i + 1], A, prior, name, label=None, init="best-of:30", stop="fixed")
        same(alone, found, [i])
        assert alone.label == [found.label[i]]


def test_of_many_classes_some_are_tried(tiny_prior):
    """100 or the N of best-of:N, drawn for each row, and counted."""
    prior = Counted(tiny_prior(c_dim=1000))
    A = PartialCirculant(prior.image_shape, m=0.9, seed=0)
    y = A(prior.base.sample(2, label=[3, 999], seed=1))
    for init, tried in (("random", 100), ("best-of:7", 100), ("best-of:130", 130)):
        prior.forwards = prior.backwards = 0
        found = gprior.solve(y, A, prior, "csgm", init=init, stop="fixed", steps=1)
        torch.testing.assert_close(
            found.evaluations, torch.full((2,), 1 + (1 + tried) / 3).double()
        )
        assert prior.forwards == 2 * (2 + tried)
    same(gprior.solve(y[1:], A, prior, "csgm", init=init, stop="fixed", steps=1), found, [1])
    with pytest.raises(ValueError, match=r"budget must be at least 34\.7"):
        gprior.solve(y, A, prior, "csgm", init="random", budget=2)


def test_classes_that_are_tried(tiny_prior, monkeypatch):
    """Different ones, other ones for other seeds and restarts; all where N reaches them."""
    prior, seen = tiny_prior(c_dim=6), []
    monkeypatch.setattr("gprior.search.start.CLASSES", 3)
    monkeypatch.setattr(
        "gprior.search.start._draw",
        lambda problem, c, k: seen.append((c.argmax(1), k)) or _draw(problem, c, k),
    )
    A = PartialCirculant(prior.image_shape, m=0.9, seed=0)
    y = A(prior.sample(1))

    def tried(init, **options):
        seen.clear()
        gprior.solve(y, A, prior, "csgm", init=init, stop="fixed", steps=1, **options)
        return torch.stack([c for c, k in seen], 1), [k for c, k in seen]

    first, draws = tried("random", restarts=30)
    assert first.shape == (30, 3) and draws == [0, 0, 0]
    assert (first.diff(dim=1) > 0).all() and first.unique().tolist() == [0, 1, 2, 3, 4, 5]
    assert len(first.unique(dim=0)) > 5
    assert tried("random", seed=4)[0].tolist() != first[:1].tolist()
    every, draws = tried("best-of:8")
    assert every.tolist() == [[0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]] and draws == [0, 1] * 6
    assert tried("best-of:4")[0].unique().numel() == 4


@solvers
def test_labels(name, tiny_prior):
    prior = tiny_prior(c_dim=3)
    A = PartialCirculant(prior.image_shape, m=0.5, seed=0)
    y = A(prior.sample(2))
    one = run(y, A, prior, name, label=2)
    assert one.label == [2, 2]
    several = run(y, A, prior, name, label=[2, 0], restarts=2)
    assert several.label == [2, 0]
    assert several.latents["c"].tolist() == [[0, 0, 1], [1, 0, 0]]
    same(run(y[1:], A, prior, name, label=0, restarts=2), several, [1])
    soft = run(y, A, prior, name, label=torch.tensor([0.2, 0.5, 0.3]))
    assert soft.label == [1, 1]
    assert torch.allclose(soft.latents["c"], torch.tensor([0.2, 0.5, 0.3], dtype=DOUBLE))
    same(run(y, A, prior, name, label=torch.eye(3)[[2, 0]], restarts=2), several)
    for wrong in (3, [0, 1, 2], torch.zeros(2)):
        with pytest.raises(ValueError, match="label"):
            run(y, A, prior, name, label=wrong)


@one_by_one
def test_callback_and_progress(name, prior, scene, capsys):
    A, y = scene
    seen = []
    result = run(
        y,
        A,
        prior,
        name,
        restarts=2,
        max_batch=5,
        stop="fixed",
        progress=True,
        callback=lambda step, rows, loss, image: seen.append((step, rows.tolist(), loss, image)),
    )
    steps = np.sum(ROWS[name]["steps"])
    assert "100%" in capsys.readouterr().err
    assert [s for s, *_ in seen] == [*range(steps), *range(steps)]
    assert seen[0][1] == [0, 1, 2, 3, 4] and seen[-1][1] == [5, 6, 7]
    assert all(x.shape == (len(r), *prior.image_shape) for _, r, _, x in seen)
    assert not any(x.requires_grad or loss.requires_grad for _, _, loss, x in seen)
    table = torch.full((8, steps), math.nan, dtype=DOUBLE)
    for step, rows, loss, _ in seen:
        table[rows, step] = loss
    matches = (table.view(4, 2, steps) - result.history[:, None]).abs().amax(2) < TOLERANCE
    assert matches.any(1).all()
    run(y, A, prior, name)
    captured = capsys.readouterr()
    assert captured.err == captured.out == ""


# --- Where the search starts


@solvers
def test_kinds_of_init(name, prior, scene):
    A, y = scene
    z = normal([(9, "z", i) for i in range(4)], (8,), y)
    w = prior.mapping(z)
    tensors = z if name in FROM_Z else w
    expected = run(y, A, prior, name, init={"z": z, **({} if name in FROM_Z else {"w": w})})
    start = prior(z)
    first = PIXEL.get(name, 255**2 / 2) * (A.A(start) - y).square().mean(1)
    if name not in DRAWING | POPULATIONS | {"auto"}:
        assert (expected.history[:, 0] - first).abs().max() < 0.5 * first.min() + 20
    if name in FROM_Z:
        with pytest.raises(ValueError, match="starts from z"):
            run(y, A, prior, name, init={"w": w})

    for init in (
        {"z": z.numpy()},
        lambda x: {"z": z},
        {"z": z.float().double()},
    ):
        found = run(y, A, prior, name, init=init)
        assert found.x.shape == expected.x.shape
        if name != "brgm":
            assert (found.x - expected.x).abs().max() < 1e-4
    assert run(y, A, prior, name, init=tensors).x.isfinite().all()
    assert run(y, A, prior, name, init=tensors[:1]).x.isfinite().all()
    for init in ("mean", "random", "best-of:1", "best-of:5"):
        assert run(y, A, prior, name, init=init).solver["init"] == init


@solvers
def test_an_encoder_meets_its_own_image(name, prior, scene):
    """Whatever the restarts and parts: it is called once, with B pseudo-inverses."""
    A, y = scene
    z = normal([(9, "z", i) for i in range(4)], (8,), y)
    calls = []

    def encoder(x):
        calls.append(x)
        return z

    expected = run(y, A, prior, name, init={"z": z}, stop="fixed")
    found = run(y, A, prior, name, init=encoder, stop="fixed", restarts=2, max_batch=3)
    assert len(calls) == 1 and calls[0].shape == (4, *prior.image_shape)
    torch.testing.assert_close(calls[0], A.A_dagger(y))
    assert found.solver["init"] == "function"
    if name not in {"lbrgm", *DRAWING, *POPULATIONS}:  # whose restarts differ in more than z
        assert (found.x - expected.x).abs().max() < TOLERANCE
    same(run(y, A, prior, name, init=encoder, stop="fixed", max_batch=1), expected)


@solvers
def test_an_encoder_of_a_file(name, prior, scene, tmp_path):
    """It is as its latents, for the whole batch and for an image alone, and its rounds count."""
    A, y = scene
    network = EncoderNetwork(**latent_sizes(prior, "w"), space="w", width=4, hidden=8).draw(0)
    encoder, path = Encoder(network, prior, rounds=2), tmp_path / "encoder.safetensors"
    encoder.save(path)
    found = run(y, A, prior, name, init=str(path), stop="fixed")
    expected = run(y, A, prior, name, init=encoder(A.A_dagger(y)), stop="fixed")
    same(found, expected)
    assert found.solver["init"] == str(path)
    assert (found.evaluations - expected.evaluations - 1 / 3).abs().max() < 1e-9
    same(run(y[2:3], A, prior, name, init=encoder, stop="fixed"), found, [2])


WRONG_INIT = {
    "name": ("middle", "init must be 'mean', 'random', 'best-of:N'"),
    "none tried": ("best-of:0", "init must be"),
    "number": (3, "init must be"),
    "count": (torch.zeros(3, 8), "one z for each of the 4 images or one for all, got shape"),
    "too many": (torch.zeros(5, 8), "one z for each of the 4 images"),
    "names": ({"v": torch.zeros(4, 8)}, "latents must have 'z' or 'w'"),
    "only c": ({"c": torch.zeros(4, 8)}, "latents must have"),
    "z": (torch.zeros(4, 9), r"z must have shape \(B, 8\), got \(4, 9\)"),
    "w": (torch.zeros(4, 5, 16), r"w must have shape \(B, 6, 16\), got \(4, 5, 16\)"),
    "encoder": (lambda x: "nothing", "latents must have 'z' or 'w'.*got str"),
    "encoder's count": (lambda x: torch.zeros(2, 8), "for each of the 4 images"),
}


@pytest.mark.parametrize("case", WRONG_INIT)
def test_wrong_inits_are_refused(case, prior, scene):
    A, y = scene
    init, message = WRONG_INIT[case]
    with pytest.raises(ValueError, match=message):
        gprior.solve(y, A, prior, init=init, steps=2)


def test_encoders_need_a_pseudo_inverse(prior, scene):
    A, y = scene
    encoder = lambda x: torch.zeros(len(x), 8)  # noqa: E731
    with pytest.raises(ValueError, match="needs an A with a pseudo-inverse"):
        gprior.solve(y, lambda x: A.A(x), prior, init=encoder, steps=2)
    seen = []
    for kind, other in kinds(A, prior).items():
        if kind in ("callable", "physics"):
            continue
        gprior.solve(y, other, prior, init=lambda x: seen.append(x) or torch.zeros(4, 8), steps=1)
        assert (seen[-1] - A.A_dagger(y)).abs().max() < 1e-4, kind


@pytest.mark.parametrize("shape", [(6, 12), (12, 12), (30, 12)], ids=["wide", "square", "tall"])
@pytest.mark.parametrize("rank", ["full", "deficient"])
def test_pseudo_inverses_of_matrices_are_numpys(shape, rank):
    """In every form of a matrix, also for a y that is out of its range."""
    rng = np.random.default_rng(0)
    matrix = rng.standard_normal(shape)
    if rank == "deficient":
        matrix[-1] = matrix[0] - matrix[1]
        matrix[:, -1] = matrix[:, 0]
    y = torch.as_tensor(rng.standard_normal((2, shape[0])))
    expected = torch.as_tensor(y.numpy() @ np.linalg.pinv(matrix).T).view(2, 1, 3, 4)
    for A in (
        matrix,
        torch.as_tensor(matrix).requires_grad_(),
        sparse.csr_array(matrix),
        aslinearoperator(matrix),
    ):
        found = Forward(A, (1, 3, 4), torch.zeros((), dtype=DOUBLE), 2).pseudo_inverse(y)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_latents_of_a_conditional_prior_need_a_label(tiny_prior):
    prior = tiny_prior(c_dim=3)
    A = PartialCirculant(prior.image_shape, m=0.5)
    y = A(prior.sample(2))
    z = torch.zeros(2, 8)
    with pytest.raises(ValueError, match="pass label="):
        gprior.solve(y, A, prior, init=z, steps=2)
    assert gprior.solve(y, A, prior, init=z, label=[1, 2], steps=2).label == [1, 2]
    with_c = {"z": z, "c": torch.eye(3)[[0, 2]]}
    assert gprior.solve(y, A, prior, init=with_c, steps=2).label == [0, 2]


def test_best_of_starts_at_the_best(prior, scene):
    """The first loss of the best of 20 is the least data term among them."""
    A, y = scene
    best = gprior.solve(y, A, prior, "csgm", init="best-of:20", steps=1, stop="fixed", latent=0.0)
    every = []
    for k in range(20):
        z = prior.draw([(0, 0, "start", k)] * 4)
        every.append(255**2 / 2 * (A.A(prior(z)) - y).square().mean(1))
    torch.testing.assert_close(best.loss, torch.stack(every).min(0).values)


def test_the_mean_start_is_the_mean_image(prior, scene):
    A, y = scene
    found = gprior.solve(y, A, prior, "brgm", steps=1)
    mean = prior(ws=prior.w_avg.expand(1, prior.num_ws, -1))
    torch.testing.assert_close(found.x, mean.expand_as(found.x))


# --- When it stops


def test_the_discrepancy_principle(prior):
    A = PartialCirculant(prior.image_shape, m=0.9, seed=1)
    x = prior.sample(3, seed=3)
    sigma = torch.tensor([0.3, 0.5, 0.001])
    y = A(x) + sigma[:, None] * normal([(1, i) for i in range(3)], (230,), x)
    result = gprior.solve(y, A, prior, "csgm", steps=40, noise_std=sigma, init="best-of:20")
    residual = (A.A(result.x) - y).square().mean(1).sqrt()
    assert result.stop[0] == "discrepancy"
    torch.testing.assert_close(result.criterion, residual / sigma)
    stopped = torch.tensor([r == "discrepancy" for r in result.reason])
    assert stopped.any() and not stopped[2]
    assert ((residual <= sigma) == stopped).all()
    for k in range(3):
        ran = int(result.history[k].isfinite().sum())
        assert ran == 40 or stopped[k]
        assert abs(float(result.evaluations[k]) - ran - 1 / 3 - 20 / 3) < 1e-9


def test_the_noise_level_is_that_of_the_operator(prior):
    x = prior.sample(2)
    A = PartialCirculant(prior.image_shape, 0.9, noise_model=deepinv.physics.GaussianNoise(0.4))
    y = A.A(x)
    own = gprior.solve(y, A, prior, "csgm", steps=3)
    assert own.stop[0] == "discrepancy"
    torch.testing.assert_close(own.criterion, (A.A(own.x) - y).square().mean(1).sqrt() / 0.4)
    given = gprior.solve(y, A, prior, "csgm", steps=3, noise_std=0.2)
    torch.testing.assert_close(given.criterion, (A.A(given.x) - y).square().mean(1).sqrt() / 0.2)
    each = deepinv.physics.GaussianNoise(torch.tensor([0.1, 0.2]))
    B = PartialCirculant(prior.image_shape, 0.9, noise_model=each)
    found = gprior.solve(y, B, prior, "csgm", steps=3)
    sigma = torch.tensor([0.1, 0.2], dtype=DOUBLE)
    torch.testing.assert_close(found.criterion, (B.A(found.x) - y).square().mean(1).sqrt() / sigma)
    for model in (deepinv.physics.ZeroNoise(), deepinv.physics.PoissonNoise(0.1)):
        other = PartialCirculant(prior.image_shape, 0.9, noise_model=model)
        assert gprior.solve(y, other, prior, "csgm", steps=1).stop[0] == "holdout"
    assert gprior.solve(y, A, prior, "csgm", steps=1, stop="holdout").stop[0] == "holdout"
    assert gprior.solve(y, A, prior, "csgm", steps=1, stop="fixed").stop[0] == "fixed"


def test_the_automatic_rule(prior):
    """Held-out entries where 200 remain, a fixed number of steps elsewhere."""
    x = prior.sample(1)
    for m, rule in ((256, "holdout"), (212, "holdout"), (209, "fixed"), (50, "fixed")):
        A = PartialCirculant(prior.image_shape, m=m)
        assert gprior.solve(A(x), A, prior, "csgm", steps=1).stop[0] == rule
    half = Masking(prior.image_shape, "half")  # 256 entries, but 128 that say anything
    assert gprior.solve(half(x), half, prior, "csgm", steps=1).stop[0] == "fixed"


def test_the_automatic_rule_is_each_images_own(prior):
    """A neighbour with too few entries, or without noise, does not change an image's rule."""
    x = prior.sample(2, seed=4)
    masks = torch.ones(2, 1, 16, 16, dtype=DOUBLE)
    masks[0, :, :, :8] = 0
    A = Masking(prior.image_shape, masks)
    both = gprior.solve(A(x), A, prior, "csgm", steps=4)
    assert both.stop == ["fixed", "holdout"]
    for i in range(2):
        own = Masking(prior.image_shape, masks[i : i + 1])
        alone = gprior.solve(own(x[i : i + 1]), own, prior, "csgm", steps=4)
        assert alone.stop == both.stop[i : i + 1]
        same(alone, both, [i])
    noise = deepinv.physics.GaussianNoise(torch.tensor([0.1, 0.0]))
    B = PartialCirculant(prior.image_shape, 0.9, noise_model=noise)
    assert gprior.solve(B.A(x), B, prior, "csgm", steps=1).stop == ["discrepancy", "holdout"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stop": "never"}, "stop must be one of"),
        ({"stop": "discrepancy"}, "needs noise_std"),
        ({"stop": "holdout"}, "needs more entries"),
        ({"noise_std": 0.0}, "noise_std must be positive"),
        ({"noise_std": -1.0}, "noise_std must be positive"),
        ({"noise_std": math.nan}, "noise_std must be positive"),
        ({"noise_std": [0.1, 0.2, 0.3]}, r"one per image \(4\)"),
        ({"restarts": 0}, "restarts must be"),
        ({"restarts": 1.5}, "restarts must be"),
        ({"seed": [1, 2]}, r"one or one per image \(4\), got 2"),
        ({"solver": "lbrg"}, "solvers are"),
    ],
)
def test_wrong_options_are_refused(options, message, prior, scene):
    A, y = scene
    with pytest.raises(ValueError, match=message):
        gprior.solve(y, A, prior, steps=1, **options)


class Iterates:
    """A callback that keeps every image."""

    def __init__(self):
        self.images = []

    def __call__(self, step, rows, loss, image):
        self.images.append(image.clone())


@solvers
@pytest.mark.parametrize("kind", ["circulant", "image"])
def test_held_out_entries_are_never_seen(name, kind, prior):
    """Changing them changes the criterion and no iterate, with a perceptual term too."""
    if kind == "image":
        A = Masking(prior.image_shape, torch.ones(1, 16, 16))
    else:
        A = PartialCirculant(prior.image_shape, m=256)
    y = A(prior.sample(2, seed=5))
    held = held_out(y)
    other = torch.where(held, y + 1.0, y)
    first, second = Iterates(), Iterates()
    a = run(y, A, prior, name, stop="holdout", callback=first, perceptual=None)
    b = run(other, A, prior, name, stop="holdout", callback=second, perceptual=None)
    assert a.perceptual == (kind == "image" and SOLVERS[name].has_perceptual)
    # A second stage starts from the iterate that predicts the held-out entries best.
    blind = np.atleast_1d(ROWS[name]["steps"])[0]
    assert len(first.images) >= blind
    for u, v in zip(first.images[:blind], second.images[:blind], strict=True):
        assert torch.equal(u, v)
    assert (a.criterion - b.criterion).abs().min() > 0.01
    seen = torch.where(held, y, y + 1.0)
    third = Iterates()
    run(seen, A, prior, name, stop="holdout", callback=third)
    assert (first.images[-1] - third.images[-1]).abs().max() > 1e-4


@pytest.mark.parametrize("kind", ["circulant", "image", "dense", "sparse"])
def test_held_out_entries_are_unseen_by_encoders_and_classifiers(kind, tiny_prior):
    """What they see is the pseudo-inverse with zeros for them, whatever is measured there."""
    prior = tiny_prior(c_dim=3)
    A = PartialCirculant(prior.image_shape, m=256)
    if kind == "image":
        A = Masking(prior.image_shape, torch.ones(1, 16, 16))
    y = A(prior.sample(2, seed=5))
    if kind in ("dense", "sparse"):
        A = kinds(A, prior)["tensor" if kind == "dense" else "sparse matrix"]
    held, seen = held_out(y), []

    def encoder(image):
        seen.append(image)
        return torch.zeros(2, 8)

    def classifier(image):
        seen.append(image)
        return torch.eye(3)[[0, 2]]

    def look(y, stop):
        seen.clear()
        options = {"init": encoder, "label": classifier, "restarts": 2, "steps": 1}
        gprior.solve(y, A, prior, "csgm", stop=stop, perceptual=False, **options)
        assert len(seen) == 2 and torch.equal(*seen)
        return seen[0]

    found = look(y, "holdout")
    assert torch.equal(found, look(torch.where(held, y + 1.0, y), "holdout"))
    assert torch.equal(found, look(torch.where(held, 0.0, y), "fixed"))
    assert (found - look(y, "fixed")).abs().max() > 0.1  # which holds nothing out
    assert (found - look(torch.where(held, y, y + 1.0), "holdout")).abs().max() > 0.1


def test_masked_pixels_are_no_information(prior):
    mask = torch.ones(1, 16, 16)
    mask[:, :, 12:] = 0
    A = Masking(prior.image_shape, mask)
    y = A(prior.sample(2))
    garbage = torch.where(mask > 0, y, torch.full_like(y, 7.0))
    for stop, noise_std in (("fixed", None), ("discrepancy", 0.05)):
        options = {"steps": 4, "stop": stop, "noise_std": noise_std, "perceptual": False}
        found = gprior.solve(y, A, prior, "lbrgm", **options)
        same(gprior.solve(garbage, A, prior, "lbrgm", **options), found)
        mean = ((found.x - y) * mask).square().sum((1, 2, 3)) / mask.sum()
        torch.testing.assert_close(found.terms["fidelity"], 255**2 / 2 * mean)
    torch.testing.assert_close(found.criterion, mean.sqrt() / 0.05)


def test_entries_that_vanish_for_negative_images_are_information(prior):
    """A non-linear A is probed with images, which are not negative."""
    A = torch.relu
    y = A(prior.sample(1))
    found = gprior.solve(y, A, prior, "csgm", steps=2, stop="fixed")
    square = (A(found.x) - y).square().mean()
    torch.testing.assert_close(found.terms["fidelity"][0], 255**2 / 2 * square)
    found = gprior.solve(y, lambda x: A(x).add(1e-3).sqrt().log(), prior, "csgm", steps=2)
    assert found.stop[0] == "holdout"


def test_complex_pairs_stay_together(prior):
    """Both channels of a k-space sample are held out, or neither."""
    from gprior.problem import hold_out

    masks = [torch.ones(3, 2, 20, 20), torch.ones(3, 2, 4, 20, 20)]
    masks[0][:, :, ::2] = 0
    fit, held = hold_out(masks, [1, 2, 2], complex_pairs=True)
    for mask, f, h in zip(masks, fit, held, strict=True):
        assert torch.equal(f + h, mask) and torch.equal(h[:, 0], h[:, 1])
        assert 0.02 < h.sum() / mask.sum() < 0.09
        assert torch.equal(h[1], h[2]) and not torch.equal(h[0], h[1])
    apart = hold_out(masks, [1, 2, 3], complex_pairs=False)[1]
    assert not torch.equal(apart[0][:, 0], apart[0][:, 1])


# --- Kinds of measurements


def test_a_stacked_measurement_is_its_parts(prior):
    """deepinv's stacked physics against one operator that concatenates."""
    first, second = PartialCirculant(prior.image_shape, 120), Downsampling(prior.image_shape, 2)
    stacked = deepinv.physics.StackedLinearPhysics([first, second])
    x = prior.sample(2)
    y = stacked.A(x)
    joint = lambda x: torch.cat([p.A(x).flatten(1) for p in (first, second)], 1)  # noqa: E731
    options = {"steps": 5, "stop": "fixed", "perceptual": False}
    found = gprior.solve(y, stacked, prior, **options)
    same(found, gprior.solve(joint(x), joint, prior, **options))
    assert not found.perceptual
    same(gprior.solve([y[0], y[1]], stacked, prior, **options), found)
    held = gprior.solve(y, stacked, prior, steps=2, stop="fixed", noise_std=0.1)
    assert held.stop[0] == "fixed"
    wide = deepinv.physics.StackedLinearPhysics([PartialCirculant(prior.image_shape, 200), second])
    assert gprior.solve(wide.A(x), wide, prior, steps=2).stop[0] == "holdout"


def test_complex_measurements(prior):
    """A complex leaf is its real and imaginary parts, one entry each pair."""
    phase = torch.exp(1j * torch.linspace(0, 3, 256, dtype=DOUBLE).view(16, 16))
    fourier = lambda x: torch.fft.fft2(x * phase, norm="ortho")  # noqa: E731
    parts = lambda x: torch.view_as_real(fourier(x))  # noqa: E731
    x = prior.sample(2)
    options = {"steps": 5, "stop": "fixed", "init": "random"}
    found = gprior.solve(fourier(x), fourier, prior, "csgm", **options)
    same(found, gprior.solve(parts(x), parts, prior, "csgm", fidelity=255.0**2, **options))
    noisy = gprior.solve(fourier(x), fourier, prior, "csgm", noise_std=0.1, steps=2)
    square = (fourier(noisy.x) - fourier(x)).abs().square().mean((1, 2, 3))
    torch.testing.assert_close(noisy.criterion, square.sqrt() / 0.1)


WRONG_Y = {
    "shape": (lambda y: y[:, :100], ValueError, r"expected \[\(4, 128\)\], got \[\(4, 100\)\]"),
    "batch": (lambda y: y[0], ValueError, r"must have a batch dimension, \(B, ...\), got \(128,\)"),
    "empty": (lambda y: y[:0], ValueError, "batch size of at least 1"),
    "NaN": (
        lambda y: torch.where(y == y[0, 0], math.nan, y),
        ValueError,
        "1 of 512 entries are NaN",
    ),
    "infinite": (lambda y: y / 0, ValueError, "must be finite"),
    "text": (lambda y: "y", TypeError, "y must be a tensor, an array or a deepinv TensorList"),
    "None": (lambda y: None, TypeError, "y must be a tensor"),
    "two leaves": (lambda y: [y, y], ValueError, "expected"),
    "batches": (lambda y: [y, y[:2]], ValueError, "one batch size"),
}


@pytest.mark.parametrize("case", WRONG_Y)
def test_wrong_measurements_are_refused(case, prior, scene):
    A, y = scene
    change, error, message = WRONG_Y[case]
    with pytest.raises(error, match=message):
        gprior.solve(change(y), A, prior, steps=1)


def test_wrong_operators_are_refused(prior, tiny_prior, scene):
    _, y = scene
    with pytest.raises(ValueError, match=r"A acts on images of shape \(1, 32, 32\).*prior.adapt"):
        gprior.solve(y, PartialCirculant((1, 32, 32), 128), prior)
    for A in (np.zeros((128, 255)), torch.zeros(128, 255), sparse.csr_matrix((128, 255))):
        with pytest.raises(ValueError, match=r"shape \(m, 256\) to act on images \(1, 16, 16\)"):
            gprior.solve(y, A, prior)
    for A in (np.zeros((128, 256), complex), sparse.csr_matrix((128, 256), dtype=complex)):
        with pytest.raises(ValueError, match="must be real; stack its real and imaginary"):
            gprior.solve(y, A, prior)
    with pytest.raises(TypeError, match="A must be a deepinv physics, a callable"):
        gprior.solve(y, "A", prior)
    one_way = LinearOperator((128, 256), matvec=lambda v: v[:128], dtype=float)
    with pytest.raises(ValueError, match="rmatvec"):
        gprior.solve(y, one_way, prior, steps=1)
    stuck = lambda x: x.detach().flatten(1)[:, :128]  # noqa: E731
    with pytest.raises(ValueError, match="differentiable"):
        gprior.solve(y, stuck, prior, steps=1)


def test_unusual_arrays(prior):
    """Read-only, reversed, integer and big-endian measurements."""
    array = (255 * prior.sample(2).clamp(0, 1)).round().numpy()
    scaled = lambda x: 255 * x  # noqa: E731
    expected = gprior.solve(array, scaled, prior, steps=2)
    frozen = array.copy()
    frozen.flags.writeable = False
    for other in (
        frozen,
        array[::-1].copy()[::-1],
        array.astype(np.uint8),
        array.astype(np.uint16),
        array.astype(">f8"),
        array.astype(np.float32),
    ):
        same(gprior.solve(other, scaled, prior, steps=2), expected)


# --- Operators with parameters per image


def masks_of(n, shape, share=0.5):
    return (
        normal([(3, "mask", i) for i in range(n)], (1, *shape[1:]), torch.zeros(())) > 0
    ).double()


@solvers
@pytest.mark.parametrize("kind", ["ours", "deepinv"])
def test_masks_per_image_meet_their_images(name, kind, prior):
    masks = masks_of(3, prior.image_shape)

    def operator(mask):
        if kind == "ours":
            return Masking(prior.image_shape, mask)
        return deepinv.physics.Inpainting(prior.image_shape, mask=mask)

    A = operator(masks)
    x = prior.sample(3, seed=8)
    y = x * masks
    options = {"restarts": 2, "stop": "fixed", "init": "random"}
    whole = run(y, A, prior, name, **options)
    for most in (1, 2, 5):
        same(run(y, A, prior, name, max_batch=most, **options), whole)
    for i in range(3):
        same(run(y[i : i + 1], operator(masks[i : i + 1]), prior, name, **options), whole, [i])
    if kind == "ours":
        encoder = run(y, A, prior, name, init=lambda x: torch.zeros(len(x), 8), restarts=2)
        assert encoder.x.isfinite().all()


def test_the_operator_keeps_its_settings(prior):
    """deepinv's A_dagger, of which an encoder's image is made, writes its own into it."""
    A = deepinv.physics.Blur(torch.ones(1, 1, 3, 3, dtype=DOUBLE) / 9, padding="circular")
    A.solver = "minres"
    y = A.A(prior.sample(2))
    before = dict(vars(A))
    found = gprior.solve(y, A, prior, steps=1, init=lambda x: torch.zeros(len(x), 8))
    assert found.x.isfinite().all()
    assert vars(A) == before


class Gains(deepinv.physics.LinearPhysics):
    """A gain per image, and a table of as many rows that all images share."""

    def __init__(self, gains, table):
        super().__init__()
        self.register_buffer("gains", gains)
        self.register_buffer("table", table)

    def A(self, x, **kwargs):  # noqa: N802
        return self.gains.view(-1, 1) * (x.flatten(1) @ self.table.t())


def test_buffers_are_told_apart_by_trying(prior):
    gains = torch.tensor([1.0, 2.0, 3.0], dtype=DOUBLE)
    table = normal([(0, "table", i) for i in range(3)], (256,), gains) / 16
    A = Gains(gains, table)
    y = A.A(prior.sample(3))
    found = gprior.solve(y, A, prior, steps=3, restarts=2)
    for i in range(3):
        alone = gprior.solve(
            y[i : i + 1], Gains(gains[i : i + 1], table), prior, steps=3, restarts=2
        )
        same(alone, found, [i])
    same(gprior.solve(y, A, prior, steps=3, restarts=2, per_image=["gains"]), found)


def test_ambiguous_buffers_are_named(prior):
    A = Gains(torch.ones(2, dtype=DOUBLE), torch.ones(3, 256, dtype=DOUBLE))
    y = torch.zeros(3, 3)
    with pytest.raises(
        ValueError, match=r"A does not act on 3 images.*per_image=.*'gains': \(2,\)"
    ):
        gprior.solve(y, A, prior, steps=1)
    with pytest.raises(ValueError, match=r"per_image names \['gain'\].*'gains', 'table'\]"):
        gprior.solve(y, A, prior, steps=1, per_image=["gain"])
    with pytest.raises(ValueError, match=r"gains, but it has shape.*each of the 3 images"):
        gprior.solve(y, A, prior, steps=1, per_image=["gains"])


class Coupled(deepinv.physics.LinearPhysics):
    def A(self, x, **kwargs):  # noqa: N802
        return x - x.mean(0, keepdim=True)


def test_an_operator_that_couples_images_is_refused(prior):
    with pytest.raises(ValueError, match="does not act on 3 images one by one"):
        gprior.solve(prior.sample(3), Coupled(), prior, steps=1)


class Failing(deepinv.physics.LinearPhysics):
    def A(self, x, **kwargs):  # noqa: N802
        raise RuntimeError("the scanner is on fire")


def test_an_operators_own_error_is_shown(prior):
    with pytest.raises(RuntimeError, match="the scanner is on fire"):
        gprior.solve(prior.sample(3), Failing(), prior, steps=1)


# --- The perceptual term


def test_where_the_perceptual_term_applies(prior):
    shape, x = prior.image_shape, prior.sample(1)
    blur = deepinv.physics.Blur(filter=torch.ones(1, 1, 3, 3, dtype=DOUBLE) / 9, padding="valid")
    images = [
        Masking(shape, "half"),
        Downsampling(shape, 2),
        deepinv.physics.Inpainting(shape, mask=torch.ones(1, 16, 16, dtype=DOUBLE)),
        deepinv.physics.Denoising(deepinv.physics.GaussianNoise(0.1)),
        blur,
    ]
    for A in images:
        found = gprior.solve(A.A(x), A, prior, "lbrgm", steps=2, perceptual=None)
        assert found.perceptual and "perceptual" in found.terms
        critic, unit = prior.discriminator, prior.statistics["perceptual_unit"]

        def features(y, critic=critic):
            if y.shape[-1] != 16:
                y = torch.nn.functional.interpolate(y, size=(16, 16), mode="area")
            return critic.features(2 * y - 1)

        total = 0.0
        for f, g in zip(features(A.A(found.x)), features(A.A(x)), strict=True):
            f, g = (v / (v.square().sum(1, keepdim=True) + 1e-8).sqrt() for v in (f, g))
            total = total + (f - g).square().sum(1).mean()
        if found.stop[0] != "holdout":
            torch.testing.assert_close(found.terms["perceptual"][0], 1.75 * total / unit)
        square = (A.A(found.x) - A.A(x)).square()
        if isinstance(A, Downsampling):
            torch.testing.assert_close(found.terms["fidelity"][0], 255**2 / 2 * square.mean())
        off = gprior.solve(
            A.A(x), A, prior, "lbrgm", steps=2
        )  # the default, which it does not change
        assert not off.perceptual and "perceptual" not in off.terms

    circulant = PartialCirculant(shape, m=128)
    for A, y in (
        (circulant, circulant(x)),
        (torch.eye(256, dtype=DOUBLE), x.flatten(1)),
        (lambda x: 2 * x, 2 * x),
    ):
        assert not gprior.solve(y, A, prior, "lbrgm", steps=1, perceptual=None).perceptual
    assert gprior.solve(2 * x, lambda x: 2 * x, prior, "lbrgm", steps=1, perceptual=True).perceptual
    with pytest.raises(ValueError, match="needs a measurement that is one batch of images"):
        gprior.solve(circulant(x), circulant, prior, "lbrgm", steps=1, perceptual=True)


def test_features_can_be_given(prior, tiny_prior):
    A = Masking(prior.image_shape, "half")
    y = A(prior.sample(2))
    calls = []

    def features(x):
        calls.append(x.shape)
        return [torch.cat([x, x.square()], 1)]

    found = gprior.solve(y, A, prior, "lbrgm", steps=2, perceptual=features)
    assert found.perceptual and calls and found.solver["perceptual"] == "function"
    bare = tiny_prior(critic=False)
    assert not gprior.solve(y, A, bare, "lbrgm", steps=1, perceptual=None).perceptual
    assert gprior.solve(y, A, bare, "lbrgm", steps=1, perceptual=features).perceptual
    with pytest.raises(ValueError, match="this prior has no discriminator; pass a callable"):
        gprior.solve(y, A, bare, "lbrgm", steps=1, perceptual=True)


# --- Other priors


class OnlyZ(Prior):
    """A linear generator with nothing but z."""

    inputs = frozenset({"z"})

    def __init__(self):
        super().__init__()
        self.image_shape = (1, 16, 16)
        basis = normal(
            [(0, "basis", i) for i in range(4)], (1, 16, 16), torch.zeros((), dtype=DOUBLE)
        )
        self.basis = torch.nn.Parameter(0.1 * basis, requires_grad=False)

    def forward(self, z):
        return 0.5 + torch.einsum("rk,kchw->rchw", z, self.basis)

    def draw(self, keys):
        return normal(keys, (4,), self.basis)


def test_a_prior_with_only_z():
    prior = OnlyZ()
    A = PartialCirculant(prior.image_shape, m=100)
    truth = prior.sample(2)
    for solver, options in (("csgm", {"latent": 0.0}), ("auto", {"correction": None})):
        found = gprior.solve(A(truth), A, prior, solver, steps=200, **options)
        assert found.solver["name"] == solver and set(found.latents) == {"z"}
        assert (found.x - truth).abs().max() < 0.02
    for init in ("mean", "best-of:3", torch.zeros(2, 4)):
        assert gprior.solve(A(truth), A, prior, steps=2, init=init).x.isfinite().all()
    with pytest.raises(ValueError, match=r"LBRGM needs the inputs \['w'\].*'csgm'.*'latent'"):
        gprior.solve(A(truth), A, prior, "lbrgm")
    with pytest.raises(ValueError, match=r"z must have shape \(B, 4\)"):
        gprior.solve(A(truth), A, prior, steps=2, init=torch.zeros(2, 5))
    with pytest.raises(ValueError, match="starts from z"):
        gprior.solve(A(truth), A, prior, steps=2, init=torch.zeros(2, 6, 16))


def test_the_default_solver(prior, scene):
    A, y = scene
    assert gprior.solve(y, A, prior, steps=1).solver["name"] == "auto"
    assert find_solver(None, OnlyZ(), {}) == SOLVERS["auto"](init="best-of:64")


@pytest.mark.parametrize("channels", [1, 3])
def test_complex_images_in_mri(channels, tiny_prior):
    base = tiny_prior(channels=channels)
    phase = torch.linspace(-1, 1, 256).view(16, 16)
    prior = base.adapt((2, 16, 16), phase=phase)
    mask = torch.ones(16, 16, dtype=DOUBLE)
    mask[::3] = 0
    A = deepinv.physics.MRI(mask=mask, img_size=(2, 16, 16))
    y = A.A(prior.sample(2))
    found = gprior.solve(y, A, prior, steps=5, restarts=2)
    assert found.x.shape == (2, 2, 16, 16) and found.stop[0] == "holdout" and not found.perceptual
    fixed = gprior.solve(y, A, prior, steps=5, stop="fixed")
    assert (fixed.loss <= fixed.history[:, 0]).all()
    assert found.prior["adapted"]["to"] == [2, 16, 16]
    same(gprior.solve(y[1:], A, prior, steps=5, restarts=2), found, [1])
    with_noise = gprior.solve(y, A, prior, steps=2, noise_std=0.1)
    count = 2 * mask.sum()
    square = ((A.A(with_noise.generated) - y).square()).sum((1, 2, 3)) / count
    torch.testing.assert_close(with_noise.criterion, square.sqrt() / 0.1)


@pytest.mark.parametrize(
    ("shape", "size"), [((3, 16, 16), None), ((1, 21, 21), "pad"), ((2, 12, 12), "crop")]
)
def test_an_adapted_prior_solves(shape, size, tiny_prior):
    prior = tiny_prior().adapt(shape, size=size)
    A = Masking(shape, "half")
    found = gprior.solve(A(prior.sample(2)), A, prior, "lbrgm", steps=3, perceptual=None)
    assert found.perceptual and found.x.shape == (2, *shape)
    assert found.terms["perceptual"].isfinite().all()


def test_float32_reaches_the_same_quality(tiny_prior):
    fine = tiny_prior()
    coarse = copy.deepcopy(fine).float()
    A = PartialCirculant(fine.image_shape, m=0.5, seed=1)
    x = fine.sample(4, seed=3)
    y = A(x)
    results = [
        gprior.solve(y.to(p.like.dtype), A, p, steps=30, stop="fixed") for p in (fine, coarse)
    ]
    assert results[1].x.dtype == torch.float32 and results[1].loss.dtype == torch.float32
    one, two = ((r.x - x).square().mean((1, 2, 3)).median() for r in results)
    assert abs(float(one / two) - 1) < 0.3


@pytest.mark.parametrize("name", ["no_grad", "inference_mode"])
def test_it_works_where_gradients_are_off(name, prior, scene):
    A, y = scene
    expected = gprior.solve(y, A, prior, steps=2)
    with getattr(torch, name)():
        found = gprior.solve(y.clone(), A, prior, steps=2)
    assert (found.x - expected.x).abs().max() < TOLERANCE
