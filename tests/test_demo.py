"""``gprior demo`` with few steps, in a few seconds."""

import json
import re

import pytest
import torch

from gprior.commands.baselines import total_variation
from gprior.commands.demo import Size, problems, run
from gprior.distances import scores
from gprior.images import STAMP
from gprior.training import phantoms

KEYS = [
    "case",
    "domain",
    "operator",
    "solver",
    "psnr",
    "psnr_baseline",
    "psnr_tv",
    "psnr_generated",
    "ssim",
    "ssim_baseline",
    "ssim_generated",
    "prior_weight",
    "misfit",
    "plausibility",
    "seconds",
]


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    import gprior.commands.demo as module
    from gprior.solvers import simulation
    from gprior.solvers.auto import Auto

    out = tmp_path_factory.mktemp("demo") / "out"
    with pytest.MonkeyPatch.context() as patch:
        solve = module.solve  # candidates take longer than steps
        patch.setattr(module, "solve", lambda *a, **k: solve(*a, init="random", **k))
        patch.setattr(simulation, "METHOD", Auto(steps=(1, 0)))
        text = run(out, Size(steps=2, images=1, tv_steps=2))
    return out, text


def test_metrics(demo):
    out, _ = demo
    assert {path.name for path in out.iterdir()} == {"report.html", "figure.png", "metrics.json"}
    records = json.loads((out / "metrics.json").read_text())
    assert all(list(record) == KEYS for record in records)
    assert len(records) == 4 * 5
    assert {r["domain"] for r in records} == {"in-range", "held-out", "real"}
    assert {r["case"] for r in records if r["domain"] == "real"} == {
        "MR slice 10",
        "MR slice 14",
        "CT slice",
    }
    for record in records:
        assert all(isinstance(record[key], float) for key in KEYS[4:])
        assert 5 < record["psnr_baseline"] < 40 and record["seconds"] > 0


def test_table_and_report(demo):
    out, text = demo
    assert "circulant:0.1, held-out" in text and "Worse than" in text and STAMP in text
    assert "outside" in text
    page = (out / "report.html").read_text()
    assert len(re.findall('src="data:image/png;base64,', page)) == 4 * 5 * 7
    assert page.count("<polyline") == 4 * 5
    assert "Where the method failed" in page and "outside its domain" in page
    assert not re.search(r'(src|href)="(?!data:)', page)  # needs no other file


def test_failures_are_listed(demo):
    """Two steps from anywhere lose; what loses is named with its numbers."""
    out, _ = demo
    records = json.loads((out / "metrics.json").read_text())
    page = (out / "report.html").read_text()
    lost = [r for r in records if r["psnr"] < max(r["psnr_baseline"], r["psnr_tv"])]
    assert lost
    for r in records:
        named = f"{r['case']} / {r['operator']} ({r['psnr']:.1f} dB" in page
        assert named == (r in lost)


def test_missing_samples_are_reported(tmp_path, monkeypatch):
    import gprior.commands.demo as module

    monkeypatch.setattr(module, "files", lambda package: tmp_path / package)
    with pytest.raises(FileNotFoundError, match="reinstall it"):
        run(tmp_path / "out", Size(steps=1, images=1))
    assert not (tmp_path / "out").exists()


def test_the_noise_is_the_same_every_time():
    x = torch.full((2, 1, 64, 64), 0.5)
    first, second = (problems((1, 64, 64))["noise:0.1"](x) for _ in range(2))
    assert torch.equal(first, second)
    assert (first - x).std() == pytest.approx(0.1, rel=0.05)


# --- Total variation -------------------------------------------------------------------------


def test_total_variation_improves_on_the_pseudo_inverse():
    x, _ = phantoms(range(2), 64, seed=2)
    named = problems((1, 64, 64))
    for name, weight, gain in (("noise:0.1", 0.06, 3), ("circulant:0.1", 3e-3, 5)):
        y = named[name](x)
        before = scores(named[name].A_dagger(y), x)[0]
        after = scores(total_variation(y, named[name], weight), x)[0]
        assert min(b - a for a, b in zip(before, after, strict=True)) > gain


def test_total_variation_of_a_blurred_image_is_not_its_noise():
    from deepinv.physics import BlurFFT

    x, _ = phantoms(range(2), 64, seed=2)
    bell = torch.exp(-torch.arange(-4.0, 5.0).square() / (2 * 1.5**2))
    A = BlurFFT((1, 64, 64), filter=torch.outer(bell, bell)[None, None] / bell.sum() ** 2)
    y = A(x) + 0.02 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    assert max(scores(A.A_dagger(y), x)[0]) < 10
    assert min(scores(total_variation(y, A, 1e-3), x)[0]) > 20


def test_total_variation_minimises_its_objective():
    """Against projected dual gradients in float64 (Chambolle 2004), for denoising."""
    from gprior.operators import Masking

    y = phantoms(range(1), 16)[0].double()
    y = y + 0.1 * torch.randn(y.shape, generator=torch.Generator().manual_seed(0))
    A, weight = Masking((1, 16, 16), torch.ones(16, 16)), 0.1

    def gradient(x):
        g = torch.zeros(2, *x.shape, dtype=x.dtype)
        g[0, ..., :-1, :] = x[..., 1:, :] - x[..., :-1, :]
        g[1, ..., :-1] = x[..., 1:] - x[..., :-1]
        return g

    x = y.clone().requires_grad_()
    p = torch.zeros(2, *y.shape, dtype=y.dtype)
    for _ in range(3000):
        (adjoint,) = torch.autograd.grad((gradient(x) * p).sum(), x)
        p = p + 0.12 * gradient(y - adjoint)
        p = p * (weight / p.norm(dim=0).clamp_min(weight))
        p = p.detach()
    (adjoint,) = torch.autograd.grad((gradient(x) * p).sum(), x)
    expected = (y - adjoint).clamp(0, 1)
    image = total_variation(y, A, weight, steps=100)
    assert (image - expected).abs().max() < 5e-3


def test_total_variation_does_not_couple_images():
    x, _ = phantoms(range(2), 32)
    A = problems((1, 32, 32))["circulant:0.1"]
    y = A(x)
    both = total_variation(y, A, 3e-3, 20)
    single = torch.cat([total_variation(y[i : i + 1], A, 3e-3, 20) for i in range(2)])
    torch.testing.assert_close(both, single, atol=1e-5, rtol=1e-4)


def test_total_variation_neither_reads_nor_moves_the_global_random_stream():
    x, _ = phantoms(range(1), 32)
    A = problems((1, 32, 32))["half-mask"]
    torch.manual_seed(1)
    first = total_variation(A(x), A, 0.01, steps=20)
    state = torch.get_rng_state()
    torch.manual_seed(2)
    assert torch.equal(total_variation(A(x), A, 0.01, steps=20), first)
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), state)
