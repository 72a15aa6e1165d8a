"""Configure Sphinx. The build uses ``-W``: every warning fails it, even a missing docstring."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import json
import re
import types
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent

project = "gprior"
author = "The gprior developers"
copyright = "The gprior developers"
version = release = importlib.import_module("gprior").__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "numpydoc",
    "sphinx_gallery.gen_gallery",
    "matplotlib.sphinxext.plot_directive",
]
plot_formats = [("png", 130)]
plot_html_show_formats = plot_html_show_source_link = False
templates_path = ["_templates"]
exclude_patterns = ["_build"]
default_role = "py:obj"

# --- The API reference must have every name in __all__ of these modules ------------------

PUBLIC = (
    "gprior",
    "gprior.operators",
    "gprior.measurements",
    "gprior.priors",
    "gprior.checkpoints",
    "gprior.distances",
    "gprior.problem",
    "gprior.search",
    "gprior.solvers",
    "gprior.sampling",
    "gprior.editing",
    "gprior.solvers.terms",
    "gprior.solvers.placement",
    "gprior.images",
    "gprior.training",
    "gprior.randomness",
)


def defined_members(name: str) -> list[str]:
    """Return the public methods and properties that a class defines.

    Fields of dataclasses are left out, because the docstring of the class describes them. Methods
    that inherit their docstring from a base class of the package are left out, too.
    """
    module, _, qualified = name.rpartition(".")
    cls = getattr(importlib.import_module(module), qualified)
    fields = {f.name for f in dataclasses.fields(cls)} if dataclasses.is_dataclass(cls) else set()
    kinds = (types.FunctionType, property, classmethod, staticmethod)
    bases = [base for base in cls.__mro__[1:] if base.__module__.startswith("gprior")]
    inherited = {key for base in bases for key in vars(base)}
    return [
        key
        for key, value in vars(cls).items()
        if isinstance(value, kinds)
        and (key == "__call__" or not key.startswith("_"))
        and key not in fields
        and (value.__doc__ or key not in inherited)
    ]


autosummary_context = {"defined_members": defined_members}
suppress_warnings = ["config.cache"]  # a function in the context above cannot be cached
autodoc_typehints = "none"  # the docstrings state the types, with shapes and units
autodoc_preserve_defaults = True
numpydoc_show_class_members = False
numpydoc_validation_checks = {
    "GL06",  # unknown section
    "GL07",  # sections in the wrong order
    "GL08",  # no docstring
    "GL10",  # directive without its colons
    "SS01",  # no summary
    "PR01",  # parameter not documented
    "PR02",  # documented parameter does not exist
    "PR07",  # parameter without description
    "PR10",  # "name: type" without the space
    "RT03",  # return value without description
}
# A docstring may be one line without a section Parameters; if it has that section, it is complete.
numpydoc_validation_overrides = {
    "PR01": [r"\A(?!(?:.|\n)*Parameters\n\s*----)"],
}


def check_complete(app: Any, env: Any) -> None:
    """Warn about every public class or function that is not in the API reference."""
    from sphinx.util import logging

    documented = env.get_domain("py").objects
    modules = [importlib.import_module(name) for name in PUBLIC]
    for module in modules:
        for name in module.__all__:
            public = getattr(module, name)
            if not (inspect.isclass(public) or inspect.isroutine(public)):
                continue
            homes = [m.__name__ for m in modules if getattr(m, name, None) is public]
            if not any(f"{home}.{name}" in documented for home in homes):
                logging.getLogger(__name__).warning(
                    "public name %s.%s is not in docs/reference.rst", module.__name__, name
                )


# --- The pages of methods ---------------------------------------------------------------------

DIFFERENCES = "Differs from the authors' code"


def keep_differences(
    app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]
) -> None:
    """Keep only the section on differences of a method's module; its page says the rest."""
    if what == "module" and name.startswith(("gprior.solvers.", "gprior.editing.")):
        del lines[: lines.index(DIFFERENCES) + 2 if DIFFERENCES in lines else len(lines)]


