"""The frame: rows of a problem, constants of a solver, the record of a search, and results."""

from __future__ import annotations

import math
from dataclasses import fields, replace

import numpy as np
import pytest
import torch

import gprior
from gprior.checks import InputError, integer, number
from gprior.operators import Downsampling, Masking, PartialCirculant
from gprior.problem import AllSteps, Discrepancy, HoldOut, Problem, build_problem
from gprior.problem.problem import PER_ROW
from gprior.randomness import normal
from gprior.search import (
    Adam,
    Noise,
    Objective,
    Record,
    Space,
    Sphere,
    Term,
    Watch,
    Z,
    ZPlus,
    fidelity,
    inputs_of,
    judgements,
    minimise,
    minimise_by_lbfgs,
    starting_point,
)
from gprior.solvers import SOLVERS, BasinCMA, Solver, find_solver

DOUBLE = torch.float64
solvers = pytest.mark.parametrize("name", SOLVERS)
QUICK = {
    "i2s++": {"steps": (3, 3)},
    "ilo": {"steps": (3, 3, 3, 3)},
    "robust": {"steps": (3, 3, 3)},
    "cma+adam": {"steps": (2, 3), "population": 3},
    "basincma": {"steps": (2, 2, 3), "population": 3},
    "adam": {"steps": 6, "population": 3},
    "cma": {"steps": 6, "population": 3},
}


@pytest.fixture
def prior(tiny_prior):
    return tiny_prior()


@pytest.fixture
def scene(prior):
    A = PartialCirculant(prior.image_shape, m=0.9, seed=1)
    return A, A(prior.sample(3, seed=3))


def run(y, A, prior, name, **options):
    usual = {"init": "random", **QUICK.get(name, {"steps": 6})}
    return gprior.solve(y, A, prior, name, **{**usual, **options})


# --- Rows of a problem


def test_everything_of_a_row_travels_with_it(tiny_prior):
    prior = tiny_prior(c_dim=3)
    A = Masking(prior.image_shape, torch.ones(1, 16, 16))
    y = A(prior.sample(3, seed=3))
    y[1] += 1
    mask = torch.zeros(3, 1, 16, 16)
    mask[2, :, :8] = 1
    sigma = torch.tensor([0.1, 0.2, 0.3])
    problem = build_problem(
        y, A, prior, restarts=2, seed=[4, 5, 6], noise_std=sigma, foreground=mask
    )
    problem = replace(
        problem,
        label=prior.classes([0, 1, 2], 3).repeat_interleave(2, 0),
        latents={"z": torch.arange(6.0)[:, None]},
    )
    part = problem.take(torch.tensor([5, 2]))
    assert part.keys == [(6, 1), (5, 0)] and part.image.tolist() == [2, 1]
    assert (
        part.noise_std.tolist() == pytest.approx([0.3, 0.2]) and part.rules == [Discrepancy()] * 2
    )
    assert part.label.argmax(1).tolist() == [2, 1]
    assert part.latents["z"].flatten().tolist() == [5, 2]
    torch.testing.assert_close(part.y[0], y[[2, 1]])
    assert part.weight.mean((1, 2, 3)).tolist() == pytest.approx([0.65, 0.3])
    per_row = {f.name for f in fields(Problem)} - {"prior", "forward", "perceptual", "masked"}
    assert per_row == set(PER_ROW)


def test_rules_by_name(prior):
    """Each row has its own rule; criterion and stop follow it."""
    A = Masking(prior.image_shape, torch.ones(1, 16, 16))
    x = prior.sample(3, seed=3)
    y = A(x)
    problem = build_problem(y, A, prior)
    assert problem.rules == [HoldOut()] * 3 and problem.noise_std.tolist() == [0, 0, 0]
    assert problem.without_held_out().rules == [AllSteps()] * 3
    mixed = replace(
        problem,
        rules=[Discrepancy(), HoldOut(), AllSteps()],
        noise_std=torch.tensor([0.1, 0.0, 0.0], dtype=DOUBLE),
    )
    loss = torch.tensor([7.0, 8.0, 9.0], dtype=DOUBLE)
    far = problem.measure(x + 0.2)
    criterion = mixed.criterion(far, loss)
    torch.testing.assert_close(criterion, torch.tensor([2.0, 0.04, 9.0], dtype=DOUBLE))
    near = mixed.criterion(problem.measure(x + 0.05), loss)
    assert mixed.finished(near).tolist() == [True, False, False]
    assert mixed.judged_by_loss().criterion(far, loss).tolist() == loss.tolist()


# --- Constants of a solver


