"""How often the report's 95 % intervals hold the true difference, in simulated studies.

A study has a trainer and a baseline with the same number of runs, and cases that both predict. A case's value is its
own difficulty, plus what the trainer does to it in every run (skewed, as differences of Dice are: a gamma distribution
of skewness 2), plus the run's level and chance (both normal). The spread between runs is given in standard errors of
the difference over cases alone.

    python scripts/simulate_coverage.py [--studies 1000] [--out docs/results/coverage]
"""

import argparse
import json
import math
from pathlib import Path

import numpy as np
from scipy import stats

from nnunet_cpr.evaluation.uncertainty import two_level_interval, uncertainty
from nnunet_cpr.files import user_path, write_json, write_text

RUNS, CASES, SPREADS = (2, 3, 5), (20, 100), (0.0, 0.5, 1.0, 3.0, 10.0)
TRUTH = 0.0


def simulate(rng: np.random.Generator, runs: int, cases: int, spread: float) -> tuple[np.ndarray, np.ndarray]:
    """Return trainer's and baseline's values, each of shape (runs, cases)."""
    difficulty = rng.normal(0, 3, cases)
    interaction = rng.gamma(1.0, 1.0, cases) - 1  # what the trainer does to a case, in every run
    over_cases = math.sqrt((1 + 2 * 0.25 / runs) / cases)
    level = spread * over_cases * math.sqrt(runs / 2)  # both sides together: `spread` standard errors

    def side() -> np.ndarray:
        return rng.normal(0, level, (runs, 1)) + rng.normal(0, 0.5, (runs, cases))

    return TRUTH + difficulty + interaction + side(), difficulty + side()


def coverage(runs: int, cases: int, spread: float, studies: int, seed: int) -> dict[str, float]:
    """Return the shares of studies whose intervals hold the truth, and the median ratio of their widths."""
    rng = np.random.default_rng([seed, runs, cases, int(100 * spread)])
    both = over_cases = 0
    ratios = []
    for study in range(studies):
        trainer, baseline = simulate(rng, runs, cases, spread)
        differences = trainer.mean(axis=0) - baseline.mean(axis=0)
        known = uncertainty(differences, trainer, baseline)
        assert known is not None
        low, high = two_level_interval(trainer, baseline, known, study)
        both += low <= TRUTH <= high
        bca = stats.bootstrap((differences,), np.mean, n_resamples=1999, rng=study).confidence_interval
        over_cases += bca.low <= TRUTH <= bca.high
        ratios.append((high - low) / (bca.high - bca.low))
    return {
        "runs": runs, "cases": cases, "spread": spread, "over_cases": over_cases / studies,
        "over_runs_and_cases": both / studies, "wider": float(np.median(ratios)),
    }  # fmt: skip


def table(rows: list[dict[str, float]]) -> str:
    """Return the rows as Markdown."""
    lines = [
        "| runs of each | cases | spread between runs | over cases | over runs and cases | width, ratio |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['runs']} | {row['cases']} | {row['spread']:g} | {row['over_cases']:.1%} | "
        f"{row['over_runs_and_cases']:.1%} | {row['wider']:.1f} |"
        for row in rows
    ]
    return "\n".join(lines)


def main() -> None:
    """Simulate every setting, print the table as it grows, and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=1000, help="of each setting (default: 1000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=user_path, help="a folder for coverage.json and table.md")
    args = parser.parse_args()
    rows = []
    for runs in RUNS:
        for cases in CASES:
            for spread in SPREADS:
                rows.append(coverage(runs, cases, spread, args.studies, args.seed))
                print(json.dumps(rows[-1]), flush=True)
    print(table(rows))
    if args.out:
        folder: Path = args.out
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "coverage.json", {"studies": args.studies, "seed": args.seed, "rows": rows})
        write_text(folder / "table.md", table(rows) + "\n")


if __name__ == "__main__":
    main()
