"""Compare runs of train_gpt2.py, train_deit.py, train_cifar100.py or train_grokking.py: a table, and figures.

Runs that differ in their seed only are one setting, and one row. Every value is that of a run's last evaluation.

    python scripts/compare_runs.py runs/gpt2/* --curves curves.png --csv table.csv
    python scripts/compare_runs.py runs/grokking/* --reach 0.95 --baseline "adamw wd 0.1"
"""

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from comparison.runs import DEFAULT_METRICS, Run, read_runs

if TYPE_CHECKING:  # --help must not wait for pandas and matplotlib
    from comparison.statistics import Comparison

OUTPUTS = {
    "csv": "the table, all its numbers",
    "runs_csv": "a row a run: final values of all metrics, difference, steps needed",
    "markdown": "the table as Markdown",
    "curves": "figure: the metric over the steps, as the paper's Figure 1",
    "heatmap": "figure: the metric over learning rate and regularisation, as the paper's Figure 3",
    "constraints": "figure: R, kappa, lambda and loss of the first run that has a CPR trace, as the paper's Figure 5",
}


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="FOLDER", help="folders of runs (--out of the training)")
    defaults = ", ".join(dict.fromkeys(DEFAULT_METRICS.values()))
    parser.add_argument("--metric", metavar="COLUMN", help=f"an evaluated column of metrics.csv (default: {defaults})")
    parser.add_argument(
        "--baseline", metavar="SETTING", help="its name in the table (default: the best adamw, else sgd, adam)"
    )
    parser.add_argument("--reach", type=float, metavar="VALUE", help="also count the steps to this value")
    parser.add_argument("--unfinished", action="store_true", help="count runs that are not finished, as they are")
    for name, text in OUTPUTS.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=Path, metavar="FILE", help=text)
    parser.add_argument(
        "--tensors", nargs="+", metavar="NAME", help="of --constraints (default: some over the network)"
    )
    return parser


def main(argv: list[str] | None = None) -> int:
    """Compare, write what is asked for, print the table; return the exit code. A mistake leaves as one line, code 2."""
    args = build_parser().parse_args(argv)
    try:
        compare_runs(args)
    except (ValueError, OSError) as error:
        print(f"compare_runs.py: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


def compare_runs(args: argparse.Namespace) -> None:
    """Do what the command line asks for. Raises ValueError or OSError; then nothing was written."""
    outputs = {name: getattr(args, name) for name in OUTPUTS if getattr(args, name)}
    _check_outputs(outputs, args)
    runs = read_runs(args.runs)

    from comparison import figures, report
    from comparison.settings import name_settings
    from comparison.statistics import compare

    from nnunet_cpr.evaluation.figures import save_figure
    from nnunet_cpr.files import write_text

    names = name_settings(runs)
    metric = args.metric or DEFAULT_METRICS[runs[0].script]
    comparison = compare(runs, names, metric, args.baseline, args.reach, args.unfinished)
    rows, sentences = report.cells(comparison, runs, args.reach), report.notes(comparison, runs)
    cautions = report.warnings(comparison, runs)
    # All is made before anything is written, so that a mistake leaves nothing behind.
    writers: dict[str, Callable[[Path], Any]] = {}
    for name in outputs:
        if name == "csv":
            text = comparison.settings.assign(metric=metric, baseline=comparison.baseline)
            writers[name] = partial(write_text, text=text.to_csv(index=False, lineterminator="\n", float_format="%.9g"))
        elif name == "runs_csv":
            writers[name] = partial(write_text, text=_runs_table(comparison, runs))
        elif name == "markdown":
            writers[name] = partial(
                write_text, text=report.markdown(rows, [*sentences, *(f"Warning: {c}." for c in cautions)])
            )
        else:
            if name == "curves":
                figure = figures.curves(comparison, runs, names, args.reach)
            elif name == "heatmap":
                figure = figures.heatmap(comparison, runs, names)
            else:
                traced = next((pair for pair in zip(runs, names, strict=True) if len(pair[0].trace())), None)
                if traced is None:
                    raise ValueError("--constraints: none of the runs has a CPR trace")
                figure = figures.constraints(*traced, args.tensors)
            writers[name] = partial(save_figure, figure)
    for name, write in writers.items():
        write(path=outputs[name])
    for caution in cautions:
        print(f"compare_runs.py: warning: {caution}", file=sys.stderr)
    print(report.terminal(rows), "", *sentences, sep="\n")


def _check_outputs(outputs: dict[str, Path], args: argparse.Namespace) -> None:
    """Raise where an output could not be written, or would be written over a run's own files."""
    from matplotlib.backend_bases import FigureCanvasBase

    formats = FigureCanvasBase.get_supported_filetypes()
    for name, path in outputs.items():
        flag = f"--{name.replace('_', '-')} {path}"
        if not path.parent.is_dir():
            raise ValueError(f"{flag}: there is no folder {path.parent}")
        if path.is_dir() or path.resolve().parent in [folder.resolve() for folder in args.runs]:
            raise ValueError(f"{flag}: that is a folder, or a file of a run; name another")
        if name in ("curves", "heatmap", "constraints") and path.suffix[1:] not in formats:
            raise ValueError(f"{flag}: figures are written as {', '.join(sorted(formats))}")


def _runs_table(comparison: "Comparison", runs: list[Run]) -> str:
    finals = [{f"last_{name}": series.iloc[-1] for name, series in run.evaluations.items()} for run in runs]
    import pandas as pd

    table = comparison.runs.drop(columns=["value", "paired", "budget"]).join(pd.DataFrame(finals))
    return str(table.to_csv(index=False, lineterminator="\n", float_format="%.9g"))


if __name__ == "__main__":
    sys.exit(main())