@solvers
def test_solvers_hold_constants_alone_and_compare(name, prior):
    kind = SOLVERS[name]
    assert kind() == kind() and hash(kind()) == hash(kind())
    assert kind(max_batch=3) != kind()
    assert find_solver(name, prior, {}) == find_solver(name, prior, {})
    for f in fields(kind):
        assert not isinstance(getattr(kind(), f.name), torch.Tensor)
    with pytest.raises(InputError, match="init of a solver must be a name or a callable"):
        kind(init={"z": torch.zeros(1, 8)})


@solvers
def test_numbers_are_checked_once_for_all(name):
    kind = SOLVERS[name]
    with pytest.raises(InputError, match="init must be 'mean', 'random'"):
        kind(init="bogus")
    for f in fields(kind):
        default = None if f.name == "perceptual" else f.default
        if isinstance(default, bool):
            with pytest.raises(InputError, match=f"{f.name} must be True or False"):
                kind(**{f.name: 1})
        elif isinstance(default, float):
            for wrong in ("a", True, None, math.nan, math.inf, -1.0, (1.0,)):
                with pytest.raises(InputError, match=f"{f.name} must be a finite number"):
                    kind(**{f.name: wrong})
            assert type(getattr(kind(**{f.name: np.float32(0.5)}), f.name)) is float
        elif isinstance(default, int):
            for wrong in ("a", True, 1.5, -1):
                with pytest.raises(InputError, match=f"{f.name} must be an integer"):
                    kind(**{f.name: wrong})
    assert kind(steps=np.int64(40)) == kind(steps=40)


def test_numbers_of_solve(prior, scene):
    A, y = scene
    for wrong in (True, 0, 1.5, "2"):
        with pytest.raises(InputError, match="restarts must be an integer of at least 1"):
            gprior.solve(y, A, prior, restarts=wrong)
    with pytest.raises(InputError, match="seed must be an integer"):
        gprior.solve(y, A, prior, seed=[1, True, 2])
    assert integer("n", np.int32(3)) == 3 and number("x", np.float64(0.5)) == 0.5
    assert number("x", math.inf, finite=False) == math.inf
    for rule, message in (
        ({"least": 1, "most": 3}, "n must be an integer from 1 to 3, got 5"),
        ({"most": 3}, "n must be an integer of at most 3, got 5"),
    ):
        with pytest.raises(InputError, match=message):
            integer("n", 5, **rule)


@pytest.mark.parametrize("transform", [False, True])
def test_a_budget_is_turned_into_steps_by_bisection(transform, monkeypatch):
    """At most 50 trials, where a hundred thousand steps were counted down before."""
    calls = []
    cost = BasinCMA.cost
    monkeypatch.setattr(
        BasinCMA, "cost", lambda self, classes: calls.append(1) or cost(self, classes)
    )
    method = BasinCMA(population=22, transform=transform)
    found = method.with_budget(100_000, 1, 1)
    assert found.cost(1) <= 100_000 < replace(found, steps=sum_of(found) + 40).cost(1)
    assert len(calls) < 60


def sum_of(method):
    outer, inner, final = method.steps
    return outer * inner + final


# --- The record of a search


def double(*values):
    return torch.tensor(values, dtype=DOUBLE)


def test_a_record_keeps_the_best_and_why_a_row_stopped():
    record = Record(3, 4, torch.zeros((), dtype=DOUBLE))
    first = {"z": torch.tensor([[1.0], [2.0], [3.0]]), "why": ["a", "b", "c"]}
    record.keep(first, double(1.0, 5.0, math.nan), double(1.0, math.inf, 1.0))
    assert record.criterion.tolist() == [1.0, math.inf, math.inf]
    record.spend(1)
    places = record.stop([None, "discrepancy", None])
    assert places.tolist() == [0, 2] and record.running.tolist() == [0, 2]
    first["z"] += 10  # what was given is not what is kept
    second = {"z": torch.tensor([[7.0], [8.0]]), "why": ["x", "y"]}
    record.keep(second, double(2.0, 4.0), double(0.0, 0.0))
    record.spend(double(2.0, 3.0))
    record.write(1, double(0.5, 0.25))
    assert record.best["z"].flatten().tolist() == [1.0, 2.0, 8.0]
    assert record.best["why"] == ["a", "b", "y"]
    assert record.reason == ["steps", "discrepancy", "steps"]
    assert record.evaluations.tolist() == [3.0, 1.0, 4.0]
    assert record.history[:, 1].tolist()[::2] == [0.5, 0.25]


