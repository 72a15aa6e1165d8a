"""Samplers, the population loop, BasinCMA and its family, classes, transforms."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
import torch

import gprior
from gprior.operators import Masking, PartialCirculant
from gprior.priors import BigGAN, Prior
from gprior.problem import Problem
from gprior.randomness import generator, normal
from gprior.search import CSA, Fixed, PackageSampler, inputs_of, population_size
from gprior.search.bounds import onto_simplex
from gprior.solvers import SOLVERS, BasinCMA, find_solver
from gprior.solvers.basin_cma import nested
from gprior.solvers.placement import (
    Transformed,
    box,
    covered,
    densely_known,
    inverse,
    salient_mask,
    transform,
    transform_onto,
    usual_box,
)

DOUBLE = torch.float64
FAMILY = ("adam", "cma", "cma+adam", "basincma")
QUICK = {
    "adam": {"steps": 3},
    "cma": {"steps": 3},
    "cma+adam": {"steps": (2, 2)},
    "basincma": {"steps": (2, 2, 2)},
}
family = pytest.mark.parametrize("name", FAMILY)


@pytest.fixture
def prior(tiny_prior):
    return tiny_prior()


@pytest.fixture
def scene(prior):
    A = PartialCirculant(prior.image_shape, m=0.5, seed=1)
    return A, A(prior.sample(3, seed=3))


def run(y, A, prior, name, **options):
    return gprior.solve(y, A, prior, name, **{"population": 3, **QUICK[name], **options})


# --- Samplers


def draws(g, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(g), dtype=DOUBLE)


@pytest.mark.parametrize(("d", "diagonal"), [(128, False), (128, True), (512, False)])
def test_the_step_size_path_is_that_of_cma(d, diagonal):
    """On the sphere, from the same normal numbers, log σ within 0.05 after 30 generations."""
    R, P = 4, population_size(d)
    assert {128: 18, 512: 22}[d] == P
    mean = torch.ones(R, d, dtype=DOUBLE)
    ours, theirs = CSA(mean, 1.0, P, diagonal), PackageSampler("cma", mean, 1.0, P, 30)
    for g in range(30):
        for search in (ours, theirs):
            x = search.ask(draws(g, R, P, d))
            search.tell(x, x.square().sum(2))
    found = ours.sigma.log().mean()
    wanted = np.mean([math.log(row.search.sigma) for row in theirs.searches])
    assert abs(float(found) - wanted) < 0.05
    ratio = ours.mean.square().mean() / theirs.mean.square().mean()
    assert 0.85 < ratio < 1.15


PACKAGED = (
    "cma", "cma:diagonal", "cma:positive", "nevergrad:DE", "nevergrad:PSO", "nevergrad:OnePlusOne",
    "nevergrad:TBPSA", "nevergrad:CMA",
)  # fmt: skip


def packaged(name, mean, members=6):
    pytest.importorskip(name.partition(":")[0])
    return PackageSampler(name, mean, 0.7, members, generations=4)


@pytest.mark.parametrize("injected", [False, True])
@pytest.mark.parametrize("name", ["diagonal", *PACKAGED])
def test_samplers_keep_problems_apart(name, injected):
    """Each problem alone, from its own numbers, whatever the global generator of NumPy."""
    make = lambda m: CSA(m, 0.7, 6, diagonal=True)  # noqa: E731
    if name in PACKAGED:
        make = lambda m: packaged(name, m)  # noqa: E731
    mean = draws(0, 3, 5)
    make(mean)  # imports the package
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    whole, alone = make(mean), make(mean[[2, 0]])
    torch.testing.assert_close(whole.mean, mean)
    for g in range(4):
        noise = draws(g, 3, 6, 5)
        x, other = whole.ask(noise), alone.ask(noise[[2, 0]])
        torch.testing.assert_close(other, x[[2, 0]])
        if injected:
            x, other = x / 2, other / 2
        values = x.square().sum(2)
        values[1, 3] = math.nan
        whole.tell(x, values, injected)
        alone.tell(other, values[[2, 0]], injected)
    assert whole.mean.isfinite().all()
    rest = whole.take(torch.tensor([1]))
    few = noise[:, :4]  # a last population may be smaller
    found = rest.ask(few[[1]])
    assert found.shape == (1, 4, 5) and found.isfinite().all()
    if "never" not in name:  # where a search does not keep what it asked
        torch.testing.assert_close(found, whole.ask(few)[[1]])
    assert (np.random.get_state()[1] == state).all()  # noqa: NPY002


def test_a_fixed_distribution_ignores_values():
    mean, noise = draws(0, 3, 5), draws(1, 3, 6, 5)
    fixed = Fixed(mean, 2.0)
    fixed.tell(noise, noise.sum(2))
    torch.testing.assert_close(
        fixed.take(torch.tensor([1])).ask(noise[[1]]), (mean[:, None] + 2 * noise)[[1]]
    )


@pytest.mark.parametrize("name", PACKAGED)
def test_samplers_of_packages_learn(name):
    """From 5 deviations away, closer than as many draws of the first distribution."""
    mean = torch.full((4, 4), 3.5, dtype=DOUBLE)
    search = packaged(name, mean, 10)
    best = []
    for g in range(20):
        x = search.ask(draws(g, 4, 10, 4))
        values = x.square().sum(2)
        search.tell(x, values)
        best.append(values.min(1).values)
    drawn = min(
        float((3.5 + 0.7 * draws(g, 4, 10, 4)).square().sum(2).mean(1).min()) for g in range(20)
    )
    assert torch.stack(best).min(0).values.median() < 0.5 * drawn


def test_methods_of_nevergrad_are_named_or_refused(prior, scene):
    pytest.importorskip("nevergrad")
    A, y = scene
    for outer, message in {
        "nevergrad:PS0": "such as .*PSO.*; got 'nevergrad:PS0'",
        "nevergrad:SPSA": "must be a method of nevergrad that has populations",
        "nevergrad:EDA": "learn_from must be 'sampled' with outer='nevergrad:EDA'",
    }.items():
        with pytest.raises(ValueError, match=message):
            run(y[:1], A, prior, "basincma", outer=outer)
    assert run(y[:1], A, prior, "basincma", outer="nevergrad:EDA", learn_from="sampled")


def test_the_diagonal_learns_the_scales():
    scales = torch.tensor([1.0, 10.0] * 5, dtype=DOUBLE)
    search = CSA(torch.ones(2, 10, dtype=DOUBLE), 0.5, 10, diagonal=True)
    for g in range(150):
        x = search.ask(draws(g, 2, 10, 10))
        search.tell(x, (x * scales).square().sum(2))
    ratio = (search.variance[:, ::2] / search.variance[:, 1::2]).sqrt().mean()
    assert 5 < ratio < 20


def test_far_injected_points_and_broken_values_do_little_harm():
    for values in ([math.nan] * 4 + [1.0] * 4, [math.inf] * 4 + [1.0] * 4):
        search = CSA(torch.zeros(1, 4, dtype=DOUBLE), 1.0, 8)
        x = search.ask(draws(0, 1, 8, 4))
        x[:, :4] = 1e6
        search.tell(x, torch.tensor([values], dtype=DOUBLE))
        assert search.mean.abs().max() < 5
    search = CSA(torch.zeros(1, 4, dtype=DOUBLE), 1.0, 8)
    far = torch.full((1, 8, 4), 1e6, dtype=DOUBLE)
    search.tell(far, torch.ones(1, 8, dtype=DOUBLE), injected=True)
    assert search.mean.norm() < 2 + 8 / 6 + 1e-9 and search.sigma <= math.e
    with pytest.raises(ValueError, match="members must be at least 2"):
        CSA(torch.zeros(1, 4), 1.0, 1)


def test_the_package_is_optional(monkeypatch, prior, scene):
    A, y = scene
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    found = run(y, A, prior, "basincma", outer="cma")
    assert (np.random.get_state()[1] == state).all()  # noqa: NPY002
    assert (found.x - run(y, A, prior, "basincma", outer="csa").x).abs().max() > 1e-6
    for package, outer in (("cma", "cma:diagonal"), ("nevergrad", "nevergrad:DE")):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(ModuleNotFoundError, match=rf"pip install 'gprior\[{package}\]'"):
            run(y, A, prior, "cma", outer=outer)


# --- The loop


OPTIONS = [
    {"learn_from": "sampled"},
    {"elites": False},
    {"polish": 2},
    {"outer": "random"},
    {"outer": "diagonal", "steps": (2, 1, 0)},
    {"outer": "cma:positive", "elites": False, "polish": 2},
    {"steps": (0, 2, 3)},
    {"steps": (3, 0, 1)},
    {"transform": True},
    {"transform": "color"},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_options_keep_the_contracts(options, prior, scene):
    """Counted as announced, within the clamp, reported as returned, each image alone."""
    A, y = scene
    found = run(y, A, prior, "basincma", bound=1.0, stop="fixed", **options)
    method = find_solver("basincma", prior, {"population": 3, **QUICK["basincma"], **options})
    torch.testing.assert_close(found.evaluations, torch.full((3,), method.cost(1), dtype=DOUBLE))
    assert found.latents["z"].abs().max() <= 1
    home = Transformed(prior) if "transform" in options else prior
    x = home(**inputs_of(found.latents))
    torch.testing.assert_close(x, found.x)
    torch.testing.assert_close(255**2 / 2 * (A.A(x) - y).square().mean(1), found.loss)
    torch.testing.assert_close(found.history.min(1).values, found.loss)
    losses = found.diagnostics["member_losses"]
    assert (
        losses.shape == (3, 3) and losses.isnan().sum(1).tolist() == [3 - method.final_members] * 3
    )
    assert losses.nan_to_num(math.inf).diff(dim=1).nan_to_num().min() >= 0
    assert (losses[:, 0] >= found.loss - 1e-9).all()
    torch.testing.assert_close(losses.nanmean(1), found.diagnostics["average_loss"])
    alone = run(y[1:2], A, prior, "basincma", bound=1.0, stop="fixed", max_batch=2, **options)
    assert (alone.x - found.x[1:2]).abs().max() < 1e-6
    default = run(y, A, prior, "basincma", bound=1.0, stop="fixed")
    assert "polish" in options or (default.x - found.x).abs().max() > 1e-6


def test_elites_are_the_best_points_seen(prior, scene):
    """With no freedom to move, the polished are the best of all draws."""
    A, y = scene
    found = run(y, A, prior, "cma+adam", steps=(4, 1), outer="random", stop="fixed", polish=1)
    scores = []
    for g in range(4):
        z = normal([(0, 0, "population-z", g)] * 3, (3, 8), y).clamp(-2, 2).flatten(0, 1)
        loss = 255**2 / 2 * (A.A(prior(z=z)) - y.repeat_interleave(3, 0)).square().mean(1)
        scores.append(loss.view(3, 3))
    best = torch.cat(scores, 1).min(1).values
    torch.testing.assert_close(found.loss, best)
    torch.testing.assert_close(found.history[:, -1], best)


def test_cma_is_no_worse_than_as_many_random_draws(prior):
    A = PartialCirculant(prior.image_shape, m=0.9, seed=1)
    y = A(prior.sample(8, seed=6))
    options = {"steps": 20, "population": 10, "stop": "fixed"}
    evolved = gprior.solve(y, A, prior, "cma", **options)
    drawn = gprior.solve(y, A, prior, "cma", outer="random", **options)
    assert (evolved.loss < drawn.loss).sum() >= 7
    assert evolved.loss.median() < 0.7 * drawn.loss.median()


@family
def test_what_the_callback_sees(name, prior, scene, capsys):
    """Every step of the rows, never below what is returned; the bar is full at the end."""
    A, y = scene
    seen = []
    look = lambda step, rows, loss, x: seen.append((step, rows.tolist(), loss, x))  # noqa: E731
    result = run(y, A, prior, name, stop="fixed", progress=True, callback=look)
    assert "100%" in capsys.readouterr().err
    columns = result.history.shape[1]
    assert [step for step, *_ in seen] == list(range(columns))
    assert all(rows == [0, 1, 2] and len(x) == 3 for _, rows, _, x in seen)
    table = torch.stack([loss for _, _, loss, _ in seen], 1)
    assert (table <= result.history + 1e-9).all()
    torch.testing.assert_close(table.min(1).values, result.loss)
    torch.testing.assert_close(result.history.min(1).values, result.loss)


@family
def test_a_row_stops_when_all_its_members_break(name, prior, scene):
    A, y = scene
    expected = run(y, A, prior, name, stop="fixed")
    measured = []

    def breaking(x):
        out = A.A(x)
        measured.append(out)
        if len(measured) > 2 + 2 * (name == "cma") and len(out) == 9:
            out = out + torch.tensor([0.0, math.nan, 0.0]).repeat_interleave(3)[:, None]
        return out

    with pytest.warns(RuntimeWarning, match="1 of 3 rows met a non-finite value"):
        found = run(y, breaking, prior, name, stop="fixed", perceptual=False)
    assert found.reason[1] == "non-finite"
    others = [0, 2]
    assert (found.x[others] - expected.x[others]).abs().max() < 1e-6
    assert [found.reason[i] for i in others] == ["steps"] * 2


@family
def test_the_noise_level_ends_a_row(name, prior):
    A = PartialCirculant(prior.image_shape, m=0.9, seed=1)
    y = A(prior.sample(2, seed=3))
    sigma = [5.0, 1e-6]
    found = run(y, A, prior, name, noise_std=sigma)
    assert found.reason == ["discrepancy" if name != "cma" else "steps", "steps"]
    if name != "cma":
        assert found.criterion[0] <= 1
        assert found.evaluations[0] < found.evaluations[1]


@family
def test_out_of_memory_halves_the_batch(name, prior, scene, monkeypatch):
    """A device with room for two images, where one row has three members."""
    A, y = scene
    expected = run(y, A, prior, name)
    sizes, measure = [], Problem.measure

    def small(self, x):
        if len(x) > 2:
            raise torch.cuda.OutOfMemoryError("two at most")
        sizes.append(len(x))
        return measure(self, x)

    monkeypatch.setattr(Problem, "measure", small)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    found = run(y, A, prior, name)
    assert max(sizes) == 2 and (found.x - expected.x).abs().max() < 1e-6
    monkeypatch.setattr(Problem, "measure", lambda self, x: small(self, torch.cat([x] * 3)))
    with pytest.raises(torch.cuda.OutOfMemoryError):
        run(y, A, prior, name)


def test_budgets_scale_nested_loops_by_the_root():
    for total in range(1, 1300, 7):
        outer, inner, final = nested(total, (30, 30, 300))
        assert outer == inner >= 1 and outer * inner + final == total
    assert nested(1200, (30, 30, 300)) == (30, 30, 300)
    half = BasinCMA(population=18).with_budget(18 * 300 + 18 * (15 + 1) / 3, 1, 1)
    assert half.steps == (15, 15, 75) and half.population == 18


def test_few_steps_leave_generations_to_the_transform():
    """At the paper's budget and where few generations were asked for it is as they say."""
    for steps, placing in (
        ((30, 30, 300), (30, 30)),
        ((50, 10, 0), (50, 10)),
        ((11, 11, 110), (30, 4)),
        ((2, 2, 1), (2, 2)),
        ((0, 0, 1), (0, 0)),
    ):
        found = BasinCMA(steps=steps, transform=True, population=18)
        assert found.transform_search == placing
        assert found.total == found.columns + placing[0] * placing[1]


