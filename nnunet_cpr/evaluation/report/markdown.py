"""The report as Markdown, for repositories and notes."""

import re
from collections.abc import Sequence

from nnunet_cpr.evaluation.formatting import name
from nnunet_cpr.evaluation.report.sections import Section
from nnunet_cpr.evaluation.report.short_names import legend
from nnunet_cpr.evaluation.report.tables import Table
from nnunet_cpr.evaluation.report.verdict import READING, verdicts
from nnunet_cpr.evaluation.results import Results


def markdown_page(results: Results, sections: Sequence[Section]) -> str:
    """Return the page; figures are linked from the folder beside it."""
    parts = [f"# {escape(results.title)}", f"Baseline: {escape(results.baseline)}"]
    if names := legend(results):
        parts.append("\n".join(f"- {escape(name)}: {escape(runs)}" for name, runs in names.items()))
    for dataset, found in verdicts(results).items():
        parts.append(f"## {escape(dataset)}")
        for verdict in found:
            parts.append(f"**{escape(verdict.trainer)}: {escape(verdict.finding)}.** {escape(verdict.numbers)}")
            parts += [f"- {escape(line)}" for line in verdict.other_metrics]
    parts.append(escape(READING))
    if results.cautions:
        parts += ["## Cautions", "\n".join(f"> - {escape(caution)}" for caution in results.cautions)]
    for section in sections:
        parts.append(f"## {escape(section.heading)}")
        parts += map(escape, section.notes)
        parts += [_fenced(section.commands)] if section.commands else []
        for table in section.tables:
            parts += [f"**{escape(table.caption)}**", _table(table)] if table.rows else []
        for drawing in section.drawings:
            parts.append(f"![{escape(drawing.title)}](figures/{drawing.name}.png)")
            parts.append(f"{escape(drawing.title)}. {escape(drawing.text)}")
    facts = "\n".join(f"| {escape(key)} | {escape(fact)} |" for key, fact in results.facts.items())
    parts += ["## How it was computed", f"| | |\n|---|---|\n{facts}"] if facts else []
    return "\n\n".join(parts) + "\n"


def escape(text: str) -> str:
    """Escape what Markdown, or the HTML in it, would not print as it is; on one line."""
    return re.sub(r"([\\`*_\[\]<>|#~$])", r"\\\1", name(text).replace("&", "&amp;"))


def _fenced(commands: Sequence[str]) -> str:
    """Fence the commands with more backticks than they have in a row."""
    code = "\n".join(commands)
    fence = max(["```", *(f"{run}`" for run in re.findall("`{3,}", code))], key=len)
    return f"{fence}sh\n{code}\n{fence}"


def _table(table: Table) -> str:
    header = "| " + " | ".join(escape(column.name) for column in table.columns) + " |"
    rule = "|" + "|".join("---:" if column.numeric else "---" for column in table.columns) + "|"
    rows = ["| " + " | ".join(escape(cell.text) for cell in row) + " |" for row in table.rows]
    return "\n".join([header, rule, *rows])
