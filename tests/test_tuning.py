"""Fine-tuning: gradients, one generator for each image, stopping, files, and what is refused."""

from __future__ import annotations

import contextlib
import copy
import random
from dataclasses import replace

import pytest
import torch
from mutants import mutant
from safetensors.torch import save_file
from torch import nn

import gprior
from gprior import Result, TunedWeights
from gprior.operators import Downsampling, Masking, PartialCirculant
from gprior.priors import BigGAN, Generator, Tunable
from gprior.problem import build_problem
from gprior.search import inputs_of
from gprior.search.loop import descend, step_of
from gprior.solvers import TUNINGS, Tuning
from gprior.solvers.tuning import WeightsAndLatents, mean_square
from gprior.solving.stages import perceptual_term

CLOSE = {"rtol": 1e-8, "atol": 1e-8}
SHORT = {"steps": 4, "lr": 1e-3}


def conv_net():
    """Return a small generator with batch statistics."""
    torch.manual_seed(3)
    net = nn.Sequential(
        nn.Linear(6, 64),
        nn.Unflatten(1, (4, 4, 4)),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.ConvTranspose2d(4, 1, 4, 4),
        nn.Tanh(),
    ).double()
    net[2].running_mean += 0.1
    return Generator(net, 6)


def big():
    torch.manual_seed(0)
    small = {"z_dim": 8, "embed_dim": 4, "c_dim": 3}
    return BigGAN([16, 16, 8], [True, True], **small).double().freeze()


@pytest.fixture
def priors(tiny_prior):
    return {
        "stylegan2": lambda: tiny_prior(),
        "classes": lambda: tiny_prior(c_dim=2),
        "adapted": lambda: tiny_prior().adapt((3, 20, 20)),
        "biggan": big,
        "generator": conv_net,
    }


def problem_of(prior, n=3, A=None, noise=0.0, **options):
    """Return measurements of other images than those of the prior, A, and a solution."""
    A = Masking(prior.image_shape, "random", keep=0.9) if A is None else A
    truth = prior.sample(n, seed=3, label=1 if prior.c_dim else None)
    y = A(truth.flip(3) * 0.9 + 0.05)
    y = y + noise * torch.randn(y.shape, generator=torch.Generator().manual_seed(0)).to(y)
    options = {"steps": 3, "init": "random", **options}
    if prior.c_dim:
        options["label"] = 1
    return y, A, gprior.solve(y, A, prior, "csgm", **options)


@pytest.fixture(scope="module")
def found(tiny_prior):
    """A tiny prior, measurements, their operator, a solution and its tuned form."""
    prior = tiny_prior()
    y, A, result = problem_of(prior)
    return prior, y, A, result, gprior.tune(result, y, A, prior, **SHORT)


# --- The gradient, and the loss


@pytest.mark.parametrize("method", TUNINGS)
def test_the_gradient_is_that_of_finite_differences(method, tiny_prior):
    prior = tiny_prior()
    # Entries that are not fitted enter the perceptual distance as constants: here there are none.
    y, A, result = problem_of(prior, 2, Masking(prior.image_shape, torch.ones(16, 16)))
    method = replace(TUNINGS[method], penalty=100.0)
    problem = build_problem(y, A, prior, stop="fixed")
    assert perceptual_term(method, problem) is not None
    tunable = Tunable(prior)
    problem = replace(problem, prior=tunable, perceptual=perceptual_term(method, problem))
    space = WeightsAndLatents(tunable.used(inputs_of(result.latents)), ["z"])
    step = step_of(problem, 0, 0.0)
    numbers = torch.Generator().manual_seed(1)

    def random(like):
        return torch.randn(like.shape, generator=numbers, dtype=like.dtype)

    start = space.initial(prior, result.latents, step)
    at = {k: v + 0.01 * random(v) for k, v in start.items()}
    along = {k: random(v) for k, v in at.items()}

    def loss(t):
        moved = {k: (v + t * along[k]).requires_grad_() for k, v in at.items()}
        return descend(problem, space, method.objective(), moved, result.latents, step)[1:]

    _, grads = loss(0.0)
    slope = sum((grads[k] * along[k]).reshape(2, -1).sum(1) for k in at)
    h = 1e-6
    torch.testing.assert_close(slope, (loss(h)[0] - loss(-h)[0]) / (2 * h), rtol=1e-5, atol=1e-7)
    assert all(bool((grads[k] != 0).any()) for k in at)


