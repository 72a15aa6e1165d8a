"""The reconstructor inside deepinv: testing, training losses, modes and options."""

import warnings

import deepinv
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

import gprior
from gprior.operators import Masking, PartialCirculant

OPTIONS = {"steps": 4, "init": "random", "stop": "fixed", "label": None}


@pytest.fixture(scope="module")
def prior(tiny_prior):
    return tiny_prior(dtype=torch.float32)


@pytest.fixture
def problem(prior):
    A = PartialCirculant(prior.image_shape, 0.5, seed=1)
    x = prior.sample(3, seed=2)
    return x, A(x), A


class Images(Dataset):
    """Images with one mask each, as deepinv's datasets give them."""

    def __init__(self, x, masks):
        self.x, self.masks = x, masks

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return {"x": self.x[i], "y": self.x[i] * self.masks[i], "params": {"mask": self.masks[i]}}


def test_it_is_a_deepinv_model_that_does_what_solve_does(prior, problem):
    _, y, A = problem
    model = gprior.Reconstructor(prior, "brgm", **OPTIONS)
    assert isinstance(model, deepinv.models.Reconstructor)
    expected = gprior.solve(y, A, prior, "brgm", **OPTIONS).x
    assert torch.equal(model(y, A), expected)


@pytest.mark.parametrize("trainable", [False, True])
def test_labels_are_those_that_solve_takes(tiny_prior, trainable):
    """A classifier too, of the model or of a call, whose weights are not the model's."""
    prior = tiny_prior(c_dim=3, dtype=torch.float32)
    A = Masking(prior.image_shape, "half")
    y, seen = A(prior.sample(3, seed=2)), []

    class Classifier(torch.nn.Linear):
        def forward(self, x):
            seen.append(x)
            return torch.eye(3)[[2, 0, 1]]

    def solved(label):
        return gprior.solve(y, A, prior, "brgm", **{**OPTIONS, "label": label}).x

    network, expected = Classifier(256, 3), [solved([2, 0, 1]), solved(0)]
    model = gprior.Reconstructor(prior, "brgm", trainable, **{**OPTIONS, "label": network})
    torch.testing.assert_close(model(y, A), expected[0], atol=2e-3, rtol=0)
    assert len(seen) == 1 and torch.equal(seen[0], A.A_dagger(y))
    torch.testing.assert_close(model(y, A, label=0), expected[1], atol=2e-3, rtol=0)
    plain = gprior.Reconstructor(prior, "brgm", trainable, **{**OPTIONS, "label": 0})
    torch.testing.assert_close(plain(y, A, label=network), expected[0], atol=2e-3, rtol=0)
    assert (expected[0] - expected[1]).abs().max() > 0.02
    assert model.state_dict().keys() == plain.state_dict().keys()


@pytest.mark.parametrize("name", sorted(gprior.solvers.SOLVERS))
def test_deepinv_test_gives_each_image_its_own_mask(prior, name):
    x = prior.sample(3, seed=5)
    masks = torch.ones_like(x)
    for i in range(3):
        masks[i, :, :, 4 * i : 4 * i + 6] = 0
    physics = Masking(prior.image_shape, torch.ones(prior.image_shape))
    model = gprior.Reconstructor(prior, name, **OPTIONS)
    seen = []

    class Metric(deepinv.metric.PSNR):
        def forward(self, x_net=None, x=None, **kwargs):
            seen.append(x_net)
            return super().forward(x_net=x_net, x=x, **kwargs)

    found = deepinv.test(
        model,
        DataLoader(Images(x, masks), batch_size=3),
        physics,
        metrics=[Metric()],
        device="cpu",
        online_measurements=False,
        verbose=False,
        show_progress_bar=False,
        compare_no_learning=False,
        non_blocking_transfers=False,
    )
    assert found["Metric"] > 0
    for i in range(3):
        own = Masking(prior.image_shape, masks[i])
        alone = gprior.solve(own.A(x[i : i + 1]), own, prior, name, **OPTIONS).x
        torch.testing.assert_close(seen[0][i : i + 1], alone, atol=2e-3, rtol=0)


def test_modes_make_no_difference_and_nothing_is_printed(prior, problem, capsys):
    _, y, A = problem
    model = gprior.Reconstructor(prior, **OPTIONS)
    expected = model(y, A)
    with torch.no_grad():
        assert torch.equal(model.train()(y, A), expected)
        assert torch.equal(model.eval()(y, A), expected)
        assert torch.is_grad_enabled() is False
    with torch.inference_mode():
        assert torch.equal(model(y.clone(), A), expected)
    assert not expected.requires_grad
    assert capsys.readouterr() == ("", "")


