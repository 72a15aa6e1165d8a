"""Nothing outside a call changes its answer: torch's defaults and modes, seeds, threads, replicas.

What a call is given stays as it was, too: modes, running statistics, settings, shared weights.
"""

from __future__ import annotations

import contextlib
import copy
import threading
import warnings

import deepinv
import pytest
import torch
from torch import nn

import gprior
from gprior import training
from gprior.editing import class_direction, directions, discover, edit, interpolate
from gprior.operators import Downsampling, Masking, PartialCirculant
from gprior.priors import BigGAN, Generator, view_of
from gprior.solvers import SOLVERS
from gprior.training import (
    EncoderSettings,
    EncoderTrainer,
    Settings,
    Trainer,
    phantom_set,
    phantoms,
)

DOUBLE = torch.float64
STEPS = {"i2s++": (2, 1), "ilo": (1, 1, 1, 1), "robust": (1, 1, 1), "cma+adam": (1, 1)}
STEPS |= {"basincma": (1, 1, 1)}


@contextlib.contextmanager
def default_dtype(dtype):
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextlib.contextmanager
def global_seed():
    with torch.random.fork_rng():
        torch.manual_seed(12345)
        yield


AMBIENT = {
    "float64 by default": lambda: default_dtype(DOUBLE),
    "float16 by default": lambda: default_dtype(torch.float16),
    "another default device": lambda: torch.device("meta"),
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "inference mode": torch.inference_mode,
    "no gradients": torch.no_grad,
    "another seed": global_seed,
}
everywhere = pytest.mark.parametrize("state", AMBIENT)


@pytest.fixture
def prior(tiny_prior):
    return tiny_prior()


def constants(name):
    small = {"population": 3} if hasattr(SOLVERS[name], "population") else {}
    return {"steps": STEPS.get(name, 2), **small}


def same(a, b):
    """Compare tensors exactly, dtype and device included."""
    assert (a.dtype, a.device) == (b.dtype, b.device)
    torch.testing.assert_close(a, b, rtol=0, atol=0)


# --- Defaults, modes and the global seed


@everywhere
def test_operators_and_draws(state, prior):
    def make():
        shape = (1, 16, 16)
        return [
            Masking(shape, "random", seed=3),
            Masking(shape, "eye-patch"),
            Masking(shape, torch.ones(16, 16, device="cpu").numpy()),
            *(Downsampling(shape, 2, kind) for kind in ("bicubic", "gaussian", "box", "nearest")),
            PartialCirculant(shape, 0.3, seed=2),
            PartialCirculant(shape, 0.3, "gaussian", seed=2),
        ]

    x = prior.sample(2, seed=1).float()
    expected = [(A.state_dict(), A.A(x), A.A_adjoint(A.A(x))) for A in make()]
    with AMBIENT[state]():
        again = prior.sample(2, seed=1)
        found = [(A.state_dict(), A.A(x), A.A_adjoint(A.A(x))) for A in make()]
        drawn = gprior.load_prior("phantom-64").sample(1)
    same(again, prior.sample(2, seed=1))
    same(drawn, gprior.load_prior("phantom-64").sample(1))
    for (a, *values), (b, *others) in zip(expected, found, strict=True):
        assert a.keys() == b.keys()
        for one, other in zip([*a.values(), *values], [*b.values(), *others], strict=True):
            same(one, other)


@pytest.mark.parametrize("name", SOLVERS)
def test_methods(name, tiny_prior):
    """The answer of every method is the same under each of these states."""
    prior = tiny_prior(c_dim=2)
    A = Masking(prior.image_shape, "half")
    y = A(prior.sample(2, seed=3, label=1))
    options = {"label": [0, 1], "init": "random", **constants(name)}
    expected = gprior.solve(y, A, prior, name, **options)
    for enter in AMBIENT.values():
        with enter():
            found = gprior.solve(y, A, prior, name, **options)
        assert not found.x.is_inference()
        for key in ("x", "loss", "criterion", "history", "evaluations"):
            same(getattr(expected, key), getattr(found, key))