def test_reported_values_are_those_of_the_weights_that_are_returned(found):
    prior, y, A, result, tuned = found
    for i in range(3):
        own = tuned.weights.generator(prior, i)
        latents = {k: v[i : i + 1] for k, v in tuned.latents.items()}
        torch.testing.assert_close(own(**inputs_of(latents)), tuned.generated[i : i + 1], **CLOSE)
    torch.testing.assert_close(sum(tuned.terms.values()), tuned.loss)
    differences = {f"weights.{k}": v for k, v in tuned.weights.full.items()}
    torch.testing.assert_close(tuned.terms["weights"], 1000 * mean_square(differences))
    torch.testing.assert_close(
        tuned.diagnostics["weight change"], mean_square(differences).sqrt(), **CLOSE
    )
    held = build_problem(y, A, prior, seed=tuned.seed)
    torch.testing.assert_close(
        tuned.criterion, held.criterion(held.measure(tuned.generated), tuned.loss), **CLOSE
    )
    assert bool((tuned.history[:, -1] < tuned.history[:, 0]).all())
    torch.testing.assert_close(tuned.evaluations, result.evaluations + SHORT["steps"] + 4 / 3)


# --- Priors


@pytest.mark.parametrize("kind", ["stylegan2", "classes", "adapted", "biggan", "generator"])
@pytest.mark.parametrize("method", TUNINGS)
def test_priors(kind, method, priors):
    prior = priors[kind]()
    y, A, result = problem_of(prior, 2)
    before, buffers = prior.digest(), {k: v.clone() for k, v in prior.named_buffers()}
    tuned = gprior.tune(result, y, A, prior, method, **SHORT)
    assert bool((tuned.history[:, -1] < tuned.history[:, 0]).all())
    assert bool((tuned.diagnostics["weight change"] > 0).any())
    prior._statistics.measured.clear()
    assert prior.digest() == before and not any(p.requires_grad for p in prior.parameters())
    for i in range(2):
        own = tuned.weights.generator(prior, i)
        image = own(**inputs_of({k: v[i : i + 1] for k, v in tuned.latents.items()}))
        torch.testing.assert_close(image, tuned.generated[i : i + 1], **CLOSE)
        assert all(torch.equal(own.get_buffer(k), buffers[k]) for k in buffers)
        assert not own.statistics  # those of the prior do not hold for other weights
        assert not own.training and not any(p.requires_grad for p in own.parameters())
    assert tuned.label == result.label
    assert {k for k in result.latents if not torch.equal(tuned.latents[k], result.latents[k])} == (
        set() if method == "pti" else {"z"}
    )


def test_codes_of_other_methods(tiny_prior):
    """Styles, noise maps, inner layers, an image transform, a phase."""
    prior = tiny_prior()
    methods = {
        "lbrgm": ({"steps": 2}, {"w"}),
        "projector": ({"steps": 2}, {"w", "noise.0"}),
        "ilo": ({"steps": (1, 1, 1, 1)}, {"state.2.0"}),
        "basincma": ({"steps": (1, 1, 1), "population": 3, "transform": True}, {"z"}),
    }
    for solver, (constants, moving) in methods.items():
        A = Masking(prior.image_shape, torch.ones(16, 16))
        y = A(prior.sample(1, seed=2)).flip(2)
        result = gprior.solve(y, A, prior, solver, **constants)
        tuned = gprior.tune(result, y, A, prior, stop="fixed", **SHORT)
        assert float(tuned.loss) < float(tuned.history[0, 0]), solver
        moved = {k for k in result.latents if not torch.equal(tuned.latents[k], result.latents[k])}
        assert moving <= moved and not moved & {"transform", "state.2.1"}, solver
    two = prior.adapt((2, 16, 16), phase=torch.zeros(16, 16).double(), phase_size=2)
    A = Masking(two.image_shape, torch.ones(16, 16))
    y = A(two.sample(1, seed=2)).flip(1)
    result = gprior.solve(y, A, two, steps=2)
    for method, same in (("pix2latent", False), ("pti", True)):
        tuned = gprior.tune(result, y, A, two, method, stop="fixed", **SHORT)
        assert torch.equal(tuned.latents["phase"], result.latents["phase"]) == same


