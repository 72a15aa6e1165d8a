"""The report of a run of ``gprior batch``: one page with a table of all items, the worst first."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.nn.functional import interpolate

from gprior.batch import Folder, records
from gprior.commands.report import Raw, Table, encode_png, write_report
from gprior.commands.task import Options
from gprior.solving import UNLIKELY

__all__ = ["thumbnail", "write_run_report"]

SIDE = 64  # pixels of a thumbnail
PICTURES = 2000  # thumbnails in a report; the items without one are the best
COLUMNS = {
    "misfit": "Misfit",
    "criterion": "Criterion",
    "plausibility": "Plausibility",
    "prior_weight": "Prior weight",
    "data_consistency": "|A x − y| / |y|",
    "psnr": "PSNR",
    "ssim": "SSIM",
    "seconds": "Seconds",
}


def thumbnail(image: Tensor) -> bytes:
    """Return a small picture of an image (C, H, W) in [0, 1], as a PNG file."""
    longest = max(image.shape[1:])
    if longest > SIDE:
        size = [max(1, round(n * SIDE / longest)) for n in image.shape[1:]]
        image = interpolate(image[None], size, mode="area")[0]
    return encode_png(image.cpu().numpy())


def write_run_report(folder: Folder, options: Options) -> None:
    """Write ``report.html``, which needs no other file and no network.

    Parameters
    ----------
    folder : Folder
        The folder of the run.
    options : Options
        The options of the run.
    """
    known = list(records(folder))
    done = [record for record in known if "error" not in record]
    failed = [record for record in known if "error" in record]
    done.sort(key=_badness, reverse=True)
    doubtful = sum(1 for r in done if (p := r.get("plausibility")) is not None and p < UNLIKELY)
    lead = [
        f"{len(done)} items reconstructed by {options.solver} from {options.measured}; "
        f"{len(failed)} failed.",
        "The items with the largest misfit come first: there the generator explains the "
        "measurements least. Click a column to sort by it.",
    ]
    if doubtful:
        lead.insert(
            1, f"The prior does not contain {doubtful} of them (plausibility below {UNLIKELY})."
        )
    parts: list[Any] = [Raw("Items", _table(folder, done))]
    if failed:
        parts.insert(0, Table("Failed", [], [[r["id"], r["error"]] for r in failed]))
    write_report(folder.path / "report.html", "Reconstruction of many items", lead, parts)


def _badness(record: Mapping[str, Any]) -> float:
    misfit = record.get("misfit")
    return -1.0 if misfit is None else float(misfit)


def _table(folder: Folder, done: list[dict[str, Any]]) -> str:
    """Return the table of items as HTML, with a script that sorts it."""
    if not done:
        return "<p>No item is done.</p>"
    used = {k: v for k, v in COLUMNS.items() if any(r.get(k) is not None for r in done)}
    head = "".join(
        f"<th><button type=button>{escape(title)}</button></th>"
        for title in ("Item", *used.values())
    )
    rows = "".join(
        f"<tr><td>{_picture(folder, record['id']) if k < PICTURES else ''}</td>"
        f"<td>{_link(record['id'])}</td>"
        + "".join(_cell(record.get(name)) for name in used)
        + "</tr>"
        for k, record in enumerate(done)
    )
    return (
        f"<style>{STYLE}</style><div class=wide><table class='numbers items'>"
        f"<thead><tr><th></th>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
        f"<script>{SCRIPT}</script>"
    )


def _link(item: str) -> str:
    name = escape(item, quote=True)
    return f'<a href="items/{name}/report.html">{name}</a>'


def _picture(folder: Folder, item: str) -> str:
    path = folder.items / item / "thumbnail.png"
    try:
        data = base64.b64encode(Path(path).read_bytes()).decode()
    except OSError:
        return ""
    return f'<img alt="" src="data:image/png;base64,{data}">'


def _cell(value: Any) -> str:
    if value is None:
        return "<td></td>"
    return f"<td data-v={float(value):.9g}>{float(value):.3g}</td>"


STYLE = """
.items img{width:56px;height:56px}
.items td{padding:3px 14px;vertical-align:middle}
.items th:nth-child(2),.items td:nth-child(2){text-align:left;max-width:26em;overflow:hidden;
 text-overflow:ellipsis}
.items button{padding:0;border:0;background:none;color:inherit;font:inherit;cursor:pointer}
.items button:hover{color:var(--ink)}
.items [aria-sort=ascending] button::after{content:" ↑"}
.items [aria-sort=descending] button::after{content:" ↓"}
.items a{color:var(--mark);text-decoration:none}
""".replace("\n", "")

# Numbers sort from the largest at the first click, names from the first; empty cells stay last.
SCRIPT = """
document.querySelectorAll('.items').forEach(table => {
 const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
 heads.forEach((head, k) => head.firstChild && head.firstChild.addEventListener('click', () => {
  const names = k === 1, now = head.getAttribute('aria-sort');
  const up = now ? now === 'descending' : names;
  heads.forEach(other => other.removeAttribute('aria-sort'));
  head.setAttribute('aria-sort', up ? 'ascending' : 'descending');
  const value = row => names ? row.cells[k].textContent
   : row.cells[k].dataset.v === undefined ? null : Number(row.cells[k].dataset.v);
  const rows = [...body.rows].map(row => [value(row), row]);
  rows.sort(([a], [b]) => a === null ? (b === null ? 0 : 1) : b === null ? -1
   : (names ? a.localeCompare(b, undefined, {numeric: true}) : a - b) * (up ? 1 : -1));
  body.append(...rows.map(([, row]) => row));
 }));
});
"""