def test_metrics_of_the_iterates(prior, problem):
    x, y, A = problem
    model = gprior.Reconstructor(prior, "csgm", **OPTIONS)
    images = []
    gprior.solve(y, A, prior, "csgm", callback=lambda *a: images.append(a[3]), **OPTIONS)
    found, metrics = model(y, A, x_gt=x, compute_metrics=True, restarts=2, unknown="ignored")
    assert found.shape == x.shape
    assert [len(row) for row in metrics["psnr"]] == [4, 4, 4] == [len(r) for r in metrics["cost"]]
    for i in range(3):
        error = (images[1][i] - x[i]).square().mean()
        assert metrics["psnr"][i][1] == pytest.approx(float(-10 * error.log10()), abs=1e-2)


def test_constants_are_checked_at_once(prior):
    with pytest.raises(TypeError, match="pixle"):
        gprior.Reconstructor(prior, pixle=1.0)
    with pytest.raises(ValueError, match="brgm"):
        gprior.Reconstructor(prior, "nonsense")


LOSSES = {
    "supervised": lambda: deepinv.loss.SupLoss(),
    "measurement consistency": lambda: deepinv.loss.MCLoss(),
    "equivariant": lambda: deepinv.loss.EILoss(deepinv.transform.Shift()),
    "sure": lambda: deepinv.loss.SureGaussianLoss(sigma=0.1),
}


@pytest.mark.parametrize("loss", sorted(LOSSES))
@pytest.mark.parametrize("name", ["lbrgm", "csgm"])
def test_training_losses_reach_the_copy_alone(prior, problem, name, loss):
    x, y, A = problem
    model = gprior.Reconstructor(prior, name, trainable=True, **OPTIONS)
    assert all(not p.requires_grad for p in prior.parameters())
    frozen = gprior.Reconstructor(prior, name, **OPTIONS)(y, A)
    found = model(y, A)
    torch.testing.assert_close(found, frozen, atol=1e-3, rtol=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        value = LOSSES[loss]()(x_net=found, x=x, y=y, physics=A, model=model).mean()
    value.backward()
    grads = [p.grad for p in model.prior.blocks.parameters() if p.grad is not None]
    assert all(g.isfinite().all() for g in grads) and any(g.abs().max() > 0 for g in grads)
    assert all(p.grad is None for p in prior.parameters())
    assert all(p.grad is None for p in model.prior.discriminator.parameters())


def test_training_changes_the_reconstruction(prior, problem):
    x, y, A = problem
    model = gprior.Reconstructor(prior, "brgm", trainable=True, **OPTIONS)
    before = [p.clone() for p in prior.parameters()]
    opt = torch.optim.Adam(model.parameters(), 1e-2)
    losses = []
    for _ in range(6):
        loss = (model(y, A) - (1 - x)).square().mean()
        losses.append(float(loss.detach()))
        opt.zero_grad()
        loss.backward()
        opt.step()
    assert losses[-1] < 0.7 * losses[0]
    assert all(torch.equal(a, b) for a, b in zip(before, prior.parameters(), strict=True))
    with torch.no_grad():  # the copy's demodulation follows its weights
        again = model(y, A)
    assert (again - gprior.Reconstructor(prior, "brgm", **OPTIONS)(y, A)).abs().max() > 0.01


def test_the_name_of_a_model_says_what_its_answers_depend_on(prior):
    """Models that print alike give the same answers, because tools cache by ``str(model)``."""
    models = [
        gprior.Reconstructor(prior, "brgm", steps=3),
        gprior.Reconstructor(prior, "i2s", steps=3),
        gprior.Reconstructor(prior, "brgm", steps=4),
        gprior.Reconstructor(prior, "brgm", steps=3, seed=1),
        gprior.Reconstructor(prior, "brgm", steps=3, trainable=True),
        gprior.Reconstructor(prior, "brgm", steps=3, init=torch.zeros(1, 8)),
        gprior.Reconstructor(prior, "brgm", steps=3, init=torch.ones(1, 8)),
        gprior.Reconstructor(prior.adapt((1, 16, 20)), "brgm", steps=3),
    ]
    assert len({str(model) for model in models}) == len(models)
    assert str(models[0]) == str(gprior.Reconstructor(prior, "brgm", steps=3))
    assert "BRGM(steps=3, init='mean'" in str(models[0]) and prior.digest() in str(models[0])
    before = str(models[4])
    with torch.no_grad():
        next(models[4].prior.parameters()).add_(1)
    assert str(models[4]) != before


def test_a_transform_reaches_a_trainable_copy(prior):
    """The code of BasinCMA's transform is rendered with it, attached to the weights."""
    A = Masking(prior.image_shape, torch.ones(1, 16, 16))
    y = A(prior.sample(1, seed=3))
    options = {"transform": True, "steps": (1, 1, 1), "population": 3, "label": None}
    plain = gprior.Reconstructor(prior, "basincma", **options)
    model = gprior.Reconstructor(prior, "basincma", trainable=True, **options)
    x = model(y, A)
    torch.testing.assert_close(x, plain(y, A), atol=2e-3, rtol=0)
    x.sum().backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in model.prior.parameters())
