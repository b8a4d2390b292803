"""One table and one figure of several grokking runs: when each reached 95 % validation accuracy.

python scripts/summarise_grokking.py runs/grokking/* --csv grokking.csv --figure grokking.png
"""

import argparse
import csv
import json
import sys
from pathlib import Path
from typing import Any

from common.parsing import CONFIG_FILE
from common.records import METRICS_FILE, read_table
from train_grokking import SOLVED

from nnunet_cpr.files import write_whole

COLUMNS = ("setting", "seed", "steps", "steps_to_95", "last_val_accuracy", "last_train_accuracy")
Series = dict[str, list[tuple[int, float]]]


def setting_name(settings: dict[str, Any]) -> str:
    """What parts one run from another besides the seed, in a word or two."""
    if settings["optimizer"] != "adamcpr":
        decay = settings["weight_decay"]
        return settings["optimizer"] + ("" if decay is None else f" wd {decay:g}")
    parameter = "" if settings["kappa_init_param"] is None else f" {settings['kappa_init_param']:g}"
    return f"adamcpr {settings['kappa_init_method']}{parameter}{' adaptive' if settings['adaptive_bounds'] else ''}"


def read_run(folder: Path) -> tuple[dict[str, Any], Series]:
    """Return a row of the table and the run's metrics. A run that is still going counts as far as it is."""
    config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    series, settings = read_table(folder / METRICS_FILE), config["settings"]
    if config["script"] != "train_grokking" or not series["val_accuracy"]:
        raise ValueError(f"{folder} is no run of train_grokking.py with an evaluation")
    solved = next((step for step, value in series["val_accuracy"] if value >= SOLVED), None)
    row = {
        "setting": setting_name(settings), "seed": settings["seed"], "steps": series["val_accuracy"][-1][0],
        "steps_to_95": solved, "last_val_accuracy": series["val_accuracy"][-1][1],
        "last_train_accuracy": series["train_accuracy"][-1][1],
    }  # fmt: skip
    return row, series


def draw(path: Path, runs: list[tuple[dict[str, Any], Series]]) -> None:
    """Draw training (dotted) and validation accuracy over the steps, one colour a setting, one line a seed."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4), layout="constrained")
    ax = figure.subplots()
    names = list(dict.fromkeys(row["setting"] for row, _ in runs))
    labelled = set()
    for row, series in runs:
        colour = f"C{names.index(row['setting'])}"
        label = None if row["setting"] in labelled else row["setting"]
        labelled.add(row["setting"])
        ax.plot(*zip(*series["val_accuracy"], strict=True), color=colour, linewidth=1.2, label=label)
        ax.plot(*zip(*series["train_accuracy"], strict=True), color=colour, linewidth=0.8, linestyle=":")
    ax.axhline(SOLVED, color="grey", linewidth=0.6)
    ax.set(xlabel="step", ylabel="accuracy (dotted: training)", ylim=(0, 1.02))
    ax.grid(alpha=0.3)
    ax.legend(frameon=False)
    with write_whole(path) as temporary:
        figure.savefig(temporary, dpi=110)


def main(argv: list[str] | None = None) -> int:
    """Read the runs, write what is asked for, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="FOLDER", help="folders of train_grokking.py")
    parser.add_argument("--csv", type=Path, metavar="FILE")
    parser.add_argument("--figure", type=Path, metavar="FILE")
    args = parser.parse_args(argv)
    try:
        runs = sorted((read_run(folder) for folder in args.runs), key=lambda run: (run[0]["setting"], run[0]["seed"]))
    except (ValueError, OSError, KeyError) as error:
        print(f"summarise_grokking.py: error: {error}", file=sys.stderr)
        return 2
    if args.csv:
        with write_whole(args.csv) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(row for row, _ in runs)
    if args.figure:
        draw(args.figure, runs)
    for row, _ in runs:
        reached = "not reached" if row["steps_to_95"] is None else f"step {row['steps_to_95']}"
        print(
            f"{row['setting']:35} seed {row['seed']}: {reached:12} of {row['steps']} steps; "
            f"accuracy {row['last_val_accuracy']:.3f}, training {row['last_train_accuracy']:.3f}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