@pytest.mark.parametrize(
    ("name", "constants", "message"),
    [
        ("basincma", {"population": 1}, "population must be an integer of at least 2"),
        ("basincma", {"bound": 0}, "bound must be a finite number above 0"),
        ("basincma", {"outer": "full"}, "outer must be one of"),
        ("basincma", {"outer": "nevergrad:"}, "outer must be one of"),
        ("basincma", {"learn_from": "both"}, "learn_from must be one of"),
        (
            "basincma",
            {"transform": "colour"},
            "transform must be True, False, 'spatial' or 'color'",
        ),
        ("basincma", {"polish": 0}, "polish must be an integer of at least 1"),
        ("basincma", {"steps": (0, 3, 0)}, "a generation or a final step"),
        ("basincma", {"search_class": True}, "needs a prior with classes"),
        ("adam", {"foreground": torch.ones(16, 16)}, "foreground needs a measurement that is"),
        ("adam", {"init": {"w": torch.zeros(3, 6, 16)}}, "starts from z"),
    ],
)
def test_wrong_constants_are_refused(name, constants, message, prior, scene):
    A, y = scene
    with pytest.raises(ValueError, match=message):
        run(y, A, prior, name, **constants)


def test_the_population_belongs_to_the_prior(prior, scene):
    A, y = scene
    found = gprior.solve(y[:1], A, prior, "cma", steps=1)
    assert found.solver["population"] == population_size(8) == 10
    with pytest.raises(ValueError, match="population depends on the prior"):
        SOLVERS["cma"]().cost(1)