# --- One generator for each image


def test_a_batch_equals_its_images_one_by_one(found):
    prior, y, A, result, tuned = found
    together = gprior.tune(result, y, A, prior, max_batch=3, **SHORT)
    order = [2, 0, 1]
    turned = gprior.tune(result.take(order), y[order], A, prior, **SHORT).take([1, 2, 0])
    alone = Result.join(
        [gprior.tune(result.take([i]), y[i : i + 1], A, prior, **SHORT) for i in range(3)]
    )
    for other in (together, turned, alone):
        torch.testing.assert_close(other.x, tuned.x, **CLOSE)
        torch.testing.assert_close(other.criterion, tuned.criterion, **CLOSE)
        assert other.reason == tuned.reason and len(other.weights) == 3
        for name, value in other.weights.tensors().items():
            torch.testing.assert_close(value, tuned.weights.tensors()[name], **CLOSE)


def test_solve_tunes_what_it_found(tiny_prior):
    prior = tiny_prior(c_dim=2)
    A = PartialCirculant(prior.image_shape, m=0.9)
    y = A(prior.sample(2, seed=3, label=1).flip(2))
    options = {"steps": 3, "restarts": 2, "seed": [4, 5]}
    tuning = Tuning(**SHORT)
    seen = []
    found = gprior.solve(
        y, A, prior, "auto", tune=tuning, callback=lambda *a: seen.append(a[1].tolist()), **options
    )
    assert seen == 3 * [[0, 1, 2, 3]] + 4 * [[0]] + 4 * [[2]]  # row // restarts is the image
    result = gprior.solve(y, A, prior, "auto", **options)
    tuned = gprior.tune(result, y, A, prior, tuning)
    for name in ("x", "generated", "criterion", "misfit", "prior_weight", "evaluations"):
        torch.testing.assert_close(getattr(found, name), getattr(tuned, name), **CLOSE)
    assert found.label == tuned.label and found.solver == tuned.solver
    assert found.solver["tune"]["lr"] == 1e-3 and found.correction == "auto"
    assert bool((found.misfit < result.misfit).all()) and not found.perceptual


def test_a_deepinv_model_tunes(tiny_prior):
    prior = tiny_prior()
    A = Masking(prior.image_shape, "random", keep=0.9)
    y = A(prior.sample(2, seed=3).flip(2))
    options = {"steps": 2, "tune": Tuning(**SHORT)}
    x = gprior.Reconstructor(prior, "csgm", **options)(y, A)
    torch.testing.assert_close(x, gprior.solve(y, A, prior, "csgm", **options).x, **CLOSE)
    with pytest.raises(gprior.InputError, match="tune must be None where trainable=True"):
        gprior.Reconstructor(prior, "csgm", trainable=True, **options)(y, A)


# --- The penalty, the stopping rules, the correction


def test_a_heavy_penalty_gives_back_the_image_of_the_prior(found):
    prior, y, A, result, _ = found
    data = {"stop": "fixed", "lr_latent": 0.0, **SHORT}
    first = gprior.tune(result, y, A, prior, **{**data, "steps": 1})
    changes, distances = [], []
    for penalty in (0.0, 1e4, 1e6, 1e12):
        tuned = gprior.tune(result, y, A, prior, penalty=penalty, **data)
        changes.append(tuned.diagnostics["weight change"])
        distances.append((tuned.generated - result.generated).abs().amax((1, 2, 3)))
        if penalty:  # J is not above that of the prior's image, so the change is bounded
            assert bool((changes[-1].square() <= first.loss / penalty).all())
    assert bool((changes[0] > 1e-3).all()) and bool((distances[0] > 1e-3).all())
    assert bool((changes[1] < changes[0]).all())
    assert bool((distances[-1] < 1e-6).all())