def escape_bars(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Escape the bars of a norm |x|, which reST reads as a substitution, except in literals."""
    literal = None  # indentation of the paragraph that introduces a literal block
    for i, line in enumerate(lines):
        indent = len(line) - len(line.lstrip())
        if line.strip() and literal is not None and indent <= literal:
            literal = None
        if literal is None:
            parts = re.split("(`+[^`]+`+)", line)  # the odd parts are literals, names and formulas
            parts[::2] = [part.replace("|", r"\|") for part in parts[::2]]
            lines[i] = "".join(parts)
            literal = indent if line.endswith("::") else None


# --- The gallery, which runs when the documentation is built -----------------------------------

sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "auto_examples",
    "filename_pattern": r"\.py$",
    "abort_on_example_error": True,
    "download_all_examples": False,
    "show_signature": False,
    "show_memory": False,
    "min_reported_time": 0,
    "plot_gallery": True,
}

# --- Numbers of the model card, from the file that the training wrote ----------------------------


def card_substitutions(path: Path) -> str:
    """Return a reST substitution for each number of a model card: ``|card-steps|``, ..."""
    facts = json.loads(path.read_text())
    numbers = ("steps", "seconds", "parameters", "frechet", "frechet_real")
    return "\n".join(f".. |card-{key}| replace:: {shown(facts[key])}" for key in numbers)


def shown(number: float | None) -> str:
    """Return a number with a space between thousands, or say that it is not measured yet."""
    if number is None:
        return "*not measured yet*"
    if number < 1000:
        return f"{number:g}"
    return f"{number:,.0f}".replace(",", "\N{NARROW NO-BREAK SPACE}")


rst_epilog = card_substitutions(HERE / "model_card" / "phantom-64.json")

# --- HTML ------------------------------------------------------------------------------------

html_theme = "pydata_sphinx_theme"
html_title = "gprior"
html_static_path = ["_static"]
html_css_files = ["gprior.css"]
html_show_sourcelink = False
# These pages have no subpages, so they have no sidebar.
html_sidebars = {p.stem: [] for p in HERE.glob("*.rst") if p.stem != "reference"}
html_theme_options = {
    "logo": {"text": "gprior"},
    "navigation_with_keys": False,
    "show_prev_next": False,
    "secondary_sidebar_items": {
        "**": ["page-toc"],
        "methods/index": [],
        "auto_examples/compare_methods": [],
        "auto_examples/edits": [],
        "auto_examples/multicoil_mri": [],
        "auto_examples/prior_does_not_fit": [],
        "auto_examples/sparse_view_ct": [],
    },
    "header_links_before_dropdown": 6,
    "navbar_persistent": ["search-button"],
    "footer_start": ["copyright"],
    "footer_end": [],
}
html_math_renderer = "mathml"


def math_inline(writer: Any, node: Any) -> None:
    """Write an inline formula as MathML, which browsers display without downloading a script."""
    from docutils import nodes
    from docutils.utils.math.latex2mathml import tex2mathml

    writer.body.append(tex2mathml(node.astext()))
    raise nodes.SkipNode


def math_block(writer: Any, node: Any) -> None:
    """Write a displayed formula as MathML."""
    from docutils import nodes
    from docutils.utils.math.latex2mathml import tex2mathml

    writer.body.append(f'<div class="math">{tex2mathml(node.astext(), True)}</div>')
    raise nodes.SkipNode


# --- The help texts of the command line, taken from the commands themselves ---------------------


def output_directive(*words: str) -> Any:
    """Return a directive that shows what ``gprior COMMAND`` prints, where `words` follow it."""
    from docutils import nodes
    from docutils.parsers.rst import Directive
    from typer.testing import CliRunner

    from gprior.cli import main

    class Output(Directive):
        required_arguments = 1

        def run(self) -> list[Any]:
            arguments = [*self.arguments, *words]
            shown = CliRunner().invoke(main, arguments, prog_name="gprior", terminal_width=84)
            if shown.exit_code:
                raise self.error(f"gprior {' '.join(arguments)} failed: {shown.output}")
            return [nodes.literal_block(text=shown.output.strip(), language="text")]

    return Output


def setup(app: Any) -> None:
    """Register the checks, the directive and the renderer of formulas."""
    app.add_directive("help", output_directive("--help"))
    app.add_directive("output", output_directive())
    app.connect("autodoc-process-docstring", keep_differences)
    app.connect("autodoc-process-docstring", escape_bars)
    app.connect("env-check-consistency", check_complete)
    app.add_html_math_renderer("mathml", (math_inline, None), (math_block, None))