def test_the_search_in_range(prior, monkeypatch):
    monkeypatch.setattr("gprior.solvers.in_range.TRUSTED", 0.03)
    A = PartialCirculant(prior.image_shape, m=100)
    x = prior.sample(1, seed=7)
    y, options = A(torch.cat([x, x.flip(2)])), {"steps": (40, 40), "stop": "fixed"}
    expected = gprior.solve(y, A, prior, **options)
    assert expected.history.isfinite().sum(1).tolist()[0] == 40
    for enter in AMBIENT.values():
        with enter():
            found = gprior.solve(y, A, prior, **options)
        for key in ("x", "generated", "loss", "evaluations"):
            same(getattr(expected, key), getattr(found, key))


OPTIONS = {
    "noise": {"noise_std": [0.1, 0.2], "stop": "discrepancy"},
    "classes": {"init": "best-of:4"},
    "mean": {"init": "mean", "restarts": 2},
    "layers": {"init": "random-layers", "restarts": 2},
    "realism": {"solver": "csgm", "realism": 1.0, "absolute": 2.0},
    "latents": {"init": [[0.1] * 8] * 2, "label": 0},
    "soft label": {"label": [0.3, 0.7]},
    "classifier": {"label": lambda x: x.new_tensor([[0.5, 0.5], [0.1, 0.9]])},
    "transform": {"solver": "basincma", "transform": True, "steps": (1, 1, 1), "population": 3},
    "lbfgs": {"solver": "latent", "optimizer": "lbfgs", "steps": 3},
    "perceptual": {"perceptual": lambda x: [x, x[..., ::2]]},
}


@pytest.mark.parametrize("kind", OPTIONS)
def test_options(kind, tiny_prior):
    prior = tiny_prior(c_dim=2)
    A = Masking(prior.image_shape, "random", keep=0.95)
    y = A(prior.sample(2, seed=3, label=1))
    options = {"solver": "brgm", "init": "random", "steps": 2, "label": [0, 1], **OPTIONS[kind]}
    if kind == "latents":
        options["init"] = {"z": torch.tensor(options["init"], dtype=DOUBLE)}
    expected = gprior.solve(y, A, prior, **options)
    for enter in AMBIENT.values():
        with enter():
            same(gprior.solve(y, A, prior, **options).x, expected.x)


@everywhere
def test_other_generators(state):
    torch.manual_seed(0)
    sizes = {"z_dim": 8, "embed_dim": 4, "c_dim": 3}
    big = BigGAN([16, 16, 8], [True, True], **sizes).double().freeze()
    big.truncation = 0.5
    net = nn.Sequential(nn.Linear(6, 768), nn.Sigmoid(), nn.Unflatten(1, (3, 16, 16))).double()
    A = PartialCirculant(big.image_shape, m=0.5)
    expected = []
    for enter in (contextlib.nullcontext, AMBIENT[state]):
        with enter():
            plain = Generator(net, 6, range="[0, 1]")
            x = [big.sample(2), plain.sample(2), plain.adapt((2, 8, 8)).sample(1)]
            x += [gprior.solve(A(x[0]), A, p, "csgm", steps=2).x for p in (big, plain)]
            expected.append(x)
    for a, b in zip(*expected, strict=True):
        same(a, b)


def test_operators_that_were_made_in_inference_mode(prior):
    x = prior.sample(2, seed=1)
    matrix = torch.randn(100, 256, generator=torch.Generator().manual_seed(0)).double()
    with torch.inference_mode():
        kinds = [Masking((1, 16, 16), "half"), Downsampling((1, 16, 16), 2), matrix.clone()]
        kinds.append(nn.Conv2d(1, 1, 3).double())
        loaded = gprior.load_prior("phantom-64")
    for A in kinds:
        with torch.no_grad():
            y = x.flatten(1) @ A.t() if isinstance(A, torch.Tensor) else A(x)
        assert gprior.solve(y, A, prior, "csgm", steps=2).x.isfinite().all()
    A = Masking(loaded.image_shape, "half")
    assert gprior.solve(A(loaded.sample(1)), A, loaded, steps=1, init="random").x.isfinite().all()


