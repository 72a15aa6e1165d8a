"""Encoders: the network, its file, its training and the searches that start from it."""

import copy
import json
import math
import re
import signal

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

import gprior
from gprior import training
from gprior.checkpoints import save_prior
from gprior.cli import main
from gprior.commands.train_encoder import USUAL, Rough
from gprior.operators import Masking
from gprior.priors import Encoder, EncoderNetwork, Generator, generator_inputs, latent_sizes
from gprior.training import EncoderSettings, EncoderTrainer

DOUBLE = torch.float64


def encoder_of(prior, space="w", rounds=1, seed=0):
    """Return an encoder with random weights, whose answers are large enough to be seen."""
    network = EncoderNetwork(**latent_sizes(prior, space), space=space, width=4, hidden=8)
    network = network.draw(seed).requires_grad_(False)
    network.last.weight *= 10
    network.first.fill_(0.5)
    return Encoder(network, prior, rounds, {"note": "test"})


@pytest.fixture(autouse=True)
def few_samples(monkeypatch):
    """A training that draws few samples at a time."""
    monkeypatch.setattr(training.encoder, "POOL", 64)
    monkeypatch.setattr(training.encoder, "SLOPES", 32)


@pytest.fixture
def prior(tiny_prior):
    return tiny_prior(c_dim=3)


@pytest.fixture
def images(prior):
    return prior.sample(4)


# --- The network


@pytest.mark.parametrize("rounds", [1, 3])
@pytest.mark.parametrize("space", ["z", "w", "w+"])
def test_a_row_does_not_depend_on_its_batch(space, rounds, prior, images):
    encoder = encoder_of(prior, space, rounds)
    whole = encoder(images)
    assert set(whole) == ({"z", "c"} if space == "z" else {"z", "c", "w"})
    for i in range(4):
        for name, value in encoder(images[i : i + 1]).items():
            assert (value - whole[name][i : i + 1]).abs().max() < 1e-10
    assert all((value[0] - value[1]).abs().max() > 1e-6 for k, value in whole.items() if k != "c")


def test_the_spaces(prior, images):
    assert (encoder_of(prior, "w")(images)["w"].diff(dim=1) == 0).all()
    assert (encoder_of(prior, "w+")(images)["w"].diff(dim=1).abs() > 1e-6).any()
    with pytest.raises(gprior.InputError, match="space must be one of"):
        encoder_of(prior, "v")
    module = torch.nn.Sequential(torch.nn.Linear(8, 64), torch.nn.Unflatten(1, (1, 8, 8))).double()
    plain = Generator(module, 8, range="[0, 1]")
    with pytest.raises(gprior.InputError, match="needs a prior with styles"):
        encoder_of(plain)
    assert set(encoder_of(plain, "z", rounds=2)(torch.rand(2, 1, 8, 8, dtype=DOUBLE))) == {"z"}


def test_rounds_are_those_of_restyle(prior, images):
    """The second round sees the image of the first, and adds to its latents."""
    encoder = encoder_of(prior, "w+", rounds=2)
    net = encoder.network
    u = net(images, net.first.expand_as(images), images.new_zeros(4, net.size))
    u = net(images, prior(ws=net.split(u)[2]), u)
    torch.testing.assert_close(encoder(images)["w"], net.split(u)[2])
    torch.testing.assert_close(encoder(images)["z"], net.split(u)[0])


def test_a_known_class_replaces_the_predicted_one(prior, images):
    c = prior.classes(2, 4)
    found = encoder_of(prior, "z", rounds=2)(images, c)
    assert torch.equal(found["c"], c)
    guessed = encoder_of(prior, "z", rounds=2)(images)["c"]
    assert (guessed.sum(1) == 1).all() and ((guessed == 0) | (guessed == 1)).all()


def test_images_of_an_adapted_prior_are_those_of_its_core(prior):
    adapted = prior.adapt((1, 12, 16))
    x = adapted.sample(2)
    found, expected = encoder_of(adapted)(x), encoder_of(prior)(adapted.restore(x))
    assert all(torch.equal(found[k], expected[k]) for k in expected)


def test_the_usual_state_of_torch_is_left_alone(prior):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first = encoder_of(prior).network.state_dict()
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(v, first[k]) for k, v in encoder_of(prior).network.state_dict().items())


