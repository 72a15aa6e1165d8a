"""Shared test settings: one thread, slow tests only when asked for, and tiny priors."""

import functools
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

torch.set_num_threads(1)
# When a shell runs the suite in the background, the processes of the suite ignore interrupts. Some
# tests interrupt a process, so the default is restored.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip tests marked ``slow`` unless ``-m`` was given."""
    if not config.option.markexpr:
        skip = pytest.mark.skip(reason="slow: run with `pytest -m slow`")
        for item in items:
            if "slow" in item.keywords:
                item.add_marker(skip)


@pytest.fixture(scope="session", autouse=True)
def _no_weights_on_this_machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Give torch hub an empty cache, so that no test depends on weights on this machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCH_HOME", str(tmp_path_factory.mktemp("torch")))
        yield


@pytest.fixture
def deepinv_fft(request: pytest.FixtureRequest) -> None:
    """Leave out the rows of deepinv's FFT blur where the CPU's FFT of torch 2.6 refuses it."""
    if "FFT" in request.node.name and torch.__version__.startswith("2.6."):
        pytest.skip("deepinv's BlurFFT does not run on a CPU with torch 2.6")


SHARED: list[tuple[Any, Any]] = []  # the priors that tests share, and what they are made of


@functools.cache
def _tiny_prior(
    resolution: int, channels: int, c_dim: int, dtype: torch.dtype, critic: bool, **config: Any
) -> Any:
    # Imported here because one test measures the time of `import gprior`.
    from gprior.distances import median_distance
    from gprior.priors import Discriminator, StyleGAN2, fold_

    sizes = {"c_dim": c_dim, "channel_base": 128, "channel_max": 16}
    with torch.random.fork_rng():
        torch.manual_seed(7)
        prior = StyleGAN2(
            resolution, channels, z_dim=8, w_dim=16, num_mapping_layers=2, **sizes, **config
        )
        discriminator = Discriminator(resolution, channels, **sizes)
        for name, parameter in prior.named_parameters():
            if name.endswith("noise_strength"):
                torch.nn.init.constant_(parameter, 0.2)
            elif name.endswith("bias"):  # not zero, so that tests notice mistakes with biases
                parameter.data += 0.1 * torch.randn_like(parameter)
        prior.to(dtype), discriminator.to(dtype)
        fold_(prior)
        fold_(discriminator)
        prior.freeze()
        z = torch.randn(512, 8).to(dtype)
        means = [
            prior.mapping_network(z, prior.classes(k, 512) if c_dim else None).mean(0)
            for k in range(max(c_dim, 1))
        ]
        prior.w_avg.copy_(torch.stack(means) if c_dim else means[0])
    if critic:
        prior.discriminator = discriminator.eval().requires_grad_(False)
        unit = median_distance(lambda x: discriminator.features(2 * x - 1), prior.sample(40))
        prior.statistics = {"perceptual_unit": unit}
    SHARED.append((prior, prior._fingerprint()))
    return prior


@pytest.fixture(autouse=True)
def _shared_priors_stay_as_they_are() -> Iterator[None]:
    """Fail the test that changes a shared prior, and not one of those that come after it."""
    yield
    changed = [prior for prior, before in SHARED if prior._fingerprint() != before]
    if changed:
        SHARED.clear()
        _tiny_prior.cache_clear()
        pytest.fail("this test changed a prior that tests share: copy the prior first")


@pytest.fixture(scope="session")
def tiny_prior() -> Callable[..., Any]:
    """Make small random priors: ``tiny_prior(resolution, channels, c_dim)``, float64, frozen.

    They have non-zero noise strengths, ``w_avg``, folded gains, a discriminator and the unit of
    its perceptual distance. They are shared between tests: copy one before you change it.
    """

    def make(
        resolution: int = 16,
        channels: int = 1,
        c_dim: int = 0,
        dtype: torch.dtype = torch.float64,
        critic: bool = True,
        **config: Any,
    ) -> Any:
        return _tiny_prior(resolution, channels, c_dim, dtype, critic, **config)

    return make