# --- What is minimised


def test_the_papers_objective_is_a_keyword_away(prior):
    A = Masking(prior.image_shape, "half")
    y = A(prior.sample(2))
    found = run(y, A, prior, "adam", pixel=0.0, absolute=2.0, feature=7.0, stop="fixed")
    half = (A.A(found.x) - y).abs().sum((1, 2, 3)) / 128
    torch.testing.assert_close(found.terms["absolute"], 2 * half)
    assert (found.terms["fidelity"] == 0).all()


def test_the_foreground_weighs_every_term(prior):
    A = Masking(prior.image_shape, torch.ones(1, 16, 16))
    x = prior.sample(2)
    y = A(x)
    mask = torch.zeros(2, 1, 16, 16, dtype=DOUBLE)
    mask[0, :, 4:12, 4:12], mask[1, :, :8] = 1, 1
    found = run(y, A, prior, "adam", foreground=mask, stop="fixed", absolute=2.0)
    weight = mask * 0.7 + 0.3
    mean = lambda error: (error * weight).sum((1, 2, 3)) / weight.sum((1, 2, 3))  # noqa: E731
    square, distance = mean((found.x - y).square()), mean((found.x - y).abs())
    torch.testing.assert_close(found.terms["fidelity"], 255**2 / 2 * square)
    torch.testing.assert_close(found.terms["absolute"], 2 * distance)
    from gprior.distances import choose

    distance, unit = choose(None, prior)
    wanted = distance(found.x, y, weight) / unit
    torch.testing.assert_close(found.terms["perceptual"], wanted)
    for i in range(2):
        one = {"foreground": mask[i, 0], "stop": "fixed", "absolute": 2.0}
        alone = run(y[i : i + 1], A, prior, "adam", **one)
        assert (alone.x - found.x[i : i + 1]).abs().max() < 1e-6
    with pytest.raises(ValueError, match=r"foreground must have shape \(16, 16\)"):
        run(y, A, prior, "adam", foreground=mask[:1, :, :8])