# --- The file


def test_a_file_is_read_as_it_was_written(prior, images, tmp_path):
    encoder = encoder_of(prior, rounds=2)
    encoder.save(tmp_path / "e.safetensors")
    again = gprior.load_encoder(prior, tmp_path / "e.safetensors")
    assert again.rounds == 2 and again.record == {"note": "test"}
    expected = encoder(images)
    assert all(torch.equal(v, expected[k]) for k, v in again(images).items())
    once = Encoder.load(tmp_path / "e.safetensors", prior, rounds=1)
    assert once.rounds == 1 and once.evaluations == 0 and again.evaluations == 1 / 3
    single = copy.deepcopy(prior).float()  # of which the weights in float32 are the same
    found = Encoder.load(tmp_path / "e.safetensors", single)(images.float())
    assert found["z"].dtype == torch.float32
    torch.testing.assert_close(found["z"].double(), expected["z"], rtol=1e-3, atol=1e-4)


def test_other_files_are_refused(prior, tiny_prior, tmp_path):
    path = tmp_path / "e.safetensors"
    encoder_of(prior).save(path)
    changed = copy.deepcopy(prior).unfreeze()
    with torch.no_grad():
        next(changed.parameters()).mul_(1.1)
    for other in (changed, tiny_prior(resolution=32), tiny_prior()):
        with pytest.raises(gprior.InputError, match="is the encoder of another prior"):
            gprior.load_encoder(other, path)
    with pytest.raises(FileNotFoundError):
        gprior.load_encoder(prior, tmp_path / "none.safetensors")
    with pytest.raises(gprior.InputError, match="rounds must be"):
        gprior.load_encoder(prior, path, rounds=0)
    with pytest.raises(gprior.InputError, match=r"must end in \.safetensors"):
        encoder_of(prior).save(tmp_path / "e.pt")
    (tmp_path / "cut.safetensors").write_bytes(path.read_bytes()[:-9])
    with pytest.raises(gprior.InputError, match="has no whole encoder"):
        gprior.load_encoder(prior, tmp_path / "cut.safetensors")
    save_file({"a": torch.zeros(1)}, tmp_path / "b.safetensors", {"format": "gprior-1"})
    with pytest.raises(gprior.InputError, match="its format is 'gprior-1'"):
        gprior.load_encoder(prior, tmp_path / "b.safetensors")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 10**9}, "do not fit"),
        ({"width": -1}, "do not fit"),
        ({"depth": 3}, "unexpected keyword"),
        ({"space": "v"}, "space must be one of"),
    ],
)
def test_a_false_architecture_is_refused(change, message, prior, tmp_path):
    """Also one that memory is too small for."""
    path = tmp_path / "e.safetensors"
    encoder_of(prior).save(path)
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        meta = json.loads(file.metadata()["gprior"])
    meta["network"] |= change
    save_file(load_file(path), path, {"format": "gprior-encoder-1", "gprior": json.dumps(meta)})
    with pytest.raises(gprior.InputError, match=message):
        gprior.load_encoder(prior, path)


# --- The start of a search


@pytest.fixture
def scene(prior, images):
    A = Masking(prior.image_shape, "half")
    return A, A(images)


@pytest.mark.parametrize("solver", ["csgm", "pnorm"])
@pytest.mark.parametrize("label", [None, 1])
def test_a_search_starts_where_the_encoder_says(solver, label, prior, scene, tmp_path):
    A, y = scene
    encoder = encoder_of(prior, rounds=2)
    encoder.save(tmp_path / "e.safetensors")
    c = None if label is None else prior.classes(label, 4)
    latents = encoder(A.A_dagger(y), c)
    options = {"label": label, "steps": 1, "lr": 0.0, "stop": "fixed", "perceptual": False}
    found = gprior.solve(y, A, prior, solver, init=tmp_path / "e.safetensors", **options)
    if solver == "csgm":
        latents.pop("w")
    torch.testing.assert_close(found.x, prior(**generator_inputs(latents)))
    assert found.solver["init"] == str(tmp_path / "e.safetensors")
    assert found.label == latents["c"].argmax(1).tolist()
    same = gprior.solve(y, A, prior, solver, init=encoder, **options)
    assert torch.equal(same.x, found.x) and torch.equal(same.evaluations, found.evaluations)
    given = gprior.solve(y, A, prior, solver, init=encoder(A.A_dagger(y), c), **options)
    assert torch.equal(given.x, found.x)
    assert ((found.evaluations - given.evaluations) - 1 / 3).abs().max() < 1e-12


