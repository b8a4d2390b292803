"""Do trainings with the same seed differ less? Reads trainings.csv of a report of `nnunet-cpr compare`.

Two trainers with the same seed see the same patches in the same order (common random numbers). If that matters, the
difference between them varies less over pairs of equal seeds than over pairs of different seeds.

    python scripts/seed_pairing.py report/trainings.csv [--trainers BASELINE TRAINER] [--metric Dice] [--out table.md]

The interval is the t-interval of the mean over pairs of equal seeds: what other seeds would change, not other cases.
"""

import argparse
import itertools
import re
import statistics
from pathlib import Path

import pandas as pd
from scipy import stats

from nnunet_cpr.evaluation.results import FOREGROUND
from nnunet_cpr.files import user_path, write_text


def means_by_seed(trainings: pd.DataFrame, trainer: str) -> dict[int, float]:
    """Return the trainer's foreground mean of each seed, over folds."""
    rows = trainings[trainings["trainer"] == trainer]
    found: dict[int, float] = {}
    for run, part in rows.groupby("run", sort=False):
        if named := re.search(r"_seed(\d+)", str(run)):
            found[int(named[1])] = float(part["mean"].mean())
    return found


def table(first: dict[int, float], second: dict[int, float], names: tuple[str, str]) -> str:
    """Return the values and the spreads of the differences as Markdown."""
    seeds = sorted(first.keys() & second.keys())
    if len(seeds) < 2:
        raise SystemExit(f"{names[0]} and {names[1]} have {len(seeds)} seeds in common; two are needed")
    lines = [f"| seed | {names[0]} | {names[1]} | difference |", "|---|---|---|---|"]
    lines += [f"| {s} | {first[s]:.4f} | {second[s]:.4f} | {second[s] - first[s]:+.4f} |" for s in seeds]
    equal = [second[s] - first[s] for s in seeds]
    low, high = stats.t.interval(0.95, len(equal) - 1, statistics.mean(equal), stats.sem(equal))
    different = [second[b] - first[a] for a, b in itertools.permutations(seeds, 2)]
    lines += [
        "",
        "| differences of | n | mean | SD | 95 % interval |",
        "|---|---|---|---|---|",
        *(
            f"| {name} | {len(values)} | {statistics.mean(values):+.4f} | {statistics.stdev(values):.4f} | {interval} |"
            for name, values, interval in (
                ("equal seeds", equal, f"{low:+.4f} to {high:+.4f}"),
                ("different seeds", different, ""),
            )
        ),
        "",
        f"SD between seeds: {names[0]} {statistics.stdev(first[s] for s in seeds):.4f}, "
        f"{names[1]} {statistics.stdev(second[s] for s in seeds):.4f}.",
    ]
    return "\n".join(lines)


def main() -> None:
    """Print the tables, and write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trainings", type=user_path, help="trainings.csv (or test_set_trainings.csv) of a report")
    parser.add_argument(
        "--trainers", nargs=2, metavar=("BASELINE", "TRAINER"), help="where the report has more than two"
    )
    parser.add_argument("--metric", default="Dice")
    parser.add_argument("--out", type=user_path, help="a Markdown file")
    args = parser.parse_args()
    trainings = pd.read_csv(args.trainings)
    trainings = trainings[(trainings["label"] == FOREGROUND) & (trainings["metric"] == args.metric)]
    names = args.trainers or list(trainings["trainer"].unique())
    if len(names) != 2:
        raise SystemExit(f"{args.trainings} has {len(names)} trainers; name two with --trainers")
    datasets = list(trainings["dataset"].unique())
    parts = []
    for dataset in datasets:
        rows = trainings[trainings["dataset"] == dataset]
        first, second = (means_by_seed(rows, name) for name in names)
        heading = f"{dataset}:\n\n" if len(datasets) > 1 else ""
        parts.append(heading + table(first, second, (names[0], names[1])))
    text = "\n\n".join(parts)
    print(text)
    if args.out:
        path: Path = args.out
        write_text(path, text + "\n")


if __name__ == "__main__":
    main()