# --- Classes


def conditional():
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return BigGAN([8, 8, 4], [True, True], z_dim=4, embed_dim=4, c_dim=3).double().freeze()


def test_the_class_embedding_is_searched():
    prior = conditional()
    A = Masking(prior.image_shape, torch.ones(1, 16, 16))
    y = A(prior.sample(2, label=[0, 2]))
    held = run(y, A, prior, "basincma", label=[0, 2], search_class=False)
    assert "embedding" not in held.latents
    found = run(y, A, prior, "basincma", label=[0, 2], lr_class=0.05)
    moved = found.latents["embedding"] - prior.embed(found.latents["c"])
    assert (moved.abs().flatten(1).max(1).values > 1e-3).all() and moved.abs().max() < 0.5
    torch.testing.assert_close(prior(**inputs_of(found.latents)), found.x)
    assert found.label == [0, 2]
    slow = run(y, A, prior, "basincma", label=[0, 2])
    moved = slow.latents["embedding"] - prior.embed(slow.latents["c"])
    assert 0 < moved.abs().max() <= 4 * 1e-4  # reset in every generation but the elites'


def test_class_vectors_are_searched_on_the_simplex(tiny_prior):
    prior = tiny_prior(c_dim=3)
    A = PartialCirculant(prior.image_shape, m=0.5, seed=1)
    y = A(prior.sample(2, label=[0, 1]))
    soft = torch.tensor([0.5, 0.3, 0.2])
    found = run(y, A, prior, "basincma", label=soft, search_class=True, lr_class=0.1)
    c = found.latents["c"]
    torch.testing.assert_close(c.sum(1), torch.ones(2, dtype=DOUBLE))
    assert (c >= 0).all() and (c - soft).abs().max() > 0.01
    assert found.label == c.argmax(1).tolist()
    torch.testing.assert_close(prior(**inputs_of(found.latents)), found.x)
    held = run(y, A, prior, "basincma", label=soft)
    assert (held.latents["c"] - soft).abs().max() < 1e-6


