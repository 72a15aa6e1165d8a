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
# Imports point one way: every room and every module of the root, and what it may import. The
# order of the rows is that of the layers.
TOOLS = ("randomness", "files", "checks")
MAY_IMPORT = {
    "randomness": (),
    "checks": (),
    "files": ("checks",),
    "operators": TOOLS,
    "priors": TOOLS,
    "checkpoints": (*TOOLS, "priors"),
    "images": TOOLS,
    "distances": (*TOOLS, "priors"),
    "measurements": (*TOOLS, "operators"),
    "problem": (*TOOLS, "priors", "distances"),
    "search": (*TOOLS, "priors", "problem"),
    "solvers": (*TOOLS, "priors", "distances", "problem", "search"),
    "result": (*TOOLS, "priors", "search"),
    "solving": (
        *TOOLS, "priors", "checkpoints", "distances", "problem", "search", "solvers", "result",
    ),
    "sampling": (*TOOLS, "priors", "problem", "search", "solvers", "result"),
    "editing": (*TOOLS, "priors", "distances", "problem", "search", "solvers", "result"),
    "reconstructor": (*TOOLS, "priors", "search", "solvers", "solving"),
    "batch": (*TOOLS, "priors", "search", "solvers", "result", "solving"),
    "training": (*TOOLS, "priors", "checkpoints", "distances", "images"),
    "commands": (
        *TOOLS, "operators", "priors", "checkpoints", "images", "distances", "measurements",
        "problem", "solvers", "result", "solving", "sampling", "batch", "training",
    ),
    "cli": ("checks", "operators", "commands"),
    "__init__": (
        "batch", "checks", "checkpoints", "distances", "editing", "reconstructor", "result",
        "sampling", "solving",
    ),
}  # fmt: skip
# What a room hides from others: they import from the room itself. Documented parts of it, and the
# commands, which are imported when they run, are the exceptions.
OPEN = ("gprior.commands.", "gprior.solvers.placement", "gprior.solvers.terms")


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


def room_of(module):
    """Return the room of a module, or its own name at the root of the package."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def test_every_room_and_root_module_has_a_rule():
    assert {room_of(m) for m in MODULES} | {"__init__"} == set(MAY_IMPORT)


def test_the_root_has_at_most_eight_modules():
    assert len(list(ROOT.glob("*.py"))) <= 8


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_one_way_and_through_the_room(module):
    own = room_of(module)
    for name in imports_of(module):
        if not name.startswith("gprior.") or room_of(name) in (own, "__version__"):
            continue
        assert room_of(name) in MAY_IMPORT[own], f"{module} imports {name}"
        deeper = path_of(name).is_file() and name.count(".") > 1
        assert not deeper or name.startswith(OPEN), f"{module} reaches into a room: {name}"


def test_the_rules_have_no_circle():
    seen: list[str] = []
    for room, below in MAY_IMPORT.items():
        if room != "__init__":
            assert set(below) <= set(seen), f"{room} is above what it imports"
        seen.append(room)


def test_modules_have_no_circle():
    """Of the modules of a room, too."""
    graph = {
        m: {
            n for n in imports_of(m) if n in MODULES and n != m and path_of(n).name != "__init__.py"
        }
        for m in MODULES
    }
    done: set[str] = set()

    def visit(module, path):
        assert module not in path, " -> ".join([*path, module])
        if module not in done:
            for other in sorted(graph[module]):
                visit(other, [*path, module])
            done.add(module)

    for module in MODULES:
        visit(module, [])


def test_importing_gprior_is_cheap():
    heavy = ("torch", "torchvision", "deepinv", "numpy", "scipy", "matplotlib", "pydicom")
    code = f"import sys, gprior; print([m for m in {heavy} if m in sys.modules])"
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT.parent
    )
    assert found.stdout.strip() == "[]"


def test_a_prior_and_its_samples_need_no_deepinv():
    code = "import sys, gprior.checkpoints, gprior.training; print('deepinv' in sys.modules)"
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT.parent
    )
    assert found.stdout.strip() == "False"


def test_the_status_of_a_run_needs_no_torch():
    code = (
        "import sys, gprior.commands.status; from gprior.batch import status_of; "
        "print('torch' in sys.modules)"
    )
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
