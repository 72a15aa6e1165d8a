"""Everything on a GPU: on an emulated one everywhere, and on a real one where there is one.

Each row compares with the answer of the CPU in float64. See `accelerator` for the emulation.
"""

from __future__ import annotations

import contextlib
import copy
import warnings
from dataclasses import replace

import accelerator
import deepinv
import numpy as np
import pytest
import torch
from scipy import sparse
from scipy.sparse.linalg import aslinearoperator
from torch import nn

import gprior
from gprior.cli import main
from gprior.editing import class_direction, directions, discover, edit, interpolate
from gprior.operators import Downsampling, Masking, PartialCirculant
from gprior.priors import BigGAN, Generator
from gprior.solvers import SOLVERS, TUNINGS
from gprior.training import Settings, Trainer, phantom_set
from gprior.training.augment import NAMES, draw_changes

CLOSE = {"rtol": 1e-7, "atol": 1e-7}
STEPS = {"i2s++": (2, 1), "ilo": (1, 1, 1, 1), "robust": (1, 1, 1), "cma+adam": (2, 1)}
STEPS |= {"basincma": (2, 1, 1)}
EMULATED = pytest.param(accelerator.emulated, id="emulated")
REAL = pytest.param(
    contextlib.nullcontext,
    id="cuda",
    marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA"),
)


@pytest.fixture(params=[EMULATED, REAL], autouse=True)
def _device(request):
    with request.param():
        yield


def there(value):
    """Return a copy of a module or tensor on the device."""
    return copy.deepcopy(value).to("cuda")


def constants(name, steps=2):
    """Return the options of a short run."""
    small = {"population": 3} if hasattr(SOLVERS[name], "population") else {}
    return {"steps": STEPS.get(name, steps), **small}


def agree(expected, found):
    """Compare a result on the device with that of the CPU."""
    assert found.x.device.type == "cuda"
    assert (found.reason, found.label, found.stop) == (
        expected.reason,
        expected.label,
        expected.stop,
    )
    for name in ("x", "loss", "criterion", "history", "evaluations"):
        a, b = getattr(expected, name), getattr(found, name).cpu()
        torch.testing.assert_close(b, a, equal_nan=True, **CLOSE)
    for name, value in expected.latents.items():
        torch.testing.assert_close(found.latents[name].cpu(), value, **CLOSE)


def check(prior, A, y, solver=None, there_A=None, **options):
    """Solve on both devices; options that are pairs hold one value for each."""
    expected = gprior.solve(y, A, prior, solver, **options)
    found = gprior.solve(
        y, there(A) if there_A is None else there_A, there(prior), solver, **options
    )
    agree(expected, found)
    return expected, found


@pytest.fixture
def prior(tiny_prior):
    return tiny_prior()


def masks(n):
    """Return one mask for each image."""
    mask = torch.ones(n, 1, 16, 16)
    for i in range(n):
        mask[i, :, :, 4 * i : 4 * i + 6] = 0
    return mask


# --- Methods


@pytest.mark.parametrize("name", SOLVERS)
def test_methods(name, tiny_prior):
    """With classes, one mask per image and two restarts."""
    prior = tiny_prior(c_dim=2)
    A = Masking(prior.image_shape, masks(2))
    y = A(prior.sample(2, seed=3, label=1))
    check(prior, A, y, name, label=[0, 1], restarts=2, init="random", **constants(name))


@pytest.mark.parametrize("name", ["basincma", "cma", "csgm", "ilo"])
def test_other_generators(name):
    torch.manual_seed(0)
    small = {"z_dim": 8, "embed_dim": 4, "c_dim": 3}
    big = BigGAN([16, 16, 8], [True, True], **small).double().freeze()
    layers = [nn.Linear(6, 32), nn.Tanh(), nn.Linear(32, 768), nn.Unflatten(1, (3, 16, 16))]
    plain = Generator(nn.Sequential(*layers).double(), 6)
    A = PartialCirculant(big.image_shape, m=0.5)
    for prior, label in ((big, None), (plain, None)):
        y = A(prior.sample(2, seed=1))
        check(prior, A, y, name, label=label, init="random", stop="fixed", **constants(name))


def test_a_method_of_a_module_moves_with_its_prior():
    class Decoder(nn.Linear):
        def decode(self, z):
            return self(z).sigmoid().view(-1, 1, 16, 16)

    prior = Generator(Decoder(4, 256).double().decode, 4, range="[0, 1]")
    A = Masking(prior.image_shape, "half")
    check(prior, A, A(prior.sample(2)), "csgm", steps=2)
    moved = there(prior)
    assert moved.sample(1).device.type == "cuda" == moved.draw([(0, "z")]).device.type


