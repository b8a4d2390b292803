"""Compare runs of one of the train_*.py scripts (GPT2, DeiT, CIFAR100, CLIP, LoRA, grokking): a table, and figures.

Runs that differ in their seed only are one setting, and one row. Every value is that of a run's last evaluation.

    python scripts/compare_runs.py runs/gpt2/* --curves curves.png --csv table.csv
    python scripts/compare_runs.py runs/grokking/* --reach 0.95 --baseline "adamw wd 0.1"
"""

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from harness.command import run_script_command
from run_comparison.runs import DEFAULT_METRICS, read_runs
from run_comparison.settings import name_settings
from run_comparison.statistics import compare

from nnunet_cpr.files import remove_leftovers, user_path, write_text

FIGURES = {
    "curves": "the metric over the steps, as in the paper's Figure 1",
    "heatmap": "the metric over learning rate and strength of regularization, as in the paper's Figure 3",
    "constraints": "R, kappa, lambda and loss of the first run with a CPR trace, as in the paper's Figure 5",
}
TABLES = {
    "csv": "the table, with all its numbers",
    "runs_csv": "one row per run: last value of every metric, difference, steps needed",
    "markdown": "the table as it is shown",
}


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="FOLDER", help="folders of runs, of one script")
    default = "val_perplexity of train_gpt2.py, else val_accuracy"
    parser.add_argument("--metric", metavar="COLUMN", help=f"of metrics.csv, from evaluations (default: {default})")
    parser.add_argument(
        "--baseline", metavar="SETTING", help="as the table names it (default: the best adamw, else sgd, else adam)"
    )
    parser.add_argument("--reach", type=float, metavar="VALUE", help="count also the steps to this value")
    parser.add_argument("--unfinished", action="store_true", help="count runs that are not finished, too, as they are")
    for name, text in TABLES.items():
        parser.add_argument(f"--{name.replace('_', '-')}", metavar="FILE", help=f"write {text}")
    for name, text in FIGURES.items():
        parser.add_argument(f"--{name}", metavar="FILE", help=f"draw {text}")
    parser.add_argument(
        "--tensors", nargs="+", metavar="NAME", help="of --constraints (default: four over the network)"
    )
    return parser


def compare_runs(args: argparse.Namespace) -> None:
    """Do what the command line asks for. Raises ValueError or OSError before anything is written."""
    from run_comparison import figures, report  # they import matplotlib, whose settings must be put aside before

    from nnunet_cpr.evaluation.figures.drawing import save_figure

    if args.tensors and not args.constraints:
        raise ValueError("--tensors chooses what --constraints FILE draws, which is not asked for")
    outputs = {name: user_path(getattr(args, name)) for name in (*TABLES, *FIGURES) if getattr(args, name) is not None}
    folders = [user_path(folder) for folder in args.runs]
    _check_outputs(outputs, folders)
    runs = read_runs(folders)
    names = name_settings(runs)
    metric = args.metric or DEFAULT_METRICS[runs[0].script]
    comparison = compare(runs, names, metric, args.baseline, args.reach, args.unfinished)
    rows, notes = report.cells(comparison, runs, args.reach), report.notes(comparison, runs)
    warnings = report.warnings(comparison, runs)
    make: dict[str, Callable[[], Any]] = {
        "csv": partial(report.settings_csv, comparison, runs),
        "runs_csv": partial(report.runs_csv, comparison, runs),
        "markdown": partial(report.markdown, rows, [*notes, *(f"Warning: {text}." for text in warnings)]),
        "curves": partial(figures.curves, comparison, runs, names, args.reach),
        "heatmap": partial(figures.heatmap, comparison, runs, names),
        "constraints": partial(figures.constraints, runs, names, args.tensors),
    }
    made = {name: make[name]() for name in outputs}
    for folder in {path.parent for path in outputs.values()}:
        remove_leftovers(folder, {path.name for path in outputs.values()})
    for name, content in made.items():
        if name in TABLES:
            write_text(outputs[name], content)
        else:
            save_figure(content, outputs[name])
    for warning in warnings:
        print(f"compare_runs.py: warning: {warning}", file=sys.stderr)
    print(report.terminal(rows, notes))


def _check_outputs(outputs: dict[str, Path], runs: list[Path]) -> None:
    """Raise where an output could not be written, or would be written over a run's own files."""
    from matplotlib.backend_bases import FigureCanvasBase

    formats = FigureCanvasBase.get_supported_filetypes()
    for name, path in outputs.items():
        flag = f"--{name.replace('_', '-')} {path}"
        if not path.parent.is_dir():
            raise ValueError(f"{flag}: there is no folder {path.parent}")
        if path.is_dir() or path.resolve().parent in [folder.resolve() for folder in runs]:
            raise ValueError(f"{flag} is a folder or lies in the folder of a run; name another file")
        if name in FIGURES and path.suffix[1:].lower() not in formats:
            raise ValueError(f"{flag}: a figure's name ends in one of .{', .'.join(sorted(formats))}")


def main(argv: list[str] | None = None) -> int:
    """Compare, and return the exit code. A user's mistake leaves as one line on stderr with exit code 2."""
    return run_script_command("compare_runs.py", lambda: compare_runs(build_parser().parse_args(argv)))


if __name__ == "__main__":
    sys.exit(main())
