"""The shape of the package: which way imports point, what an import costs, what is public."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import gprior

ROOT = Path(gprior.__file__).parent
MODULES = sorted(
    m.name for m in pkgutil.walk_packages([str(ROOT)], "gprior.") if not m.name.endswith("__main__")
)
# Below each of these, nothing of what stands above it is imported, not even lazily.
SOLVING = ("gprior.solv", "gprior.cli", "gprior.demo", "gprior.reconstruct")
SEARCH = ("gprior.space", "gprior.objective", "gprior.problem", "gprior.loop", "gprior.initial")
GENERATORS = tuple(
    f"gprior.priors.{name}" for name in ("stylegan2", "biggan", "layers", "discriminator")
)
BELOW = {
    "gprior.operators": (*SOLVING, *SEARCH, "gprior.priors", "gprior.training"),
    "gprior.priors": (*SOLVING, *SEARCH, "gprior.operators", "gprior.training", "gprior.result"),
    "gprior.checkpoints": (*SOLVING, *SEARCH, "gprior.operators", "gprior.training"),
    "gprior.randomness": ("gprior.",),
    "gprior.files": ("gprior.",),
    "gprior.features": ("gprior.",),
    "gprior.phantoms": (*SOLVING, *SEARCH, "gprior.priors"),
    "gprior.images": (*SOLVING, *SEARCH, "gprior.priors"),
    "gprior.training": (*SOLVING, *SEARCH, "gprior.operators"),
    "gprior.perceptual": (*SOLVING, *SEARCH, *GENERATORS, "gprior.operators", "gprior.training"),
    "gprior.acquisition": (*SOLVING, *SEARCH, "gprior.priors"),
    **dict.fromkeys(SEARCH, (*SOLVING, *GENERATORS)),
    "gprior.solvers": ("gprior.solving", "gprior.cli", "gprior.demo", *GENERATORS),
    "gprior.solving": ("gprior.cli", "gprior.demo", "gprior.reconstruct", *GENERATORS),
}


def path_of(module):
    path = ROOT.joinpath(*module.split(".")[1:])
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def imports_of(module):
    """Return the modules that a module imports at run time, anywhere in it."""
    tree = ast.parse(path_of(module).read_text())
    typing_only = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for inner in ast.walk(node)
    }
    for node in set(ast.walk(tree)) - typing_only:
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module
            yield from (f"{node.module}.{name.name}" for name in node.names)
        assert not (isinstance(node, ast.ImportFrom) and node.level), f"{module}: relative import"


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_one_way(module):
    for below, above in BELOW.items():
        if module != below and not module.startswith(below + "."):
            continue
        wrong = {
            name
            for name in imports_of(module)
            if name.startswith(above) and not name.startswith(below)
        }
        assert not wrong, f"{module} imports {sorted(wrong)}"


def test_importing_gprior_is_cheap():
    heavy = ("torch", "torchvision", "deepinv", "numpy", "scipy", "matplotlib", "pydicom")
    code = f"import sys, gprior; print([m for m in {heavy} if m in sys.modules])"
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT.parent
    )
    assert found.stdout.strip() == "[]"


def test_a_prior_and_its_samples_need_no_deepinv():
    code = "import sys, gprior.priors, gprior.training.trainer; print('deepinv' in sys.modules)"
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT.parent
    )
    assert found.stdout.strip() == "False"


@pytest.mark.parametrize("name", ["gprior", *MODULES])
def test_public_names_exist_and_have_docstrings(name):
    module = importlib.import_module(name)
    assert (module.__doc__ or "").strip(), name
    for public in getattr(module, "__all__", ()):
        value = getattr(module, public)
        if not (inspect.isclass(value) or inspect.isfunction(value)):
            continue
        assert (value.__doc__ or "").strip(), f"{name}.{public}"
        if inspect.isclass(value):
            for attribute, member in vars(value).items():
                wrapped = getattr(member, "fget", getattr(member, "__func__", member))
                named = inspect.isfunction(wrapped) and wrapped.__name__ != "<lambda>"
                if attribute.startswith("_") or not named:
                    continue
                assert inspect.getdoc(getattr(value, attribute)), f"{name}.{public}.{attribute}"


@pytest.mark.parametrize("module", MODULES)
def test_users_never_meet_an_assertion(module):
    lines = path_of(module).read_text().splitlines()
    asserts = [n for n in ast.walk(ast.parse("\n".join(lines))) if isinstance(n, ast.Assert)]
    for node in asserts:
        assert "noqa: S101" in lines[node.lineno - 1], f"{module}:{node.lineno}"


def test_the_solvers_know_no_generator():
    """Also not by name."""
    for module in MODULES:
        if module.startswith("gprior.solvers."):
            tree = ast.parse(path_of(module).read_text())
            names = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)}
            assert not names & {"StyleGAN2", "BigGAN", "AdaptedPrior", "Discriminator"}, module