# --- Operators

MATRIX = torch.randn(120, 256, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
KERNEL = torch.tensor([[0.1, 0.2, 0.0], [0.1, 0.2, 0.1], [0.0, 0.1, 0.2]])
OWN = {
    "random mask": lambda: Masking((1, 16, 16), "random", keep=0.9),
    "bicubic": lambda: Downsampling((1, 16, 16), 2),
    "not separable": lambda: Downsampling((1, 16, 16), 2, KERNEL),
    "unimodular": lambda: PartialCirculant((1, 16, 16), 0.9),
    "gaussian": lambda: PartialCirculant((1, 16, 16), 0.9, "gaussian"),
}
DEEPINV = {
    "inpainting": lambda: deepinv.physics.Inpainting((1, 16, 16), mask=0.8),
    "blur": lambda: deepinv.physics.Blur(KERNEL[None, None], padding="circular"),
    "blur by FFT": lambda: deepinv.physics.BlurFFT((1, 16, 16), KERNEL[None, None]),
    "tomography": lambda: deepinv.physics.Tomography(20, 16, normalize=True, device="cpu"),
    "compressed sensing": lambda: deepinv.physics.CompressedSensing(230, (1, 16, 16)),
    "stack": lambda: deepinv.physics.StackedLinearPhysics([OWN["bicubic"](), OWN["random mask"]()]),
}


def double(physics):
    """Cast a physics to float64, complex buffers to complex numbers."""
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        place = gprior.priors.placed_as(torch.zeros((), dtype=torch.float64))
        return gprior.priors.view_of(physics, place)


def measured(A, x):
    """Return noiseless measurements, and what `to` moves of them."""
    y = A.A(x)
    return y if isinstance(y, torch.Tensor) else deepinv.utils.TensorList(list(y))


@pytest.mark.parametrize("left", [False, True], ids=["moved", "left on the CPU"])
@pytest.mark.parametrize("kind", [*OWN, *DEEPINV])
@pytest.mark.usefixtures("deepinv_fft")
def test_physics(kind, left, prior):
    """An operator that was left on the CPU is moved for the call; what it measured is too."""
    A = double({**OWN, **DEEPINV}[kind]())
    y = measured(A, prior.sample(2, seed=1))
    before = {k: (v.device, v.clone()) for k, v in A.state_dict().items()}
    check(prior, A, y, "brgm", there_A=A if left else None, steps=2, init="random")
    for k, v in A.state_dict().items():
        assert v.device == before[k][0] and torch.equal(v, before[k][1])


class Learned(nn.Module):
    """A forward model with batch statistics, in train mode."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)

    def forward(self, x):
        return self.norm(self.conv(x))


def test_learned_operators(prior):
    torch.manual_seed(0)
    A = Learned().double()
    y = copy.deepcopy(A).eval()(prior.sample(2, seed=1)).detach()
    for left in (True, False):
        check(prior, A, y, "csgm", there_A=A if left else None, steps=2, init="random")
    assert A.training and int(A.norm.num_batches_tracked) == 0


MATRICES = {
    "tensor": MATRIX,
    "array": MATRIX.numpy(),
    "sparse": sparse.csr_matrix(MATRIX.numpy()),
    "linear operator": aslinearoperator(MATRIX.numpy()),
    "callable": lambda x: x.flatten(1) @ MATRIX.to(x).t(),
}


@pytest.mark.parametrize("kind", MATRICES)
def test_matrices_and_functions(kind, prior):
    A, y = MATRICES[kind], prior.sample(2, seed=1).flatten(1) @ MATRIX.t()
    encoder = {"init": lambda x: x.flatten(1)[:, :8]} if kind != "callable" else {"init": "random"}
    check(prior, A, y, "csgm", there_A=A, steps=2, **encoder)


def test_a_function_on_another_device_is_refused(prior):
    A = lambda x: x.cpu().flatten(1)  # noqa: E731
    with pytest.raises(gprior.InputError, match="A must return its measurements on cuda:0"):
        gprior.solve(torch.zeros(1, 256), A, there(prior), steps=2)


def test_complex_images(prior):
    phase = torch.linspace(0, 1, 256, dtype=torch.float64).view(16, 16)
    two = prior.adapt((2, 16, 16), phase=phase)
    A = double(deepinv.physics.MRI(mask=torch.ones(1, 2, 16, 16), img_size=(1, 2, 16, 16)))
    check(two, A, A.A(two.sample(2, seed=1)), "lbrgm", steps=2, init="random", stop="holdout")
    assert there(prior).adapt((2, 16, 16), phase=phase).sample(1).device.type == "cuda"


@pytest.mark.parametrize("shape", [(3, 16, 16), (1, 20, 24)])
def test_adapted_priors(shape, prior):
    other = prior.adapt(shape)
    A = Masking(shape, "half")
    check(other, A, A(other.sample(2, seed=1)), steps=2, init="random")


# --- Options

RULES = {
    "fixed": {"stop": "fixed"},
    "holdout": {"stop": "holdout"},
    "known noise": {"noise_std": [0.5, 0.02]},
    "a tensor of noise": {"noise_std": torch.tensor([0.5, 0.02])},
    "restarts in parts": {"restarts": 3, "max_batch": 2, "seed": [4, 5]},
    "budget": {"budget": 9},
    "L-BFGS": {"solver": "latent", "optimizer": "lbfgs", "steps": 3},
    "soft label": {"label": torch.tensor([[0.5, 0.5], [0.1, 0.9]])},
    "classifier": {"label": lambda x: torch.tensor([[0.5, 0.5], [0.1, 0.9]])},
    "classes": {"label": None, "init": "best-of:4"},
    "mean": {"init": "mean"},
    "layers": {"init": "random-layers"},
    "realism": {"solver": "csgm", "realism": 1.0, "absolute": 2.0},
    "latents": {"init": torch.ones(2, 8), "label": 0},
    "dictionary": {"init": {"w": torch.ones(1, 6, 16).numpy()}, "label": 0},
    "encoder": {"init": lambda x: x.flatten(1)[:, :8], "label": 0},
    "bottleneck": {"solver": "sphinx", "bottleneck": 3, "full": True},
    "mapping network": {"solver": "sphinx", "head": "untrained"},
    "transform": {"solver": "basincma", "transform": True, "steps": (1, 1, 1), "population": 3},
    "foreground": {"solver": "basincma", "foreground": masks(2), "steps": (1, 1, 1)},
}


@pytest.mark.parametrize("rule", RULES)
def test_options(rule, tiny_prior):
    prior = tiny_prior(c_dim=2)
    A = Masking(prior.image_shape, "random", keep=0.95)
    A.noise_model = deepinv.physics.GaussianNoise(0.01)
    y = A(prior.sample(2, seed=3, label=1))
    options = {"solver": "lbrgm", "init": "random", "label": [0, 1], **RULES[rule]}
    options |= {} if "budget" in options or "steps" in options else {"steps": 3}
    check(prior, A, y, **options)


def test_the_search_in_range(prior, monkeypatch):
    """One image is found by Gauss-Newton steps, and the other one takes the steps that are left."""
    monkeypatch.setattr("gprior.solvers.in_range.TRUSTED", 0.03)
    A = PartialCirculant(prior.image_shape, m=100)
    x, seen = prior.sample(1, seed=7), []
    y = A(torch.cat([x, x.flip(2)]))
    options = {"steps": (40, 40), "stop": "fixed", "callback": lambda *a: seen.append(a)}
    _, found = check(prior, A, y, **options)
    assert found.history.isfinite().sum(1).tolist()[0] == 40 and len(seen) > 100


def test_callbacks_and_samples(prior):
    A, seen = there(Masking(prior.image_shape, "half")), []
    y = A(there(prior).sample(2, seed=1))
    gprior.solve(y, A, there(prior), steps=2, callback=lambda *a: seen.append(a), init="random")
    assert all(a[3].device.type == "cuda" for a in seen) and len(seen) == 2
    expected = Masking(prior.image_shape, "half")(prior.sample(2, seed=1))
    torch.testing.assert_close(y.cpu(), expected)


@pytest.mark.parametrize("kind", OWN)
def test_operators_alone(kind, prior):
    """Measuring, its transpose and pseudo-inverse, noise, and a mask that is replaced."""
    A, x = OWN[kind](), prior.sample(2, seed=1).float()
    B, y = there(A), A.A(x)
    torch.testing.assert_close(B.A(x.to("cuda")).cpu(), y)
    for name in ("A_adjoint", "A_dagger"):
        found = getattr(B, name)(y.to("cuda"))
        torch.testing.assert_close(found.cpu(), getattr(A, name)(y), rtol=1e-3, atol=1e-3)
    assert B(x.to("cuda"), sigma=0.1).device.type == "cuda"
    if kind == "random mask":
        B.update_parameters(mask=masks(2).to("cuda"))
        torch.testing.assert_close(B.A(x.to("cuda")).cpu(), masks(2) * x)
        half = masks(1)[0].numpy()
        torch.testing.assert_close(B.A(x.to("cuda"), mask=half).cpu(), masks(1) * x)


# --- deepinv, training, files


@pytest.mark.parametrize("trainable", [False, True])
def test_reconstructor(trainable, prior):
    A = Masking(prior.image_shape, masks(2))
    x = prior.sample(2, seed=1)
    options = {"steps": 2, "init": "random", "stop": "fixed"}
    model = gprior.Reconstructor(prior, "brgm", trainable, **options)
    other = there(model)
    expected, numbers = model(A(x), A, x_gt=x, compute_metrics=True)
    found, others = other(there(A(x)), there(A), x_gt=there(x), compute_metrics=True)
    assert found.device.type == "cuda"
    torch.testing.assert_close(found.detach().cpu(), expected.detach(), **CLOSE)
    torch.testing.assert_close(torch.tensor(others["psnr"]), torch.tensor(numbers["psnr"]), **CLOSE)
    assert other(A(x), A).device.type == "cpu"  # where y is
    if trainable:
        (expected - x).square().mean().backward()
        (found - there(x)).square().mean().backward()
        for a, b in zip(model.parameters(), other.parameters(), strict=True):
            assert (a.grad is None) == (b.grad is None)
            if a.grad is not None:
                torch.testing.assert_close(b.grad.cpu(), a.grad, **CLOSE)


def test_a_training_step():
    data = phantom_set(16, 24, 20)
    config = {"img_resolution": 16, "img_channels": 1, "z_dim": 8, "w_dim": 8, "c_dim": 3}
    config |= {"channel_base": 64, "channel_max": 8, "num_mapping_layers": 2}
    settings = Settings(steps=1, batch=4)
    trainers = [Trainer(data, config, settings, torch.device(d)) for d in ("cpu", "cuda")]
    trainers[0]._autocast = contextlib.nullcontext  # in float32 on both
    for trainer in trainers:
        trainer.train()
    pairs = zip(*(t.ema.state_dict().items() for t in trainers), strict=True)
    for (name, a), (_, b) in pairs:
        assert b.device.type == "cuda"
        torch.testing.assert_close(b.cpu(), a, rtol=1e-3, atol=1e-4, msg=name)


def test_augmentation():
    changes = draw_changes(NAMES, 0.8, 6, torch.Generator().manual_seed(0))
    x = torch.linspace(-1, 1, 6 * 2 * 16 * 16).view(6, 2, 16, 16)
    torch.testing.assert_close(changes(x.cuda()).cpu(), changes(x), rtol=1e-4, atol=1e-4)


def test_saving(tmp_path, prior):
    A = Masking(prior.image_shape, "half")
    y = A(prior.sample(2, seed=1))
    expected, found = check(prior, A, y, steps=2, init="random")
    found.save(tmp_path / "x.safetensors")
    loaded = gprior.Result.load(tmp_path / "x.safetensors")
    torch.testing.assert_close(loaded.x, expected.x, **CLOSE)
    gprior.checkpoints.save_prior(there(prior), tmp_path / "prior.safetensors")
    again = gprior.load_prior(tmp_path / "prior.safetensors", device="cuda")
    assert again.like.device.type == "cuda"
    torch.testing.assert_close(again.sample(1).cpu(), prior.sample(1), **CLOSE)


@pytest.mark.parametrize(("kind", "method"), [("biggan", "pix2latent"), ("stylegan2", "pti")])
def test_tuning(kind, method, tiny_prior, tmp_path):
    """One mask and one generator for each image; weights that were saved fit on both devices."""
    torch.manual_seed(0)
    small = {"z_dim": 8, "embed_dim": 4, "c_dim": 3}
    prior = tiny_prior(c_dim=2)
    if kind == "biggan":
        prior = BigGAN([16, 16, 8], [True, True], **small).double().freeze()
    A = Masking(prior.image_shape, masks(2)[:, :, : prior.image_shape[1], : prior.image_shape[2]])
    y = A(prior.sample(2, seed=3, label=1).flip(2))
    options = {"label": [0, 1], "steps": 2, "init": "random", "correction": "auto", "stop": "fixed"}
    first = gprior.solve(y, A, prior, "csgm", **options)
    short = replace(TUNINGS[method], steps=2)
    expected = gprior.tune(first, y, A, prior, short, stop="fixed")
    found = gprior.solve(y, there(A), there(prior), "csgm", **options, tune=short)
    agree(expected, gprior.tune(first, y, there(A), there(prior), short, stop="fixed"))
    agree(expected, found)
    found.weights.save(tmp_path / "w.safetensors")
    loaded = gprior.TunedWeights.load(tmp_path / "w.safetensors")
    for name, value in expected.weights.full.items():
        torch.testing.assert_close(loaded.full[name], value, **CLOSE)
    for weights in (found.weights, loaded):
        own = weights.generator(there(prior), 1)
        assert own.like.device.type == "cuda"
        image = own.sample(1, label=0).cpu()
        torch.testing.assert_close(
            image, expected.weights.generator(prior, 1).sample(1, label=0), **CLOSE
        )


def test_scores(prior):
    x = prior.sample(2, seed=1).clamp(0, 1)
    expected = gprior.distances.perceptual_scores(x, x.flip(3))
    found = gprior.distances.perceptual_scores(there(x), there(x.flip(3)))
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-6)


def test_the_command(tmp_path, monkeypatch, prior):
    """``gprior reconstruct`` on the device: results and pictures are written from there."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    np.save(tmp_path / "x.npy", gprior.load_prior("phantom-64").sample(1)[0, 0].clamp(0, 1))
    options = ["--simulate", "--operator", "half-mask", "--set", "steps=1", "--set", "init=random"]
    arguments = [str(tmp_path / "x.npy"), *options, "--device", "cuda", "-o", str(tmp_path / "o")]
    monkeypatch.setattr("sys.argv", ["gprior", "reconstruct", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 0
    assert np.load(tmp_path / "o" / "reconstruction.npy").shape[-2:] == (64, 64)


def test_many_items(prior):
    """In batches that are refilled; measurements on the CPU go to the device in their turn."""
    if not torch.cuda.is_available():
        pytest.skip("the emulation is that of one thread, and each batch has its own")
    A = Downsampling(prior.image_shape, 2)
    y = A(prior.sample(5, seed=1))
    options = {"steps": 3, "init": "random", "seed": 4}
    expected = gprior.solve(y, A, prior, "csgm", **options)
    items = [gprior.Item(str(k), row) for k, row in enumerate(y)]
    run = gprior.solve_many(items, there(A), there(prior), "csgm", max_batch=2, **options)
    found = {int(one.id): one.result.x for one in run}
    torch.testing.assert_close(torch.cat([found[k] for k in range(5)]), expected.x, **CLOSE)


@pytest.mark.filterwarnings("ignore:.*have not")
@pytest.mark.parametrize("method", ["rto", "hmc"])
def test_posterior(tiny_prior, method):
    prior = tiny_prior(c_dim=2)
    A = Downsampling(prior.image_shape, 2)
    y = A(prior.sample(2))
    options = {"steps": 2, "rounds": 1, "newton": 1, "candidates": 2, "check": False}
    if method == "hmc":
        options |= {"noise_std": 0.05, "warmup": 1, "draws": 2, "leapfrog": 1}
    expected = gprior.posterior(y, A, prior, 2, method=method, correction="auto", **options)
    found = gprior.posterior(
        y, there(A), there(prior), 2, method=method, correction="auto", **options
    )
    assert found.samples.device.type == "cuda"
    torch.testing.assert_close(found.samples.cpu(), expected.samples, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.noise_std.cpu(), expected.noise_std, rtol=1e-5, atol=1e-6)


def test_edits(tiny_prior):
    prior = tiny_prior(c_dim=2)
    moved = there(prior)
    A, direction = Downsampling(prior.image_shape, 2), class_direction(prior, 0, 1)
    y = torch.stack([A(prior.sample(3, seed=seed)) for seed in (0, 1)])
    options = {"label": 0, "steps": 2}
    expected, found = (discover(y, *pair, **options) for pair in ((A, prior), (there(A), moved)))
    assert found.x.device.type == "cuda"
    torch.testing.assert_close(found.x.cpu(), expected.x, rtol=1e-5, atol=1e-5)
    mask = (prior.sample(1, seed=2)[0, 0] > 0.5).to(prior.like)
    answers = []
    for start, own in ((expected.start, prior), (found.start, moved), (expected.start, moved)):
        edited = edit(start, own, direction, 0.5)
        between = interpolate(edited, start, own, 0.5)
        first = edit(start, own, directions(own, 1)[0])
        answers.append(gprior.blend(edited.x, between.x, mask) + first.x)
    for answer in answers[1:]:
        assert answer.device.type == "cuda"
        torch.testing.assert_close(answer.cpu(), answers[0], rtol=1e-5, atol=1e-5)