@pytest.mark.parametrize("name", [*SOLVERS, "lbfgs"])
def test_a_callback_that_returns_false_stops(name, prior, scene):
    """At once, with the best so far; None and other values go on."""
    A, y = scene
    options = {"spaces": ("z",), "optimizer": "lbfgs"} if name == "lbfgs" else {}
    solver = "latent" if name == "lbfgs" else name
    steps = []

    def stop(step, rows, loss, image):
        steps.append(step)
        return None if len(steps) < 2 else False

    found = run(y, A, prior, solver, stop="fixed", callback=stop, max_batch=3, **options)
    assert set(found.reason) <= {"callback", "steps"} and "callback" in found.reason
    assert found.x.isfinite().all()
    whole = run(y, A, prior, solver, stop="fixed", callback=lambda *a: 0, **options)
    assert whole.reason != found.reason and (found.evaluations < whole.evaluations).any()


def test_lbfgs_refuses_what_a_line_search_cannot_do(prior, scene):
    A, y = scene
    problem = build_problem(y, A, prior, stop="fixed")
    objective = Objective(fidelity(1.0))
    start, _ = starting_point(problem, objective, "random", 8)
    for space in (ZPlus(prior) & Sphere(("z+",)), Z() & Noise(standard=True)):
        assert space.bounded
        with pytest.raises(InputError, match="L-BFGS needs a space without bounds"):
            minimise_by_lbfgs(problem, space, objective, start, 3, Watch())


class Jumping(Z):
    """A space whose steps look at an image far from the one that would be returned."""

    def draws(self, t):
        return True

    def draw(self, variables, start, step):
        return {"z": variables["z"] + 3 * step.draw("far", variables["z"].shape[1:])}


def test_the_returned_code_is_judged_not_a_lucky_draw(prior, scene):
    A, y = scene
    problem = build_problem(y, A, prior, stop="fixed")
    objective = Objective(fidelity(1.0), Term("none", 1.0, lambda at: at.image.sum((1, 2, 3)) * 0))
    start, _ = starting_point(problem, objective, "random", 8)
    losses = []

    def judged(step, rows, loss, image):
        losses.append(loss)

    found = minimise(problem, Jumping(), objective, start, 25, Adam(0.1), Watch(callback=judged))
    square = (A.A(prior(z=found.code["z"])) - y).square().mean(1)
    torch.testing.assert_close(found.loss, square)
    assert judgements(25) == 4
    assert found.evaluations.tolist() == pytest.approx([25 + 4 / 3 + 1 / 3] * 3)
    assert not torch.isclose(found.loss, torch.stack(losses).min(0).values).any()


@pytest.mark.parametrize(
    ("name", "options", "sigma"),
    [
        ("sphinx", {"lr": 0.01, "full": True}, 0.1),
        ("sphinx", {"clip_noise": 0.1}, 0.25),
        ("projector", {"jitter": 0.3}, 0.1),
    ],
)
def test_a_method_that_draws_stops_by_what_it_returns(name, options, sigma, prior):
    """Never "discrepancy" with a criterion above 1; clipped noise does not prevent a stop."""
    A = Masking(prior.image_shape, torch.ones(1, 16, 16))
    truth = prior.sample(4, seed=3).clamp(0, 1)
    y = (A(truth) + 0.1 * normal([(i, "noise") for i in range(4)], (1, 16, 16), truth)).clamp(0, 1)
    found = gprior.solve(y, A, prior, name, steps=120, noise_std=sigma, perceptual=False, **options)
    for reason, criterion in zip(found.reason, found.criterion.tolist(), strict=True):
        assert reason != "discrepancy" or criterion <= 1
    residual = (A(found.x) - y).square().mean((1, 2, 3)).sqrt() / sigma
    torch.testing.assert_close(residual, found.criterion)
    assert "discrepancy" in found.reason


def test_one_road_to_the_generator():
    """No space overrides how a code becomes the prior's inputs."""

    def below(kind):
        return {kind, *(k for child in kind.__subclasses__() for k in below(child))}

    for kind in below(Space):
        if kind.__module__.startswith("gprior."):
            assert kind.decode is Space.decode, kind


# --- L-BRGM's start


