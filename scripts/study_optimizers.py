"""Compare optimizers fairly: tune each one's strength on a validation set, then train the best with several seeds.

A YAML file names a training script, what all runs share, and for each method the settings to choose from. Every choice
is trained once; the best of each method, by the metric of its last evaluation, is trained again with each seed, and
only then is the test set looked at. compare_runs.py compares these. Runs that are finished are kept, others are
continued, so that the same command goes on where it was stopped.

    python scripts/study_optimizers.py configs/studies/gpt2_overfitting.yaml --out runs/overfitting [--jobs 2]
"""

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from harness.command import run_script_command
from harness.parsing import CONFIG_FILE
from run_comparison.runs import Run, read_run

from nnunet_cpr.files import user_path, write_text
from nnunet_cpr.yaml_files import read_yaml

SCRIPTS = Path(__file__).parent
KEYS = {"question", "script", "metric", "lower_is_better", "common", "tuning", "final", "seeds", "methods"}
Flags = dict[str, Any]


@dataclass(frozen=True)
class Study:
    """What a study's file says."""

    question: str
    """What is asked and what would count as which answer, written before any run."""
    script: str
    metric: str
    lower_is_better: bool
    common: Flags
    tuning: Flags
    """What only the tuning runs have, their seed and data for instance."""
    final: Flags
    """What only the final runs have."""
    seeds: list[int]
    methods: dict[str, Flags]
    """By name the flags of each method; a list of values is what is chosen from."""


def read_study(path: Path) -> Study:
    """Read a study. Raises ValueError where it does not have all keys, or others."""
    content = read_yaml(path)
    if not isinstance(content, dict) or set(content) != KEYS:
        odd = sorted(KEYS ^ set(content)) if isinstance(content, dict) else sorted(KEYS)
        raise ValueError(f"{path}: a study has the keys {', '.join(sorted(KEYS))}; this differs in {odd[0]}")
    if not (SCRIPTS / f"{content['script']}.py").is_file():
        raise ValueError(f"{path}: there is no script {content['script']}")
    return Study(**content)


def choices(flags: Flags) -> list[Flags]:
    """Return one set of flags for each combination of the values that are listed."""
    lists = {name: values if isinstance(values, list) else [values] for name, values in flags.items()}
    return [dict(zip(lists, combination, strict=True)) for combination in product(*lists.values())]


def folder_name(method: str, flags: Flags, varied: list[str]) -> str:
    """Return a name for the run of a choice."""
    return "-".join([method.replace(" ", "_"), *(f"{name}{flags[name]}" for name in varied)])


def train_all(study: Study, wanted: dict[Path, Flags], jobs: int) -> None:
    """Train what is not finished, several at a time, each with one thread.

    Raises:
        ValueError: a training failed; the message is its own. The others that had begun are finished first.
    """
    with ThreadPoolExecutor(jobs) as pool:
        results = [pool.submit(_train, study.script, folder, flags) for folder, flags in wanted.items()]
        try:
            for result in results:
                result.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _train(script: str, folder: Path, flags: Flags) -> None:
    resumed = (folder / CONFIG_FILE).is_file()
    if resumed and read_run_if_evaluated(folder):
        return
    command = [sys.executable, str(SCRIPTS / f"{script}.py"), "--out", str(folder)]
    for name, value in flags.items():
        flag = "--" + name.replace("_", "-")
        command += [flag] if value is True else [f"--no-{flag[2:]}"] if value is False else [flag, str(value)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, *(["--resume"] if resumed else [])], env=environment, capture_output=True, text=True
    )
    if done.returncode:
        raise ValueError(f"{folder}: {(done.stderr.strip() or done.stdout).splitlines()[-1]}")
    print(f"{folder.name}: done", flush=True)


def read_run_if_evaluated(folder: Path) -> Run | None:
    """Return a finished run, or None."""
    try:
        run = read_run(folder)
    except ValueError:
        return None
    return run if run.finished else None


def tune(study: Study, out: Path, jobs: int) -> dict[str, Flags]:
    """Train every choice of every method once and return each method's best. Writes tuning.csv."""
    candidates: list[tuple[str, Flags, Path]] = []
    for method, flags in study.methods.items():
        varied = [name for name, value in flags.items() if isinstance(value, list)]
        for choice in choices(flags):
            candidates.append((method, choice, out / "tuning" / folder_name(method, choice, varied)))
    train_all(study, {folder: {**study.common, **study.tuning, **choice} for _, choice, folder in candidates}, jobs)
    best: dict[str, tuple[float, Flags]] = {}
    lines = ["method,choice,value"]
    for method, choice, folder in candidates:
        value = float(read_run(folder).evaluations[study.metric].iloc[-1])
        lines.append(f'{method},"{json.dumps(choice)[1:-1].replace(chr(34), "")}",{value:.9g}')
        cost = value if study.lower_is_better else -value
        if method not in best or cost < best[method][0]:
            best[method] = (cost, choice)
    write_text(out / "tuning.csv", "\n".join(lines) + "\n")
    return {method: choice for method, (_, choice) in best.items()}


def run_study(args: argparse.Namespace) -> None:
    """Tune, train, compare."""
    study, out = read_study(user_path(args.study)), user_path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    best = tune(study, out, args.jobs)
    wanted = {
        out / "final" / f"{method.replace(' ', '_')}-seed{seed}": {
            **study.common,
            **study.final,
            **choice,
            "seed": seed,
        }
        for method, choice in best.items()
        for seed in study.seeds
    }
    train_all(study, wanted, args.jobs)
    command = [sys.executable, str(SCRIPTS / "compare_runs.py"), *map(str, wanted), "--metric", study.metric]
    outputs = {"csv": "settings.csv", "runs-csv": "runs.csv", "markdown": "table.md", "curves": "curves.png"}
    for flag, name in outputs.items():
        command += [f"--{flag}", str(out / name)]
    subprocess.run(command, check=True)


def main(argv: list[str] | None = None) -> int:
    """Run a study, and return the exit code. A user's mistake leaves as one line on stderr with exit code 2."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", metavar="FILE", help="the study's YAML file")
    parser.add_argument("--out", required=True, metavar="FOLDER", help="of all runs and the tables")
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time, with a thread each (default: 1)")
    args = parser.parse_args(argv)
    return run_script_command("study_optimizers.py", lambda: run_study(args), "interrupted; the same command goes on")


if __name__ == "__main__":
    sys.exit(main())