def test_onto_the_simplex():
    v = 2 * draws(0, 50, 6)
    p = onto_simplex(v)
    torch.testing.assert_close(p.sum(1), torch.ones(50, dtype=DOUBLE))
    torch.testing.assert_close(onto_simplex(p), p)
    inside = draws(1, 50, 6).softmax(1)
    assert (p >= 0).all()
    assert ((v - p) * (inside - p)).sum(1).max() < 1e-9  # what makes p the nearest point


def test_a_classifier_starts_the_class(tiny_prior):
    prior = tiny_prior(c_dim=3)
    A = PartialCirculant(prior.image_shape, m=0.5, seed=1)
    y = A(prior.sample(2, label=[0, 1]))
    seen = []

    def classifier(x):
        seen.append(x)
        return torch.tensor([[0.7, 0.2, 0.1], [0.0, 0.0, 1.0]])

    found = run(y, A, prior, "adam", label=classifier)
    torch.testing.assert_close(seen[0], A.A_dagger(y))
    assert found.label == [0, 2]
    same = run(y, A, prior, "adam", label=classifier(None))
    assert (found.x - same.x).abs().max() < 1e-6
    for wrong in (torch.ones(2, 3), torch.zeros(2, 4), torch.tensor([[2.0, -1.0, 0.0]] * 2)):
        with pytest.raises(ValueError, match="must return probabilities of shape"):
            run(y, A, prior, "adam", label=lambda x, wrong=wrong: wrong)