@everywhere
def test_edits(state, tiny_prior):
    prior = tiny_prior(c_dim=2)
    w, mask = prior.mapping(prior.draw([(0, "z")]), prior.classes(0, 1)), torch.eye(16)
    y = torch.stack([prior.sample(3, label=0)])

    def make():
        moved = edit(w, prior, directions(prior, 1)[0], [0.5])
        other = edit({"w": w}, prior, class_direction(prior, 0, 1))
        between = interpolate(moved, other, prior, 0.5)
        found = discover(y, lambda x: x, prior, label=0, steps=2)
        return [between.x, gprior.blend(moved.x, other.x, mask), found.x, found.alpha]

    expected = make()
    with AMBIENT[state]():
        found = make()
    for a, b in zip(expected, found, strict=True):
        same(a, b)


@everywhere
def test_phantoms_and_training_data(state):
    expected = phantoms(range(3), 16)
    with AMBIENT[state]():
        found = phantoms(range(3), 16)
    for a, b in zip(expected, found, strict=True):
        same(a, b)


@pytest.mark.parametrize("state", ["autocast", "inference mode", "no gradients", "another seed"])
def test_a_training_step(state):
    data = phantom_set(16, 24, 20)
    config = {"img_resolution": 16, "img_channels": 1, "z_dim": 8, "w_dim": 8, "c_dim": 3}
    config |= {"channel_base": 64, "channel_max": 8, "num_mapping_layers": 2}
    weights = []
    for enter in (contextlib.nullcontext, AMBIENT[state]):
        trainer = Trainer(data, config, Settings(steps=1, batch=4), torch.device("cpu"))
        with enter():
            trainer._step()
        weights.append([p.detach() for p in trainer.G.parameters()])
    for a, b in zip(*weights, strict=True):
        same(a, b)


@everywhere
def test_an_encoder(state, tiny_prior, monkeypatch):
    monkeypatch.setattr(training.encoder, "POOL", 8)
    monkeypatch.setattr(training.encoder, "SLOPES", 8)
    prior = tiny_prior(c_dim=3, dtype=torch.float32)
    settings = EncoderSettings(steps=1, batch=4, width=4, hidden=8)
    found = []
    for enter in (contextlib.nullcontext, AMBIENT[state]):
        with enter():
            trainer = EncoderTrainer(prior, [lambda x, seed: x], settings)
            trainer.train()
            encoder = trainer.finish()
            latents = encoder(prior.sample(2))
        found.append([*encoder.network.state_dict().values(), *latents.values()])
    for a, b in zip(*found, strict=True):
        same(a, b)


def test_calls_leave_the_modes_and_the_global_stream_alone(prior):
    A = PartialCirculant(prior.image_shape, 0.5)
    y = A(prior.sample(1))
    torch.manual_seed(1)
    stream = torch.random.get_rng_state()
    with torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
        gprior.solve(y, A, prior, steps=1, init="random")
        gprior.load_prior("phantom-64").sample(1)
        assert torch.is_autocast_enabled("cpu") and torch.is_inference_mode_enabled()
    assert torch.equal(torch.random.get_rng_state(), stream)


# --- What is passed stays as it was, and depends on nothing but itself


class Learned(nn.Module):
    """A forward model in train mode, with batch statistics and dropout."""

    def __init__(self, **batch):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2, **batch)
        self.drop = nn.Dropout()

    def forward(self, x):
        return self.drop(self.norm(self.conv(x)))


def bare(module):
    return module


def bound(module):
    return module.forward


def compiled_by_hand(module):
    return torch.nn.Sequential(module)


