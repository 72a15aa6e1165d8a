"""Reports: one HTML page that needs no other file, and a figure for print.

All gray panels show the range [0, 1], and all residuals the range -LIMIT to LIMIT, so that panels
can be compared.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gprior import __version__
from gprior.files import atomic_write, write_text
from gprior.images import STAMP, encode_pixels, to_stored

__all__ = [
    "Case",
    "Chart",
    "Panel",
    "Raw",
    "Section",
    "Table",
    "encode_png",
    "write_figure",
    "write_report",
]

LIMIT = 0.25
COLOURS = "RdBu_r"  # of residuals: blue is too dark, red is too bright


@dataclass(frozen=True, eq=False)
class Panel:
    """One picture.

    Attributes
    ----------
    title : str
        Title of the column that it stands in.
    image : array-like
        (1 or 3, H, W), with values in [0, 1], or a residual.
    note : str
        Text under the picture, such as its PSNR.
    signed : bool
        Whether the image is a residual, with values around 0.
    """

    title: str
    image: ArrayLike
    note: str = ""
    signed: bool = False


@dataclass(frozen=True, eq=False)
class Case:
    """One reconstruction: a row of panels, and the loss at each step."""

    title: str
    panels: Sequence[Panel]
    history: Sequence[float] = ()
    note: str = ""


@dataclass(frozen=True)
class Section:
    """Cases with the same columns, under one heading."""

    title: str
    cases: Sequence[Case]
    note: str = ""


@dataclass(frozen=True)
class Table:
    """A table. If it has a head, all columns except the first are numbers."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]

    def text(self) -> str:
        """Return the table as aligned lines for a terminal."""
        lines = [list(self.head), *map(list, self.rows)]
        widths = [max(len(line[k]) for line in lines) for k in range(len(self.head))]
        aligned = [
            "  ".join(
                cell.ljust(width) if k == 0 else cell.rjust(width)
                for k, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in lines
        ]
        return "\n".join([aligned[0], "-" * (sum(widths) + 2 * len(widths) - 2), *aligned[1:]])


@dataclass(frozen=True)
class Chart:
    """One number over another one, as points joined by a line. None leaves a gap."""

    title: str
    label: str
    x: Sequence[float]
    y: Sequence[float | None]


@dataclass(frozen=True)
class Raw:
    """HTML under a heading."""

    title: str
    html: str


def encode_png(image: ArrayLike, signed: bool = False) -> bytes:
    """Encode an image as an 8-bit PNG whose metadata says that it was generated.

    Parameters
    ----------
    image : array-like
        (1 or 3, H, W). Values outside the scale are clamped.
    signed : bool
        Whether the image is a residual. Its mean over channels is then shown in colours.

    Returns
    -------
    bytes
        The PNG file.
    """
    values = np.asarray(image, dtype=np.float64)
    if signed:
        values = _coloured(values.mean(0))
    return encode_pixels(to_stored(values * 255, "uint8", 0, 255), "png", STAMP)


def _coloured(residual: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a residual (H, W) as colours (3, H, W) in [0, 1]."""
    from matplotlib import colormaps

    rgba = colormaps[COLOURS](np.clip(residual / LIMIT, -1, 1) / 2 + 0.5)
    return np.moveaxis(np.asarray(rgba, dtype=np.float64)[..., :3], 2, 0)


# --- HTML ------------------------------------------------------------------------------------


def write_report(
    path: Path,
    title: str,
    lead: Sequence[str],
    parts: Sequence[Table | Section | Chart | Raw],
) -> None:
    """Write a self-contained HTML page.

    Parameters
    ----------
    path : Path
        The file.
    title : str
        Heading of the page.
    lead : sequence of str
        Paragraphs under the heading.
    parts : sequence of Table, Section, Chart or Raw
        Tables, pictures, charts and HTML, in the order of the page.

    Raises
    ------
    OSError
        See `gprior.files.atomic_write`.
    """
    body = [
        f"<header><h1>{escape(title)}</h1><p class=stamp>{escape(STAMP.capitalize())}.</p>",
        *(f"<p>{escape(text)}</p>" for text in lead),
        "</header>",
        *map(_part, parts),
        f"<footer>gprior {__version__} · {escape(STAMP)}</footer>",
    ]
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{escape(title)}</title><style>{STYLE}</style>"
    )
    page = f'<!doctype html><html lang="en"><head>{head}</head><body>'
    write_text(path, page + "\n".join(body) + "</body></html>\n", "the report")


def _part(part: Table | Section | Chart | Raw) -> str:
    if isinstance(part, Raw):
        return f"<h2>{escape(part.title)}</h2>{part.html}"
    if isinstance(part, Table):
        return _table(part)
    return _chart(part) if isinstance(part, Chart) else _section(part)


def _chart(chart: Chart) -> str:
    """Draw a chart as an inline vector graphic."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    drawing = Figure(figsize=(7, 2.4), layout="constrained")
    FigureCanvasSVG(drawing)
    axes = drawing.subplots()
    axes.plot(chart.x, [math.nan if y is None else y for y in chart.y], ".-", color="#2f5fd0")
    axes.set_xlabel(chart.label)
    axes.margins(y=0.15)
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.spines[["top", "right"]].set_visible(False)
    buffer = io.StringIO()
    drawing.savefig(buffer, format="svg")
    picture = buffer.getvalue()
    picture = picture[picture.index("<svg") :]  # without the head of a document of its own
    return f"<h2>{escape(chart.title)}</h2><div class=chart>{picture}</div>"


def _table(table: Table) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in table.head)
    rows = (
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in table.rows
    )
    kind, head = ("numbers", f"<thead><tr>{head}</tr></thead>") if table.head else ("facts", "")
    return (
        f"<h2>{escape(table.title)}</h2><div class=wide><table class={kind}>{head}"
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _scale() -> str:
    stops = _coloured(np.linspace(-LIMIT, LIMIT, 9)[None])[:, 0].T
    colours = ",".join(f"rgb({r:.0f} {g:.0f} {b:.0f})" for r, g, b in stops * 255)
    return (
        '<p class=scales><span>Images 0 <i style="background:linear-gradient(90deg,#000,#fff)"></i>'
        f" 1</span><span>Residual −{LIMIT} "
        f'<i style="background:linear-gradient(90deg,{colours})"></i> +{LIMIT}</span></p>'
    )


def _section(section: Section) -> str:
    if not section.cases:
        return ""
    curves = any(case.history for case in section.cases)
    titles = [panel.title for panel in section.cases[0].panels] + ["Loss"] * curves
    head = "".join(f"<b>{escape(title)}</b>" for title in titles)
    rows = "".join(
        f"<div class=name>{escape(case.title)}<small>{escape(case.note)}</small></div>"
        + "".join(map(_figure, case.panels))
        + (_curve(case.history) if curves else "")
        for case in section.cases
    )
    note = f"<p>{escape(section.note)}</p>" if section.note else ""
    scale = _scale() if any(panel.signed for panel in section.cases[0].panels) else ""
    return (
        f"<h2>{escape(section.title)}</h2>{note}{scale}<div class=wide>"
        f'<div class=grid style="--columns:{len(titles)}"><b></b>{head}{rows}</div></div>'
    )


def _figure(panel: Panel) -> str:
    data = base64.b64encode(encode_png(panel.image, panel.signed)).decode()
    return (
        f'<figure><img alt="{escape(panel.title)}" src="data:image/png;base64,{data}">'
        f"<figcaption>{escape(panel.note)}</figcaption></figure>"
    )


def _curve(history: Sequence[float]) -> str:
    """Draw the loss as an inline vector graphic, on a logarithmic scale if it is positive."""
    losses = [v for v in history if math.isfinite(v)]
    positive = all(v > 0 for v in losses)
    values = [math.log10(v) for v in losses] if positive else losses
    if len(values) < 2:
        return "<figure></figure>"
    lo, hi = min(values), max(values)
    points = " ".join(
        f"{4 + 92 * k / (len(values) - 1):.1f},{94 - 88 * (v - lo) / max(hi - lo, 1e-9):.1f}"
        for k, v in enumerate(values)
    )
    return (
        '<figure><svg viewBox="0 0 100 100" role="img" aria-label="Loss at each step">'
        f'<polyline points="{points}"/></svg><figcaption>{losses[0]:.2g} → '
        f"{losses[-1]:.2g} in {len(values)} steps</figcaption></figure>"
    )


STYLE = """
:root{--ink:#1c2430;--dim:#667085;--line:#e4e7ec;--soft:#f7f8fa;--mark:#2f5fd0}
*{box-sizing:border-box}
body{max-width:1240px;margin:0 auto;padding:40px 24px;background:#fff;color:var(--ink);
 font:15px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
h1{margin:0 0 8px;font-size:30px;letter-spacing:-.02em}
h2{margin:40px 0 8px;font-size:19px;letter-spacing:-.01em}
p{max-width:80ch;margin:8px 0}
.stamp{display:inline-block;margin:0 0 8px;padding:2px 12px;border:1px solid #f0c36d;
 border-radius:99px;background:#fff8e6;color:#7a4d00;font-size:13px}
.wide{overflow-x:auto}
table{border-collapse:collapse;font-variant-numeric:tabular-nums}
th,td{padding:6px 14px;border-bottom:1px solid var(--line);text-align:left}
.numbers th,.numbers td{text-align:right;white-space:nowrap}
th{color:var(--dim);font-size:13px;font-weight:600}
table th:first-child,table td:first-child{padding-left:0;text-align:left}
.facts{font-size:13px}
.facts td{vertical-align:top;overflow-wrap:anywhere}
.facts td:first-child{color:var(--dim);white-space:nowrap}
.facts td:nth-child(2){min-width:6em}
tbody tr:hover{background:var(--soft)}
.scales{display:flex;gap:32px;color:var(--dim);font-size:13px}
.scales i{display:inline-block;width:140px;height:10px;margin:0 4px;border:1px solid var(--line);
 border-radius:3px;vertical-align:middle}
.grid{display:grid;gap:10px;min-width:calc(140px + var(--columns)*112px);
 grid-template-columns:130px repeat(var(--columns),minmax(100px,150px))}
.grid>b{padding:6px 0;border-bottom:1px solid var(--line);color:var(--dim);font-size:13px;
 font-weight:600}
.name{align-self:center;font-weight:600}
small{display:block;color:var(--dim);font-size:12px;font-weight:400}
figure{margin:0}
img,svg{display:block;width:100%;aspect-ratio:1;border-radius:4px;object-fit:contain}
img{background:#000;image-rendering:pixelated}
svg{border:1px solid var(--line);background:var(--soft)}
.chart svg{max-width:760px;height:auto;aspect-ratio:auto;border:0;background:none}
polyline{fill:none;stroke:var(--mark);stroke-width:1.6;stroke-linejoin:round}
figcaption{min-height:18px;padding-top:2px;color:var(--dim);font-size:12px;
 font-variant-numeric:tabular-nums}
footer{margin-top:48px;padding-top:12px;border-top:1px solid var(--line);color:var(--dim);
 font-size:13px}
""".replace("\n", "")


# --- Figure ----------------------------------------------------------------------------------


def write_figure(path: Path, cases: Sequence[Case]) -> None:
    """Draw cases as a PNG figure.

    Parameters
    ----------
    path : Path
        The file.
    cases : sequence of Case
        The rows, which have the same columns.

    Raises
    ------
    OSError
        See `gprior.files.atomic_write`.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows, columns = len(cases), len(cases[0].panels)
    drawing = Figure(figsize=(1.5 * columns + 0.5, 1.65 * rows + 0.6), layout="constrained")
    axes = drawing.subplots(rows, columns, squeeze=False)
    signed = None
    for row, case in zip(axes, cases, strict=True):
        row[0].set_ylabel(case.title, fontsize=8)
        for ax, panel in zip(row, case.panels, strict=True):
            picture = _draw(ax, panel)
            signed = picture if panel.signed else signed
            ax.set_xlabel(panel.note, fontsize=8)
    for ax, panel in zip(axes[0], cases[0].panels, strict=True):
        ax.set_title(panel.title, fontsize=9)
    if signed is not None:
        ticks = [-LIMIT, 0, LIMIT]
        bar = drawing.colorbar(signed, ax=axes[0, -1], ticks=ticks, fraction=0.05, pad=0.02)
        bar.ax.tick_params(labelsize=7)
    drawing.supxlabel(STAMP.capitalize(), fontsize=8, color="0.4")
    FigureCanvasAgg(drawing)
    with atomic_write(path, "the figure") as temporary:
        drawing.savefig(temporary, format="png", dpi=150)


def _draw(ax: Any, panel: Panel) -> Any:
    ax.set_xticks([])
    ax.set_yticks([])
    values = np.asarray(panel.image, dtype=np.float64)
    if panel.signed:
        return ax.imshow(
            values.mean(0), cmap=COLOURS, vmin=-LIMIT, vmax=LIMIT, interpolation="nearest"
        )
    pixels = values[0] if len(values) == 1 else np.clip(np.moveaxis(values, 0, 2), 0, 1)
    return ax.imshow(pixels, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
