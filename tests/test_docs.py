"""The first example of the README and of the documentation, and the checks of the reference."""

from __future__ import annotations

import importlib.util
import re
import textwrap
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
CONF = ROOT / "docs" / "conf.py"


def readme_example() -> str:
    """Return the Python block of the README."""
    match = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert match is not None
    return match[1].strip()


@pytest.fixture(scope="module")
def conf() -> Any:
    spec = importlib.util.spec_from_file_location("docs_conf", CONF)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_first_example_runs() -> None:
    example = readme_example()
    quick = example.replace("gprior.solve(y, A, prior)", "gprior.solve(y, A, prior, steps=2)")
    assert quick != example
    names: dict[str, Any] = {}
    exec(quick.replace("truth = prior.sample(5", "truth = prior.sample(1"), names)
    assert names["y"].shape == (1, 400)
    assert names["result"].x.shape == names["truth"].shape


def test_readme_has_its_two_commands() -> None:
    lines = (ROOT / "README.md").read_text().splitlines()
    at = lines.index("    pip install . && gprior demo")
    assert lines[at + 1] == '    pip install -e ".[test]" && pytest -n auto'


def test_readme_maps_every_folder_of_the_package() -> None:
    import gprior

    package = Path(gprior.__file__).parent
    folders = {path.parent.name for path in package.glob("*/__init__.py")}
    section = (ROOT / "README.md").read_text().partition("## The map")[2].partition("\n## ")[0]
    assert set(re.findall(r"^      (\w+)/ ", section, re.MULTILINE)) == folders
    assert {path.name for path in package.glob("*.py")} - {"__init__.py"} == set(
        re.findall(r"\b\w+\.py\b", section)
    )


def test_first_page_has_the_readme_example() -> None:
    page = (ROOT / "docs" / "index.rst").read_text()
    assert textwrap.indent(readme_example(), "   ", lambda line: bool(line.strip())) in page


def test_reference_lists_only_members_that_a_class_documents(conf: Any) -> None:
    listed = conf.defined_members("gprior.search.Adam")
    assert "step" in listed
    assert "schedule" not in listed  # a field, whose default is a function
    assert "initial" in conf.defined_members("gprior.search.Space")
    assert "initial" not in conf.defined_members("gprior.search.Z")  # documented in Space


def test_undocumented_method_stays_in_the_reference(conf: Any, monkeypatch: Any) -> None:
    """A method without a docstring must reach the check that fails the build."""
    from gprior.priors import Prior

    monkeypatch.setattr(Prior.sample, "__doc__", None)
    assert "sample" in conf.defined_members("gprior.priors.Prior")


def test_model_card_says_what_is_unknown(conf: Any, tmp_path: Path) -> None:
    card = tmp_path / "card.json"
    card.write_text(
        '{"steps": 9000, "seconds": 1, "parameters": null, "frechet": 5.25, "frechet_real": 4.5}'
    )
    lines = conf.card_substitutions(card).splitlines()
    assert ".. |card-steps| replace:: 9\N{NARROW NO-BREAK SPACE}000" in lines
    assert ".. |card-parameters| replace:: *not measured yet*" in lines
    assert ".. |card-frechet| replace:: 5.25" in lines


def test_every_method_has_a_page_and_a_correct_row_in_the_table() -> None:
    import gprior
    from gprior.solvers import SOLVERS, find_solver

    prior = gprior.load_prior("phantom-64")
    folder = ROOT / "docs" / "methods"
    table = (folder / "index.rst").read_text()
    pages = "".join(page.read_text() for page in folder.glob("*.rst"))
    for name, kind in SOLVERS.items():
        assert f"gprior.solvers.{kind.__name__}" in pages, name
        cells = (
            rf"\* - ``{re.escape(name)}``\n     - ([^\n(;]*).*\n     - (\w+).*\n     - ([\d.]+)\n"
        )
        row = re.search(cells, table)
        assert row is not None, name
        assert set(row[1].strip().split(", ")) == kind.needs, name
        assert (row[2] != "no") == kind.has_perceptual, name
        assert row[3] == f"{find_solver(name, prior, {}).cost(classes=1):.1f}", name


def test_page_of_a_method_keeps_the_differences_of_its_module(conf: Any) -> None:
    lines = ["Title", "", "Objective", "", conf.DIFFERENCES, "-" * 30, "- One."]
    conf.keep_differences(None, "module", "gprior.solvers.lbrgm", None, None, lines)
    assert lines == ["- One."]
    other = ["Title"]
    conf.keep_differences(None, "module", "gprior.search.loop", None, None, other)
    assert other == ["Title"]


def test_bars_are_escaped_except_in_literals(conf: Any) -> None:
    lines = ["|x| or ``|y|`` `|y|`::", "", "    |z|", "", "|u|"]
    conf.escape_bars(None, "class", "", None, None, lines)
    assert lines == [r"\|x\| or ``|y|`` `|y|`::", "", "    |z|", "", r"\|u\|"]
