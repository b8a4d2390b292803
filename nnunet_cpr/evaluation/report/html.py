"""The report as one self-contained HTML file."""

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from nnunet_cpr.evaluation.figures.drawing import Drawing
from nnunet_cpr.evaluation.formatting import UNDEFINED
from nnunet_cpr.evaluation.report.sections import Section
from nnunet_cpr.evaluation.report.short_names import legend
from nnunet_cpr.evaluation.report.tables import Cell
from nnunet_cpr.evaluation.report.verdict import READING, verdicts
from nnunet_cpr.evaluation.results import Results


def html_page(results: Results, sections: Sequence[Section], svgs: Mapping[str, str]) -> str:
    """Return the page; `svgs` holds the figures by name."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"cell": _cell, "sort_key": _sort_key, "breakable": _breakable}
    page: str = environment.get_template("page.html.j2").render(
        results=results,
        verdicts=verdicts(results),
        reading=READING,
        legend=legend(results),
        sections=sections,
        figure=lambda drawing: _inline(drawing, svgs[drawing.name]),
    )
    return page


def _cell(cell: Cell) -> Markup:
    """The text: names may break after underscores, and the dash of an undefined number says what it is."""
    text = str(_breakable(cell.text))
    if cell.number is not None:
        text = text.replace(UNDEFINED, f'<span role="img" title="undefined" aria-label="undefined">{UNDEFINED}</span>')
    return Markup(text)


def _breakable(text: str) -> Markup:
    return Markup(str(escape(text)).replace("_", "_<wbr>"))


def _sort_key(cell: Cell) -> str | None:
    if cell.number is None:
        return None
    return "" if math.isnan(cell.number) else repr(float(cell.number))


def _inline(drawing: Drawing, svg: str) -> Markup:
    """The SVG as a part of a page: no prolog, ids of its own, a title."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{drawing.name}-", svg)
    title = f'<title id="{drawing.name}-title">{escape(drawing.title)}</title>'
    width = re.search(r'width="([\d.]+pt)"', svg)
    assert width is not None
    head = (
        f'<svg role="img" aria-labelledby="{drawing.name}-title" aria-describedby="{drawing.name}-text" '
        f'style="max-width: {width[1]}" '
    )
    start = svg.index(">") + 1
    return Markup(svg[:start].replace("<svg ", head, 1) + title + svg[start:])  # matplotlib escaped its texts