# --- Transforms


def smooth(n=32):
    u = torch.linspace(-1, 1, n, dtype=DOUBLE)
    blob = lambda a, b, s: torch.exp(-((u[:, None] - a) ** 2 + (u - b) ** 2) / s)  # noqa: E731
    return torch.stack([blob(0.1, -0.1, 0.1) + 0.5 * blob(-0.2, 0.2, 0.1)])[None]


def test_a_transform_moves_and_its_inverse_moves_back():
    x = smooth()
    for phi in (
        [0.2, -0.1, 0.2, -0.1, 0.3],
        [-0.3, -0.3, 0.1, 0.2, -0.2],
        [0.0, 0.0, 0.25, 0.25, 0.0],
    ):
        phi = torch.tensor([phi], dtype=DOUBLE)
        moved = transform(x, phi)
        back = transform(moved, inverse(phi))
        assert (back - x).abs().max() < 0.08 and (moved - x).abs().max() > 0.2
        torch.testing.assert_close(inverse(inverse(phi)), phi)
    zero = torch.zeros(1, 5, dtype=DOUBLE)
    torch.testing.assert_close(transform(x, zero), x)
    right_and_down = torch.tensor([[0.0, 0.0, 0.25, 0.125, 0.0]], dtype=DOUBLE)  # 4 and 2 pixels
    torch.testing.assert_close(transform(x, right_and_down)[..., 2:, 4:], x[..., :-2, :-4])
    seen = covered(right_and_down, (32, 32))
    assert seen[..., 2:, 4:].all() and seen.sum() == 30 * 28
    brighter = torch.tensor([[0.0, 0.0, 0.0, 0.0, math.log(2)]], dtype=DOUBLE)
    torch.testing.assert_close(transform(x, brighter), 2 * x)


