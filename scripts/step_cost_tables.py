"""Writes what the benchmarks have measured, docs/results/*.json, into docs/reference/step-cost.md.

Only what stands between a line `<!-- generated: NAME -->` and the next line `<!-- end -->` is replaced.

    python scripts/step_cost_tables.py
"""

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.formatting import largest_noise, show_caches, show_overhead, show_span
from benchmarks.paper import ROW, paper_overhead

from nnunet_cpr.files import read_json, write_text

ROOT = Path(__file__).parents[1]
PAGES = ("docs/reference/step-cost.md",)
NOTHING = "Nothing has been measured with this version yet.\n"
_PART = re.compile(r"(<!-- generated: ([\w-]+) -->\n).*?(<!-- end -->\n)", re.DOTALL)


def renew(text: str, results: Path) -> str:
    """Return a page's text with its generated parts made anew from the files in a folder of results."""
    return _PART.sub(lambda part: f"{part[1]}\n{PARTS[part[2]](results)}\n{part[3]}", text)


def step_cost_ranges(results: Path) -> str:
    """Return the ratios of all processors as one table, a column for each model and number of threads."""
    machines = _read_machines(results)
    if not machines:
        return NOTHING
    opponents: dict[str, str] = {}
    ratios: dict[tuple[str, str], list[float]] = {}
    columns: dict[str, None] = {}
    for machine in machines:
        for contest in machine["contests"]:
            column = f"{contest['model']}, {_where(machine, contest)}"
            columns[column] = None
            for row in contest["rows"][1:]:  # the first one is the opponent
                opponents[row["optimizer"]] = contest["opponent"]
                ratios.setdefault((row["optimizer"], column), []).append(row["ratio"])
    rows = []
    for name, opponent in opponents.items():
        found = [ratios.get((name, column)) for column in columns]
        rows.append([name, *[show_span((min(cell), max(cell)), 2) if cell else "" for cell in found], opponent])
    names = "; ".join(sorted({machine["processor"] for machine in machines}))
    others = "; ".join(sorted({f"torch {machine['torch']}, code {machine['code']}" for machine in machines}))
    return f"{_table(['optimizer step', *columns, 'ratio to'], rows)}\nProcessors: {names}; {others}.\n"


def step_cost_processors(results: Path) -> str:
    """Return a section for each processor: what it is, and the times, ratios and ways of all contestants."""
    return "\n".join(_processor_section(machine) for machine in _read_machines(results)) or NOTHING


def _processor_section(machine: dict[str, Any]) -> str:
    facts = (
        f"{machine['processors']} processors, caches: {show_caches(machine['caches'])}; {machine['compiler']}; "
        f"torch {machine['torch']}; code {machine['code']}; {machine['rounds']} rounds."
    )
    rows = [
        [
            f"{contest['model']}, {_where(machine, contest)}",
            row["optimizer"],
            f"{row['median_ms']:.1f} ({show_span(row['quartiles_ms'], 1)})",
            f"{row['ratio']:.2f} ({show_span(row['ratio_quartiles'], 2)})",
            row["way"],
        ]
        for contest in machine["contests"]
        for row in contest["rows"]
    ]
    header = ["parameters", "optimizer", "ms", "ratio", "way"]
    return f"### {machine['processor']}\n\n{facts}\n\n{_table(header, rows)}"


def _read_machines(results: Path) -> list[dict[str, Any]]:
    return [read_json(path) for path in sorted((results / "step_cost").glob("*.json"))]


def _where(machine: dict[str, Any], contest: dict[str, Any]) -> str:
    threads = contest["threads"]
    return "GPU" if machine["device"] == "cuda" else f"{threads} thread{'s' if threads > 1 else ''}"


def whole_step(results: Path) -> str:
    """Return the table of `benchmark_training_steps.py`."""
    result = read_json(results / "training_steps_cpu.json")
    cells = {(row["network"], row["optimizer"]): row for row in result["rows"]}
    networks, optimizers = (list(dict.fromkeys(row[key] for row in result["rows"])) for key in ("network", "optimizer"))
    rows = [
        [name, *(show_overhead(cells[network, name]) if (network, name) in cells else "" for network in networks)]
        for name in optimizers
    ]
    firsts = [next(row for row in result["rows"] if row["network"] == network) for network in networks]
    header = ["over AdamW, of a whole step", *(f"{row['network']}, batch {row['batch']}" for row in firsts)]
    passes = ", ".join(f"{row['network']} {row['pass_ms'] / 1e3:.1f} s" for row in firsts)
    facts = f"{result['precision']}, {result['threads']} threads; forward and backward take: {passes}"
    rows.append([ROW, *map(paper_overhead, firsts)])
    rows.append(
        ["AdamW over itself, at most", *(f"{largest_noise(result['rows'], network):.2f} %" for network in networks)]
    )
    return f"{facts}; {_origin(result)}.\n\n{_table(header, rows)}"


def gpu_traffic(results: Path) -> str:
    """Return the table of `count_gpu_traffic.py`."""
    rows = [
        [
            row["optimizer"],
            f"{row['bytes_a_parameter']:.2f}",
            sum(row["kernels"].values()),
            sum(row["operators"].values()),
        ]
        for row in read_json(results / "gpu_traffic.json")["rows"]
    ]
    return _table(["optimizer", "bytes a parameter", "Triton kernels launched", "torch's operators"], rows)


def compiling(results: Path) -> str:
    """Return the table of `benchmark_compile.py`."""
    result = read_json(results / "compile_cpu.json")
    rows = [
        [row["optimizer"], row["lr"], f"{row['first_steps_s']:.1f}", row["graphs"], f"{row['median_step_us']:.0f}"]
        for row in result["rows"]
    ]
    seconds = result["c_kernel_s"]
    kernel = "no C compiler" if seconds is None else f"the C kernel takes {seconds:.1f} s"
    header = ["optimizer", "lr", "first three steps: s", f"graphs in {result['steps']:,} steps", "median step: us"]
    return f"{kernel[0].upper()}{kernel[1:]}; {result['threads']} threads; {_origin(result)}.\n\n{_table(header, rows)}"


def _origin(result: dict[str, Any]) -> str:
    return f"{result['processor']}, torch {result['torch']}, code {result['code']}"


def _table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)


PARTS: dict[str, Callable[[Path], str]] = {
    "step-cost-ranges": step_cost_ranges,
    "step-cost-processors": step_cost_processors,
    "whole-step": whole_step,
    "gpu-traffic": gpu_traffic,
    "compiling": compiling,
}


def main() -> None:
    """Renew both pages."""
    for page in PAGES:
        path = ROOT / page
        write_text(path, renew(path.read_text(encoding="utf-8"), ROOT / "docs" / "results"))


if __name__ == "__main__":
    main()