@pytest.mark.parametrize("kind", [bare, bound, compiled_by_hand])
@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_a_learned_operator_in_train_mode(kind, dtype, prior):
    torch.manual_seed(0)
    A = Learned().to(dtype)
    y = copy.deepcopy(A).eval().double()(prior.sample(3, seed=1)).detach()
    before = {k: v.clone() for k, v in A.state_dict().items()}
    options = {"steps": 5, "stop": "fixed", "init": "random"}
    together = gprior.solve(y, kind(A), prior, "csgm", **options).x
    for i in range(3):
        alone = gprior.solve(y[i : i + 1], kind(A), prior, "csgm", **options).x[0]
        torch.testing.assert_close(together[i], alone, rtol=1e-9, atol=1e-9)
    assert A.training and A.norm.training and A.conv.weight.requires_grad
    assert all(p.grad is None for p in A.parameters())
    assert all(torch.equal(v, before[k]) for k, v in A.state_dict().items())


def test_operators_that_couple_images_are_refused(prior):
    statistics = Learned(track_running_stats=False).double()
    centred = lambda x: x - x.mean(0)  # noqa: E731
    random = lambda x: x + torch.randn_like(x)  # noqa: E731
    for A in (statistics, centred, random):
        with pytest.raises(gprior.InputError, match="does not act on 2 images one by one"):
            gprior.solve(torch.zeros(2, 1, 16, 16), A, prior, steps=1)