def test_shrinking_does_not_alias():
    """Stripes of one pixel vanish where they are shrunk to a third."""
    stripes = (torch.arange(32) % 2).to(DOUBLE).expand(1, 1, 32, 32)
    phi = torch.tensor([[math.log(1 / 3)] * 2 + [0.0] * 3], dtype=DOUBLE)
    middle = transform(stripes, phi)[..., 12:20, 12:20]
    assert middle.std() < 0.25


def test_a_moved_image_is_found_where_it_is(prior):
    """The search of a shift: closer than without, with pixels that it left uncovered flagged."""
    truth = prior.sample(2, seed=4)
    phi = torch.tensor([[0.0, 0.0, 0.5, 0.0, 0.0], [0.0, 0.0, 0.0, -0.5, 0.0]], dtype=DOUBLE)
    moved = transform(truth, phi)
    A = Masking(prior.image_shape, torch.ones(1, 16, 16))
    options = {"steps": (8, 4, 10), "perceptual": False, "lr": 0.2, "stop": "fixed"}
    fixed = run(moved, A, prior, "basincma", **options)
    found = run(moved, A, prior, "basincma", transform=True, **options)
    errors = [(r.x - moved).square().mean((1, 2, 3)).mean() for r in (fixed, found)]
    assert errors[1] < errors[0]
    home = Transformed(prior)
    torch.testing.assert_close(home(**inputs_of(found.latents)), found.x)
    assert home.w_avg is prior.w_avg  # as it says of its inputs, it has the base's W space
    seen = covered(found.latents["transform"], (16, 16))
    torch.testing.assert_close(found.diagnostics["uncovered"], 1 - seen.mean((1, 2, 3)))
    square = ((found.x - moved).square() * seen).sum((1, 2, 3)) / seen.sum((1, 2, 3))
    torch.testing.assert_close(found.loss, 255**2 / 2 * square)
    alone = run(moved[1:], A, prior, "basincma", transform=True, **options)
    assert (alone.x - found.x[1:]).abs().max() < 1e-6


def test_the_brightness_can_be_searched_alone_or_left_out(prior):
    """Darker and brighter samples are found with their brightness; the other entries stay."""
    A = Masking(prior.image_shape, torch.ones(1, 16, 16))
    log_gamma = torch.tensor([-0.25, 0.25], dtype=DOUBLE)
    y = log_gamma.exp()[:, None, None, None] * prior.sample(2, seed=4)
    options = {"perceptual": False, "lr": 0.2, "stop": "fixed"}
    color = run(y, A, prior, "basincma", transform="color", steps=(8, 4, 2), **options)
    spatial = run(y, A, prior, "basincma", transform="spatial", **options)
    phi = color.latents["transform"]
    assert (phi[:, :4] == 0).all() and (color.diagnostics["uncovered"] == 0).all()
    assert ((phi[:, 4] - log_gamma).abs() < 0.12).all()
    phi = spatial.latents["transform"]
    assert (phi[:, 4] == 0).all() and (phi[:, :4] != 0).all()