def test_held_out_entries_choose_the_step_and_are_never_fitted(found):
    prior, y, A, result, tuned = found
    assert tuned.stop == ["holdout"] * 3
    problem = build_problem(y, A, prior, seed=result.seed)
    noise = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y)
    other = gprior.tune(result, y + problem.held[0] * noise, A, prior, **SHORT)
    torch.testing.assert_close(other.history, tuned.history, rtol=0, atol=0)
    start = problem.criterion(problem.measure(result.generated), result.loss)
    assert bool((tuned.criterion <= start).all())
    # A step that predicts these entries worse than the solution is not kept.
    worse = y + problem.held[0] * 10 * (result.generated - tuned.generated)
    kept = gprior.tune(result, worse, A, prior, **SHORT)
    assert bool((kept.diagnostics["weight change"] == 0).all())
    torch.testing.assert_close(kept.generated, result.generated, **CLOSE)


def test_the_noise_level_ends_the_tuning(tiny_prior):
    prior = tiny_prior()
    y, A, result = problem_of(prior, 2, noise_std=[1e-6, 5.0], stop="discrepancy")
    tuned = gprior.tune(result, y, A, prior, noise_std=[1e-6, 5.0], **SHORT)
    assert tuned.stop == ["discrepancy"] * 2 and tuned.reason == ["steps", "discrepancy"]
    torch.testing.assert_close(tuned.generated[1], result.generated[1], **CLOSE)
    assert int(tuned.history[1].isfinite().sum()) == 1
    assert float(tuned.criterion[0]) < float(result.criterion[0])


def test_the_correction_follows_and_goes_by_the_trust_before(tiny_prior):
    prior = tiny_prior()
    y, A, result = problem_of(prior, 1)
    corrected = gprior.solve(y, A, prior, "csgm", steps=3, init="random", correction="auto")
    options = {"steps": 30, "lr": 3e-3, "penalty": 0.0}
    plain = gprior.tune(result, y, A, prior, **options)
    assert plain.correction is None and torch.equal(plain.x, plain.generated)
    tuned = gprior.tune(corrected, y, A, prior, **options)
    assert tuned.correction == "auto" and not torch.equal(tuned.x, tuned.generated)
    torch.testing.assert_close(tuned.generated, plain.generated, **CLOSE)
    trust = gprior.search.trust_in(build_problem(y, A, prior), result.generated)
    torch.testing.assert_close(tuned.diagnostics["trust"], trust)
    torch.testing.assert_close(tuned.prior_weight, corrected.prior_weight)
    assert float(tuned.misfit) < 0.7 * float(corrected.misfit)
    none = gprior.tune(corrected, y, A, prior, correction=None, **options)
    torch.testing.assert_close(none.x, plain.x, **CLOSE)


def test_a_callback_ends_the_tuning_and_progress_is_shown(found, capsys):
    prior, y, A, result, _ = found
    seen = []
    tuned = gprior.tune(
        result, y, A, prior, progress=True, callback=lambda *a: seen.append(a) or len(seen) < 2
    )
    assert tuned.reason == ["callback"] * 3 and [int(a[1]) for a in seen[:2]] == [0, 0]
    assert "step" in capsys.readouterr().err


def test_an_image_that_is_lost_keeps_its_last_good_weights(found):
    prior, y, A, result, _ = found
    with pytest.warns(RuntimeWarning, match="3 of 3 rows met a non-finite value"):
        tuned = gprior.tune(result, y, A, prior, steps=4, lr=1e200)
    assert bool(tuned.x.isfinite().all()) and tuned.reason == ["non-finite"] * 3
    torch.testing.assert_close(tuned.generated, result.generated, **CLOSE)


# --- Files