def test_a_physics_is_not_changed(prior):
    kernels = deepinv.physics.generator.MotionBlurGenerator((5, 5)).step(3, seed=0)["filter"]
    A = deepinv.physics.Downsampling(img_size=(1, 16, 16), factor=2, filter=None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        A.update_parameters(filter=kernels)
        y = A.A(prior.sample(3, seed=1).float()).double()
        before = {k: v.clone() for k, v in A.state_dict().items()}
        gprior.solve(y, A, prior, "csgm", steps=2)
    assert all(torch.equal(v, before[k]) for k, v in A.state_dict().items())


KERNELS = {
    "blur": lambda: deepinv.physics.Blur(padding="circular"),
    "blur by FFT": lambda: deepinv.physics.BlurFFT(img_size=(1, 16, 16)),
    "inpainting": lambda: deepinv.physics.Inpainting((1, 16, 16)),
}


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
@pytest.mark.parametrize("kind", KERNELS)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("deepinv_fft")
def test_one_kernel_per_image(kind, dtype, tiny_prior):
    """Each image meets its kernel, also where the physics is of another dtype than the prior."""
    prior = tiny_prior(dtype=dtype)
    A = KERNELS[kind]()
    if kind == "inpainting":
        own = {"mask": (torch.rand(3, 1, 16, 16, generator=torch.Generator().manual_seed(0)) > 0.5)}
        own = {"mask": own["mask"].float()}
    else:
        own = deepinv.physics.generator.MotionBlurGenerator((5, 5)).step(3, seed=0)
    y = A(prior.sample(3, seed=1).float(), **own)
    options = {"steps": 3, "stop": "fixed", "init": "random"}
    together = gprior.solve(y, A, prior, "csgm", restarts=2, **options).x
    for i in range(3):
        alone = KERNELS[kind]()
        alone.update_parameters(**{k: v[i : i + 1] for k, v in own.items()})
        x = gprior.solve(y[i : i + 1], alone, prior, "csgm", restarts=2, **options).x[0]
        torch.testing.assert_close(together[i], x, rtol=1e-3, atol=1e-4)


@pytest.mark.filterwarnings("ignore")
def test_a_physics_of_another_dtype(prior):
    """It runs on a copy in the prior's dtype; where that fails the message says what to call."""
    for A in (
        deepinv.physics.Tomography(angles=20, img_width=16, normalize=True, device="cpu"),
        deepinv.physics.CompressedSensing(m=100, img_size=(1, 16, 16)),
        deepinv.physics.StackedLinearPhysics([deepinv.physics.Blur(torch.ones(1, 1, 3, 3) / 9)]),
    ):
        y = A.A(prior.sample(2, seed=1).float())
        assert gprior.solve(y, A, prior, "csgm", steps=2).x.dtype == DOUBLE
        assert A.A(prior.sample(1).float())[0].dtype == torch.float32

    class Stubborn(nn.Linear):
        def forward(self, x):
            return super().forward(x.flatten(1)) @ torch.ones(4, 4)

    with pytest.raises(gprior.InputError, match=r"float32 on cpu, the prior of float64.*A\.to\("):
        gprior.solve(torch.zeros(2, 4), Stubborn(256, 4), prior, steps=2)


# --- Functions around networks


class VAE(nn.Module):
    def __init__(self):
        super().__init__()
        self.dense, self.drop = nn.Linear(8, 256), nn.Dropout()

    def decode(self, z):
        return self.drop(self.dense(z)).sigmoid().view(-1, 1, 16, 16)


def test_a_bound_method_brings_its_module():
    vae = VAE().double()
    prior = Generator(vae.decode, 8, range="[0, 1]")
    assert prior.like.dtype == DOUBLE == prior.sample(1).dtype
    assert not vae.training and "module.dense.weight" in prior.state_dict()
    assert prior.float().sample(1).dtype == torch.float32
    with pytest.raises(
        gprior.InputError, match=r"is of float32 on cpu, not of float64 on cpu.*to\("
    ):
        Generator(vae.decode, 8, dtype=DOUBLE)


def test_a_function_says_its_dtype():
    vae = VAE().double().eval().requires_grad_(False)
    function = lambda z: vae.decode(z)  # noqa: E731
    with pytest.raises(gprior.InputError, match=r"float32 on cpu: .*pass dtype= or device="):
        Generator(function, 8)
    prior = Generator(function, 8, range="[0, 1]", dtype=DOUBLE, device="cpu")
    assert prior.like.dtype == DOUBLE
    with pytest.raises(gprior.InputError, match="returns float64 on cpu for latents of float32"):
        Generator(lambda z: vae.decode(z.double()), 8)


def test_a_wrapped_network_stays_in_eval_mode():
    """deepinv's trainer puts its model, and so the prior, in train mode."""
    net = nn.Sequential(nn.Linear(8, 256), nn.BatchNorm1d(256), nn.Unflatten(1, (1, 16, 16)))
    prior = Generator(net, 8)
    model = gprior.Reconstructor(prior, "csgm", steps=2, trainable=True)
    A = Masking(prior.image_shape, "half")
    y = A(prior.sample(2))
    same(model.train()(y, A), model.eval()(y, A))
    assert int(model.prior.module[1].num_batches_tracked) == 0


# --- Replicas and threads


def replica(module):
    """Return a replica as `nn.DataParallel` makes it: parameters are plain attributes."""
    copied = module._replicate_for_data_parallel()
    for name, child in module._modules.items():
        copied._modules[name] = None if child is None else replica(child)
    for name, parameter in module._parameters.items():
        if parameter is None:
            copied._parameters[name] = None
        else:
            setattr(copied, name, parameter.clone())
    return copied


@pytest.mark.parametrize("trainable", [False, True])
def test_replicas(trainable, prior):
    network = nn.Sequential(nn.Linear(8, 256), nn.Sigmoid(), nn.Unflatten(1, (1, 16, 16)))
    torch.manual_seed(0)
    others = [Generator(network.double(), 8), Generator(VAE().double().decode, 8)]
    others += [prior.adapt((3, 16, 16)), prior]
    for one in others:
        A = Masking(one.image_shape, "half")
        y = A(one.sample(2, seed=1))
        name = "ilo" if "state" in one.inputs and not trainable else "csgm"
        model = gprior.Reconstructor(one, name, trainable, init="random", steps=STEPS.get(name, 2))
        copied = replica(model)
        assert not list(copied.parameters()) and copied.prior.like.dtype == DOUBLE
        found = copied(y, A)
        same(found.detach(), model(y, A).detach())
        if trainable:
            found.sum().backward()
            assert any(p.grad is not None for p in model.prior.parameters())


def together(*calls):
    """Run functions in threads at the same time and return their values."""
    values, errors = [None] * len(calls), []
    barrier = threading.Barrier(len(calls))

    def run(i):
        try:
            barrier.wait()
            values[i] = calls[i]()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return values


def test_threads_share_priors_operators_and_models(prior):
    """One trainable model, one operator with a mask per image: nobody sees another's rows."""
    masks = torch.ones(4, 1, 16, 16)
    for i in range(4):
        masks[i, :, :, 3 * i : 3 * i + 5] = 0
    A = Masking(prior.image_shape, masks)
    y = A(prior.sample(4, seed=1))
    model = gprior.Reconstructor(prior, "csgm", trainable=True, steps=8, init="random")
    expected = [model(y, A, seed=seed).detach() for seed in range(3)]
    found = together(*(lambda seed=seed: model(y, A, seed=seed) for seed in range(3)))
    for a, b in zip(expected, found, strict=True):
        assert b.requires_grad
        same(a, b.detach())
    assert all(p.requires_grad for p in model.prior.blocks.parameters())


def test_threads_share_settings_of_an_operator():
    A = PartialCirculant((1, 16, 16), 0.5, "gaussian", noise_model=deepinv.physics.GaussianNoise(0))
    y = A.A(torch.rand(1, 1, 16, 16))
    before = (A.max_iter, A.tol, float(A.noise_model.sigma))
    calls = [lambda n=n: [A.A_dagger(y, max_iter=n), A.noise(y, sigma=n)] for n in (1, 2, 3)]
    for _ in range(5):
        together(*calls)
        assert (A.max_iter, A.tol, float(A.noise_model.sigma)) == before


def test_modes_are_those_of_a_thread(prior):
    A = Masking(prior.image_shape, "half")
    y = A(prior.sample(1))

    def solved():
        return gprior.solve(y, A, prior, "csgm", steps=3).x

    def half():
        with torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
            return solved()

    for found in together(solved, half, solved):
        same(found, solved())


# --- Views


def test_a_view_shares_tensors_and_nothing_else():
    net = nn.ModuleDict({"lstm": nn.LSTM(3, 4), "norm": nn.BatchNorm1d(4)}).train()
    net.others, net.kind = [nn.Linear(2, 2)], torch.float32
    net.twice = net["norm"]
    view = view_of(net)
    assert net.training and not any(m.training for m in view.modules())
    assert view["norm"].weight.data_ptr() == net["norm"].weight.data_ptr()
    assert view.twice is view["norm"] and view.others[0] is not net.others[0]
    assert not any(p.requires_grad for p in view.parameters())
    x = torch.randn(5, 2, 3)
    torch.testing.assert_close(view["lstm"](x)[0], net["lstm"](x)[0])
    view["norm"].running_mean = torch.ones(4)
    assert not net["norm"].running_mean.any()
    placed = view_of(net, gprior.priors.placed_as(torch.zeros((), dtype=DOUBLE)))
    assert placed["lstm"](x.double())[0].dtype == DOUBLE == placed.kind
    assert placed["norm"].num_batches_tracked.dtype == torch.int64
    assert net["lstm"].weight_ih_l0.dtype == torch.float32


def test_new_networks_have_the_same_numbers_under_any_default_dtype():
    from gprior.priors import StyleGAN2

    def weights(dtype):
        torch.manual_seed(0)
        before = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        try:
            net = StyleGAN2(16, 1, z_dim=8, w_dim=8, channel_base=128, channel_max=8)
        finally:
            torch.set_default_dtype(before)
        return {k: v.float() for k, v in net.state_dict().items()}

    single, double = weights(torch.float32), weights(torch.float64)
    assert all(torch.equal(v, double[k]) for k, v in single.items())