def test_the_rounds_count_in_a_budget(prior, scene):
    A, y = scene
    encoder = encoder_of(prior, rounds=3)
    found = gprior.solve(y, A, prior, "csgm", init=encoder, budget=6, restarts=2, stop="fixed")
    assert (found.evaluations <= 6).all() and (found.evaluations > 4).all()
    with pytest.raises(gprior.InputError, match=r"budget must be at least 2\.0 .*Encoder\(space"):
        gprior.solve(y, A, prior, "csgm", init=encoder, budget=1.9, stop="fixed")


def test_a_population_has_its_centre_at_the_encoder(prior, scene):
    A, y = scene
    encoder = encoder_of(prior, "z")
    options = {"steps": (1, 0, 0), "population": 400, "stop": "fixed", "perceptual": False}
    seen = []

    class Seen(Encoder):
        def __call__(self, x, c=None):
            seen.append(super().__call__(x, c))
            return seen[-1]

    from gprior.solvers import population_base

    starts = []
    real = population_base.CSA

    class Recorded(real):
        def __init__(self, centre, sigma, *args, **kwargs):
            starts.append((centre, sigma))
            super().__init__(centre, sigma, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(population_base, "CSA", Recorded)
        own = Seen(encoder.network, prior, 1)
        gprior.solve(y, A, prior, "basincma", init=own, **options)
    ((centre, sigma),) = starts
    assert torch.equal(centre, seen[0]["z"]) and math.isclose(sigma**2, 0.5)


def test_a_prior_without_an_encoder_says_so(prior, scene):
    A, y = scene
    with pytest.raises(gprior.InputError, match=r"no encoder of its own.*gprior train-encoder"):
        gprior.solve(y, A, prior, init="encoder", steps=1)
    with pytest.raises(gprior.InputError, match="run the encoder on the first images"):
        gprior.editing.discover(y[None], A, prior, init="encoder", label=0, steps=1)


def test_phantom_64_ships_with_an_encoder(tmp_path):
    """It is small, and starts much nearer than a mean style does, with one round and with all."""
    prior = gprior.load_prior("phantom-64")
    x = prior.sample(8, seed=99)
    encoder = gprior.load_encoder(prior)
    assert sum(v.numel() for v in encoder.network.state_dict().values()) * 4 < 3_000_000
    w = prior.mean_style(encoder(x)["c"])[:, None].expand(-1, prior.num_ws, -1)
    error = (prior(ws=w) - x).square().mean()
    for rounds in (1, 3):
        latents = gprior.load_encoder(prior, rounds=rounds)(x)
        for inputs in (generator_inputs(latents), {"z": latents["z"], "c": latents["c"]}):
            assert (prior(**inputs) - x).square().mean() < 0.7 * error
    A = Masking(prior.image_shape, "half")
    found = gprior.solve(A(x[:1]), A, prior, init="encoder", steps=2)
    assert found.solver["init"] == "encoder"


# --- The training


@pytest.fixture(scope="module")
def checkpoint(tiny_prior, tmp_path_factory):
    path = tmp_path_factory.mktemp("prior") / "tiny.safetensors"
    save_prior(tiny_prior(c_dim=3, dtype=torch.float32), path)
    return path


def command(prior, out, *words, steps=3):
    words = [prior, "-o", out, "--steps", steps, "--batch", 2, "--every", 2, *words]
    return CliRunner().invoke(main, ["train-encoder", *map(str, words), "--device", "cpu"])


def test_the_command(checkpoint, tmp_path):
    out = tmp_path / "e.safetensors"
    result = command(checkpoint, out, "-A", "half-mask", "-A", "circulant:0.5", "--space", "w+")
    assert result.exit_code == 0, result.output
    assert {p.name for p in tmp_path.iterdir()} == {
        "e.safetensors", "e.checkpoint.pt", "e.curve.json"
    }  # fmt: skip
    assert [p["step"] for p in json.loads((tmp_path / "e.curve.json").read_text())] == [2, 3]
    prior = gprior.load_prior(checkpoint)
    encoder = gprior.load_encoder(prior, out)
    error = encoder.record["error"]
    assert error[encoder.rounds - 1] == min(error)
    assert encoder.network.config["space"] == "w+"
    assert encoder.record["operators"] == ["half-mask", "circulant:0.5"]
    assert encoder.record["settings"]["steps"] == 3 and len(encoder.record["error"]) == 3
    again = command(checkpoint, out)
    assert again.exit_code == 2 and "add --resume" in again.output
    twin = command(checkpoint, tmp_path / "twin.safetensors", "-A", "half-mask", "-A",
                   "circulant:0.5", "--space", "w+")  # fmt: skip
    assert twin.exit_code == 0
    first, second = load_file(out), load_file(tmp_path / "twin.safetensors")
    assert all(torch.equal(first[k], second[k]) for k in first)


def test_resumed_is_as_uninterrupted(checkpoint, tmp_path, monkeypatch):
    words = ("-A", "half-mask", "-A", "mask:random=0.5")
    whole = tmp_path / "whole.safetensors"
    assert command(checkpoint, whole, *words).exit_code == 0
    out, step = tmp_path / "resumed.safetensors", EncoderTrainer._step

    def interrupt(self):
        values = step(self)
        signal.raise_signal(signal.SIGINT)
        return values

    with monkeypatch.context() as patch:
        patch.setattr(EncoderTrainer, "_step", interrupt)
        result = command(checkpoint, out, *words)
    assert result.exit_code == 2 and "checkpoint saved" in result.output
    assert "gprior train-encoder" in result.output and not out.exists()
    assert command(checkpoint, out, *words, "--resume").exit_code == 0
    first, second = load_file(whole), load_file(out)
    assert all(torch.equal(first[k], second[k]) for k in first)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--resume",), "no .* to resume from"),
        (("--space", "v"), "space must be one of"),
        (("--steps", "0"), "steps must be"),
        (("--noise", "-1"), "noise must be"),
        (("-A", "blurring:2"), "operator must be one of"),
        (("-A", "mask:half,side=up"), "side must be"),
    ],
)
def test_wrong_options_are_refused(words, message, checkpoint, tmp_path):
    result = command(checkpoint, tmp_path / "e.safetensors", *words)
    assert result.exit_code == 2
    assert re.search(message, result.output), result.output
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("space", ["z", "w", "w+"])
def test_training_learns(space, tiny_prior):
    """The errors of a tiny prior's latents and images fall, and every weight takes part."""
    prior = tiny_prior(c_dim=3, dtype=torch.float32)
    settings = EncoderSettings(steps=24, batch=8, space=space, width=8, hidden=32, lr=0.003)
    trainer = EncoderTrainer(prior, [lambda x, seed: x], settings)
    before = copy.deepcopy(trainer.network.state_dict())
    seen = []
    trainer.train(seen.append, every=24)
    first, last = (sum(sum(values.values()) for values in part) for part in (seen[:8], seen[-8:]))
    assert last < 0.9 * first
    after = trainer.network.state_dict()
    fixed = {"first", "mean", "spread"}
    assert all(torch.equal(before[k], after[k]) == (k in fixed) for k in after)
    assert trainer.finish().record["error"] == trainer.curve[-1]["error"]


@pytest.mark.parametrize("text", USUAL)
def test_rough_images_are_those_of_solve(text, tiny_prior):
    prior = tiny_prior(resolution=16)
    x = prior.sample(2)
    rough = Rough(text, prior, 0.0)
    found = rough(x, 4)
    assert found.shape == x.shape and torch.equal(found, rough(x, 4))
    if text == "denoise":
        torch.testing.assert_close(found, x)
    noisy = Rough(text, prior, 0.5)(x, 4)
    assert (noisy - found).abs().max() > 1e-3
    if text == "half-mask":
        assert (found == 0).float().mean() == 0.5
        assert (rough(x, 5) == 0).float().mean() > 0.5  # some entries are lost