def test_weights_on_disk(found, tmp_path):
    prior, _, _, _, tuned = found
    tuned.weights.save(tmp_path / "w.safetensors")
    loaded = TunedWeights.load(tmp_path / "w.safetensors")
    assert loaded.prior == prior.digest() and len(loaded) == 3
    for i in range(3):
        assert loaded.of(i).keys() == tuned.weights.of(i).keys()
        for name, value in loaded.of(i).items():
            assert torch.equal(value, tuned.weights.of(i)[name])
    tuned.save(tmp_path / "r.safetensors")
    again = Result.load(tmp_path / "r.safetensors")
    assert torch.equal(again.x, tuned.x)
    assert again.facts()["tuned"] == prior.digest()
    assert all(torch.equal(v, tuned.weights.full[k]) for k, v in again.weights.full.items())
    part = again.take([2, 0]).weights
    assert torch.equal(part.of(1)["const"], tuned.weights.of(0)["const"])
    with pytest.raises(gprior.InputError, match=r"must end in \.safetensors"):
        tuned.weights.save(tmp_path / "w.pt")


def test_weights_of_low_rank(found, tmp_path):
    prior, _, _, _, tuned = found
    weights = tuned.weights
    for rank in (1, 3):
        low = weights.low_rank(rank)
        assert low.left and sum(v.numel() for v in low.tensors().values()) < sum(
            v.numel() for v in weights.full.values()
        )
        for name in low.left:
            found_matrix = low.of(1)[name].flatten(1)
            full = weights.of(1)[name].flatten(1)
            rest = torch.linalg.svdvals(full)[rank:]
            torch.testing.assert_close((found_matrix - full).norm(), rest.norm(), **CLOSE)
            assert torch.linalg.matrix_rank(found_matrix) <= rank
        low.save(tmp_path / "low.safetensors")
        loaded = TunedWeights.load(tmp_path / "low.safetensors")
        other = TunedWeights.join([loaded.take(torch.tensor([1])), loaded])
        assert len(other) == 4
        for name, value in other.of(0).items():
            assert torch.equal(value, low.of(1)[name])
    image = {k: v[:1] for k, v in tuned.latents.items()}
    errors = [
        (weights.low_rank(r).generator(prior)(**inputs_of(image)) - tuned.generated[:1]).norm()
        for r in (1, 4, 100)
    ]
    assert errors[0] > errors[1] > errors[2] and errors[2] < 1e-8
    with pytest.raises(gprior.InputError, match="rank must be an integer of at least 1"):
        weights.low_rank(0)


def test_another_prior_is_refused(found, tiny_prior):
    prior, y, A, result, tuned = found
    other = copy.deepcopy(prior)
    with torch.no_grad():
        other.const.add_(0.5)
    for wrong in (other, tiny_prior(c_dim=2), copy.deepcopy(prior).float()):
        with pytest.raises(gprior.InputError, match="prior must be the one that was tuned"):
            tuned.weights.generator(wrong)
    for wrong in (other, tiny_prior(c_dim=2), conv_net()):
        with pytest.raises(gprior.InputError, match="prior must be the one with which"):
            gprior.tune(result, y, A, wrong)
    for name in ("other", "const"):
        with pytest.raises(gprior.InputError, match="the prior has no weight"):
            TunedWeights(prior.digest(), {name: torch.zeros(1, 3)}).generator(prior)
    assert tuned.weights.generator(copy.deepcopy(prior), 2).digest() != prior.digest()
    with pytest.raises(gprior.InputError, match="image must be an integer from 0 to 2"):
        tuned.weights.generator(prior, 3)


def test_files_that_are_no_weights_are_refused(found, tmp_path):
    _, _, _, result, tuned = found
    path = tmp_path / "w.safetensors"
    tuned.weights.low_rank(1).save(path)
    data = path.read_bytes()
    for size in (0, 9, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:size])
        with pytest.raises(gprior.InputError, match="no whole tuned weights"):
            TunedWeights.load(path)
    rng = random.Random(0)
    for _ in range(200):
        path.write_bytes(mutant(data, rng))
        with contextlib.suppress(gprior.InputError):
            TunedWeights.load(path)
    result.save(path)
    with pytest.raises(gprior.InputError, match="its format is 'gprior-result-1'"):
        TunedWeights.load(path)
    with pytest.raises(gprior.InputError, match="it is a folder"):
        TunedWeights.load(tmp_path)
    with pytest.raises(FileNotFoundError):
        TunedWeights.load(tmp_path / "missing.safetensors")
    a, b = torch.ones(2, 3, 1), torch.ones(2, 1, 4)
    for tensors in (
        {"other.x": a},
        {"left.x": a},
        {"left.x": a, "right.y": b},
        {"left.x": a, "right.x": a},
        {"full.x": a, "full.y": a[:1]},
        {"full.x": torch.ones(())},
        {},
    ):
        metadata = {"format": "gprior-weights-1", "prior": "0"}
        save_file({k: v.clone() for k, v in tensors.items()}, path, metadata)
        with pytest.raises(gprior.InputError, match="no whole tuned weights"):
            TunedWeights.load(path)


