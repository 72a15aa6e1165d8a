"""deepinv's own operator tests, unmodified, on gprior's operators.

deepinv ships its tests. They get their operators from one function of their module,
``find_operator``; here it is replaced, and each test is called as it stands.
"""

from __future__ import annotations

import importlib.util
import inspect
import math
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import deepinv
import pytest
import torch

from gprior.operators import Downsampling, Masking, Operator, PartialCirculant

# deepinv warns of composing decomposable physics, of unconverged power iterations, ...
pytestmark = pytest.mark.filterwarnings("default")

SIZE = (3, 16, 8)  # deepinv's own

# The operator, the names of its differentiable parameters. deepinv compares the squared
# norm with the one stated here, except for names with "reflect" (they have no simple one).
OPERATORS: dict[str, tuple[Callable[..., Operator], list[str]]] = {
    "masking_half": (lambda size, device: Masking(size, "half", device=device), ["mask"]),
    "masking_random": (lambda size, device: Masking(size, "random", device=device), ["mask"]),
    "downsampling_bicubic": (lambda size, device: Downsampling(size, 2, device=device), []),
    "downsampling_box": (lambda size, device: Downsampling(size, 2, "box", device=device), []),
    "downsampling_reflect": (
        lambda size, device: Downsampling(size, 2, "bilinear", "reflect", device=device),
        [],
    ),
    "circulant": (lambda size, device: PartialCirculant(size, 0.3, device=device), []),
    "circulant_channels_isometry": (
        lambda size, device: PartialCirculant(
            size, 0.25, channelwise=True, scale="isometry", device=device
        ),
        [],
    ),
    "circulant_gaussian": (
        lambda size, device: PartialCirculant(size, 0.1, "gaussian", device=device),
        [],
    ),
}

# Tests that take the name of an operator, and how they are called.
TESTS: dict[str, dict[str, Any]] = {
    "test_operators_adjointness": {},
    "test_adjointness_test": {"num_samples": 3},
    "test_operators_norm": {"verbose": False},
    "test_pseudo_inverse": {"implicit_backward_solver": True},
    "test_pseudo_inverse ": {"implicit_backward_solver": False},
    "test_decomposable": {},
    "test_concatenation": {},
    "test_operators_differentiability": {},
    "test_device_consistency": {},
    "test_physics_state_dict": {},
    "test_adjoint_autograd": {},
    "test_clone": {},
    "test_operator_cropper": {},
    "test_operator_multiscale_wrapper": {},
    "test_multiscale_coarse_adjointness": {},
    "test_multiscale_A_adjoint_A": {},
}

# deepinv's clone walks through every loaded module: seconds, whatever the variant.
CASES = [
    (test, name)
    for test in TESTS
    for name in (
        ["masking_half", "downsampling_bicubic", "circulant"] if test == "test_clone" else OPERATORS
    )
]

# Tests that build deepinv's physics by class: they run with ours in place of deepinv's.
SUBSTITUTED = ["test_stacking", "test_composed_physics"]


def squared_norm(A: Operator) -> float:
    """Return ||A||^2 from the dense matrix."""
    basis = torch.eye(math.prod(SIZE)).reshape(-1, *SIZE)
    return float(torch.linalg.matrix_norm(A.A(basis).flatten(1).double(), 2) ** 2)


def find_operator(
    name: str,
    device: torch.device | str,
    imsize: tuple[int, ...] | None = None,
    get_physics_param: bool = False,
) -> tuple[Any, ...]:
    """Stand in for deepinv's function of the same name."""
    make, parameters = OPERATORS[name]
    size = SIZE if imsize is None else imsize
    found = (make(size, device), size, squared_norm(make(SIZE, "cpu")), torch.float32)
    return (*found, parameters) if get_physics_param else found


@pytest.fixture(scope="module")
def upstream() -> Iterator[ModuleType]:
    """Return deepinv's test module, loaded from the installed package."""
    path = Path(deepinv.__file__).parent / "tests" / "test_physics.py"
    spec = importlib.util.spec_from_file_location("deepinv_test_physics", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        spec.loader.exec_module(module)
    module.find_operator = find_operator  # type: ignore[attr-defined]
    module.OPERATORS = list(OPERATORS)  # type: ignore[attr-defined]
    yield module
    sys.modules.pop("deepinv_test_physics", None)


@pytest.fixture(params=["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"])
def device(request: pytest.FixtureRequest) -> torch.device:
    return torch.device(request.param)


@pytest.mark.parametrize(("test", "name"), CASES)
def test_of_deepinv(
    upstream: ModuleType,
    test: str,
    name: str,
    device: torch.device,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)  # one of them writes to the working directory
    function = getattr(upstream, test.strip())
    offered = {"name": name, "device": device, "rng": torch.Generator(device).manual_seed(0)}
    wanted = inspect.signature(function).parameters
    torch.manual_seed(0)
    function(**{k: v for k, v in offered.items() if k in wanted}, **TESTS[test])


def inpainting(img_size: Any, mask: Any, device: Any = "cpu", **kwargs: Any) -> Masking:
    """Build a Masking from the arguments of deepinv's Inpainting."""
    if isinstance(mask, float):
        return Masking(img_size, "random", keep=mask, device=device)
    return Masking(img_size, mask, device=device)


@pytest.mark.parametrize("test", SUBSTITUTED)
def test_of_deepinv_with_its_inpainting_replaced(
    upstream: ModuleType, test: str, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deepinv.physics, "Inpainting", inpainting)
    getattr(upstream, test)(device)


@pytest.mark.parametrize("test", ["test_automatic_A_adjoint", "test_separate_noise_models"])
def test_of_deepinv_on_its_own_physics(upstream: ModuleType, test: str) -> None:
    # They name deepinv's classes; run so that the module as loaded here is known to be whole.
    function = getattr(upstream, test)
    function(*["cpu"] * len(inspect.signature(function).parameters))


@pytest.mark.parametrize("name", OPERATORS)
def test_noise_models_are_not_shared(name: str) -> None:
    # What test_separate_noise_models asks of deepinv's Denoising.
    first, second = (OPERATORS[name][0](SIZE, "cpu") for _ in range(2))
    assert first.noise_model is not second.noise_model