def test_the_start_of_lbrgm_by_the_perceptual_term(prior):
    A = Downsampling(prior.image_shape, 2)
    y = A(prior.sample(4, seed=3))
    options = {"steps": 1, "init": "best-of:20", "stop": "fixed", "lr": 0.0, "lr_z": 0.0}
    by_data = gprior.solve(y, A, prior, "lbrgm", perceptual=True, **options)
    options["perceptual"] = True
    by_features = gprior.solve(y, A, prior, "lbrgm", start_by="perceptual", **options)
    assert (by_features.terms["perceptual"] <= by_data.terms["perceptual"]).all()
    assert (by_features.terms["perceptual"] < by_data.terms["perceptual"]).any()
    assert (by_features.terms["fidelity"] >= by_data.terms["fidelity"]).all()
    options["perceptual"] = False
    with pytest.raises(InputError, match="start_by='perceptual' needs a perceptual term"):
        gprior.solve(y, A, prior, "lbrgm", start_by="perceptual", **options)
    with pytest.raises(InputError, match="start_by must be 'data' or 'perceptual'"):
        gprior.solve(y, A, prior, "lbrgm", start_by="pixels")


# --- Classes


def test_a_class_vector_that_is_searched_moves(tiny_prior):
    """From a wrong class it reaches the neighbourhood of the right one, without options."""
    prior = tiny_prior(c_dim=3)
    A = PartialCirculant(prior.image_shape, m=0.9, seed=1)
    y = A(prior.sample(3, seed=5, label=1))
    soft = torch.tensor([0.6, 0.2, 0.2])
    options = {"label": soft, "population": 6, "steps": 150, "stop": "fixed"}
    moved = gprior.solve(y, A, prior, "adam", search_class=True, **options)
    held = gprior.solve(y, A, prior, "adam", search_class=False, **options)
    assert (moved.latents["c"] - soft).abs().max(1).values.min() > 0.1
    assert moved.loss.sum() < held.loss.sum()


# --- Results


@pytest.fixture
def restarted(prior, scene):
    A, y = scene
    options = {"restarts": 3, "seed": [3, 4, 5], "label": None}
    every = run(y, A, prior, "csgm", keep="all", **options)
    return every, run(y, A, prior, "csgm", **options)


def test_every_restart_is_kept(restarted, prior, scene, tmp_path):
    every, best = restarted
    assert every.x.shape == (3, 3, 1, 16, 16) and every.restarts == 3 and best.restarts is None
    assert every.criterion.shape == every.loss.shape == (3, 3)
    assert len(every.reason) == 3 and len(every.reason[0]) == 3
    picked = every.best()
    for name in ("x", "criterion", "loss", "history", "evaluations"):
        assert torch.equal(
            getattr(picked, name).nan_to_num(-1), getattr(best, name).nan_to_num(-1)
        ), name
    assert picked.seed == best.seed == [3, 4, 5] and picked.reason == best.reason
    torch.testing.assert_close(best.criterion, every.criterion.min(1).values)
    for r in range(3):  # restart r is what it is without the others
        alone = prior(**inputs_of({k: v[:, r] for k, v in every.latents.items()}))
        torch.testing.assert_close(alone, every.x[:, r])
    every.save(tmp_path / "every.safetensors")
    loaded = gprior.Result.load(tmp_path / "every.safetensors")
    assert torch.equal(loaded.x, every.x) and loaded.reason == every.reason
    assert torch.equal(loaded.best().x, best.x)
    A, y = scene
    with pytest.raises(InputError, match="keep must be 'best' or 'all'"):
        gprior.solve(y, A, prior, keep="none")


def test_results_are_taken_and_joined(restarted):
    for result in restarted:
        swapped = result.take([2, 0])
        again = gprior.Result.join([swapped, result.take(torch.tensor([1]))])
        assert again.seed == [5, 3, 4] and len(again) == 3
        assert torch.equal(again.x, result.x[[2, 0, 1]])
        for name, latent in result.latents.items():
            assert torch.equal(again.latents[name], latent[[2, 0, 1]])
        assert again.reason == [result.reason[i] for i in (2, 0, 1)]


def test_joined_histories_are_as_long_as_the_longest(prior, scene):
    A, y = scene
    short, long = (run(y[:1], A, prior, "csgm", steps=n) for n in (2, 4))
    with pytest.raises(InputError, match="results must have the same solver"):
        gprior.Result.join([short, long])
    short = replace(short, solver=long.solver)
    joined = gprior.Result.join([short, long])
    assert joined.history.shape == (2, 4) and joined.history[0, 2:].isnan().all()
    assert joined.seconds == pytest.approx(short.seconds + long.seconds)
    with pytest.raises(InputError, match="must have at least one"):
        gprior.Result.join([])


def test_results_compare_by_identity(restarted):
    every, best = restarted
    assert every == every and every != best and best in (every, best)


class Own(Solver):
    """A solver without a run."""


def test_a_solver_needs_a_run(prior, scene):
    A, y = scene
    with pytest.raises(NotImplementedError):
        gprior.solve(y, A, prior, Own())