def test_results_of_both_kinds_are_not_joined(found):
    _, _, _, result, tuned = found
    plain = replace(tuned, weights=None)
    with pytest.raises(gprior.InputError, match="must all be tuned"):
        Result.join([plain, tuned])
    with pytest.raises(gprior.InputError, match="the same solver"):
        Result.join([result, tuned])
    low = tuned.weights.low_rank(1)
    with pytest.raises(gprior.InputError, match="of one prior"):
        TunedWeights.join([low, tuned.weights])
    with pytest.raises(gprior.InputError, match="of one prior"):
        TunedWeights.join([low, replace(low, prior="0")])


# --- Bad input


def test_bad_input(found):
    prior, y, A, result, tuned = found
    bad = {
        "tuning must be one of": {"method": "pti2"},
        "tuning has no constant .'stepz'": {"stepz": 3},
        "penalty must be a finite number of at least 0": {"penalty": -1.0},
        "steps must be an integer of at least 1": {"steps": 0},
        "correction must be one of": {"correction": "none"},
        "stop must be one of": {"stop": "never"},
        "perceptual": {"perceptual": "vgg19"},
    }
    for message, options in bad.items():
        with pytest.raises(gprior.InputError, match=message):
            gprior.tune(result, y, A, prior, **options)
    with pytest.raises(gprior.InputError, match="init of a tuning must be 'latents'"):
        Tuning(init="mean")
    with pytest.raises(gprior.InputError, match="tuned already"):
        gprior.tune(tuned, y, A, prior)
    with pytest.raises(TypeError, match=r"result must be a gprior\.Result, got Tensor"):
        gprior.tune(y, y, A, prior)
    with pytest.raises(gprior.InputError, match="y must have the 3 images of the result"):
        gprior.tune(result, y[:2], A, prior)
    every = gprior.solve(y, A, prior, "csgm", steps=1, restarts=2, keep="all", init="random")
    with pytest.raises(gprior.InputError, match=r"pass result\.best\(\)"):
        gprior.tune(every, y, A, prior)
    with pytest.raises(gprior.InputError, match="tune needs keep='best'"):
        gprior.solve(y, A, prior, steps=1, restarts=2, keep="all", tune="pti")
    with pytest.raises(gprior.InputError, match="tuning must be one of"):
        gprior.solve(y, A, prior, steps=1, tune=True)
    with pytest.raises(gprior.InputError, match=r"call gprior\.tune"):
        gprior.solve(y, A, prior, Tuning())


@pytest.mark.filterwarnings("ignore:.torch.jit.script:FutureWarning")  # torch's own
def test_priors_whose_weights_cannot_move():
    matrix = torch.randn(4, 256, generator=torch.Generator().manual_seed(0)).double()
    function = Generator(lambda z: (z @ matrix).view(-1, 1, 16, 16), 4, dtype=torch.float64)
    net = nn.Sequential(nn.Linear(4, 256), nn.Unflatten(1, (1, 16, 16))).double()
    scripted = Generator(torch.jit.script(net), 4)
    for prior, message in ((function, "has no weights"), (scripted, "TorchScript")):
        A = Downsampling(prior.image_shape, 2)
        y = A(prior.sample(1, seed=1))
        result = gprior.solve(y, A, prior, "csgm", steps=1)
        with pytest.raises(gprior.InputError, match=message):
            gprior.tune(result, y, A, prior, steps=1)