def test_a_mask_tells_where_the_search_of_a_transform_starts(prior):
    """The φ between two masks, from their boxes; with no generation it is what is returned."""
    mask = torch.zeros(1, 1, 64, 64, dtype=DOUBLE)
    mask[..., 12:44, 20:44] = 1
    for scale, x, y in ((1.0, 0.0, 0.0), (1.25, 0.25, -0.125), (0.75, -0.25, 0.125)):
        phi = torch.tensor([[math.log(scale)] * 2 + [x, y, 0.0]], dtype=DOUBLE)
        moved = (transform(mask, phi) > 0.5).to(DOUBLE)
        torch.testing.assert_close(transform_onto(moved, box(mask)[0]), phi)
    tall = torch.zeros_like(mask)
    tall[..., 8:56, 20:44] = 1
    grown = transform_onto(tall, box(mask)[0])[0, :2].exp()
    torch.testing.assert_close(grown, torch.full((2,), 1.5, dtype=DOUBLE))
    torch.testing.assert_close(box(torch.zeros(1, 1, 8, 8))[0], torch.tensor([0.0, 0.0, 1.0, 1.0]))

    A = Masking(prior.image_shape, torch.ones(1, 16, 16))
    y = A(prior.sample(2))
    masks = torch.zeros(2, 1, 16, 16)
    masks[0, :, 2:6, 3:9], masks[1, :, 8:] = 1, 1
    options = {"steps": (0, 0, 1), "transform": True}
    found = run(y, A, prior, "basincma", foreground=masks, **options)
    expected = transform_onto(masks, usual_box(prior))
    torch.testing.assert_close(found.latents["transform"], expected)
    # Without a mask it is what stands out, unless there is a gap in y.
    start = run(y, A, prior, "basincma", stop="fixed", **options).latents["transform"]
    torch.testing.assert_close(start, transform_onto(salient_mask(y), usual_box(prior)))
    gap = Masking(prior.image_shape, (torch.arange(16) < 9).expand(1, 16, 16))
    start = run(gap(prior.sample(2)), gap, prior, "basincma", **options).latents["transform"]
    assert (start == 0).all()


def test_what_stands_out_is_seen_through_noise_and_small_gaps():
    x = torch.full((1, 1, 64, 64), 0.2)
    x[..., 20:50, 10:40] = 0.8
    noisy = x + 0.1 * torch.randn(x.shape, generator=generator(0, "noise"))
    known = (torch.rand(x.shape, generator=generator(0, "gaps")) < 0.7).to(x)
    assert densely_known(known)
    expected = torch.tensor([[(10 + 40 - 64) / 64, (20 + 50 - 64) / 64, 30 / 64, 30 / 64]])
    for image in (x, noisy, x.masked_fill(known == 0, 5.0)):
        found = box(salient_mask(image, known))
        torch.testing.assert_close(found, expected, atol=2.1 / 32, rtol=0)
    known[..., 30:36, 30:36] = 0
    assert not densely_known(known)


def test_the_usual_box_is_that_of_most_samples():
    class Squares(Prior):
        def sample(self, n):
            x = torch.full((n, 2, 16, 16), 0.3)
            x[:, 1, 4:12, 6:14] = 0.9
            x[:, :, 2, 2] += 0.05  # too faint to be an object
            x[::3] = torch.rand(1, 1, 16, 16, generator=generator(0, "clutter"))
            return x

    # 8 of 16 pixels wide, and one more on each side by the mean of 5 x 5.
    assert usual_box(Squares()).tolist() == [0.25, 0.0, 0.625, 0.625]


def test_the_search_of_a_transform_sees_no_held_out_entry(prior):
    A = Masking(prior.image_shape, torch.ones(1, 16, 16))
    y = A(prior.sample(2, seed=1))
    held = torch.rand(y.shape[1:], generator=generator(0, "holdout", 0)) < 0.05
    seen = []
    for measured in (y, torch.where(held, y + 1, y)):
        images = []
        look = lambda *found, images=images: images.append(found[3].clone())  # noqa: E731
        options = {"transform": True, "stop": "holdout", "callback": look}
        seen.append((run(measured, A, prior, "basincma", **options), images))
    (one, first), (two, second) = seen
    assert first and all(torch.equal(u, v) for u, v in zip(first, second, strict=True))
    torch.testing.assert_close(one.latents["transform"], two.latents["transform"])
    assert (one.criterion - two.criterion).abs().min() > 0.01
