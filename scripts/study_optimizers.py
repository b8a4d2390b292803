"""Compare optimizers fairly: tune each one's strength on a validation set, then train the best with several seeds.

A YAML file names a training script, what all runs share, and for each method the settings to choose from. Every choice
is trained once; the best of each method, by the metric of its last evaluation, is trained again with each seed, and
only then is the test set looked at. compare_runs.py compares these. Runs that are finished are kept, others are
continued, so that the same command goes on where it was stopped.

    python scripts/study_optimizers.py configs/studies/gpt2_overfitting.yaml --out runs/overfitting [--jobs 2]
"""

import argparse
import importlib
import math
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from harness.command import run_script_command
from harness.parsing import CONFIG_FILE, parse
from run_comparison.runs import read_run

from nnunet_cpr.files import read_json, user_path, write_text
from nnunet_cpr.yaml_files import read_yaml

SCRIPTS = Path(__file__).parent
DIVERGED_FILE = "diverged.txt"
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
        ValueError: settings do not fit the script, or a folder holds a run with others (before anything is trained); a
            training failed (the others that had begun are finished first). One that diverges is not a failure.
    """
    commands = {folder: check(study.script, folder, flags) for folder, flags in wanted.items()}
    with ThreadPoolExecutor(jobs) as pool:
        results = [pool.submit(_train, study, folder, command) for folder, command in commands.items()]
        try:
            for result in results:
                result.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def check(script: str, folder: Path, flags: Flags) -> list[str]:
    """Return the command line's flags of a run. Raises ValueError where they are wrong, or not those of a run there."""
    module = importlib.import_module(script)
    cls = next(c for c in vars(module).values() if isinstance(c, type) and getattr(c, "script", None) == script)
    given = ["--out", str(folder)]
    for name, value in flags.items():
        flag = name.replace("_", "-")
        given += [f"--{flag}"] if value is True else [f"--no-{flag}"] if value is False else [f"--{flag}", str(value)]
    try:
        asked: dict[str, Any] = parse(cls, "", given).to_json()
    except ValueError as error:
        raise ValueError(f"{folder.name}: {error}") from error
    if (folder / CONFIG_FILE).is_file():
        there = read_json(folder / CONFIG_FILE)["settings"]
        if differing := [name for name in asked if there.get(name) != asked[name]]:
            name = differing[0]
            raise ValueError(
                f"{folder} holds a run with {name} {there.get(name)}, but the study says {asked[name]}; "
                "move it away, or name another --out"
            )
    return given


def _train(study: Study, folder: Path, flags: list[str]) -> None:
    if (folder / DIVERGED_FILE).exists() or _finished(folder):
        return
    resumed = ["--resume"] if (folder / CONFIG_FILE).is_file() else []
    command = [sys.executable, str(SCRIPTS / f"{study.script}.py"), *flags, *resumed]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        lines = (done.stderr.strip() or done.stdout.strip() or f"ended with exit code {done.returncode}").splitlines()
        if "not finite" not in lines[-1]:
            raise ValueError(f"{folder}: {lines[-1]}")
        write_text(folder / DIVERGED_FILE, lines[-1] + "\n")
        print(f"{folder.name}: diverged", flush=True)
        return
    known = read_run(folder).evaluations
    if study.metric not in known:
        raise ValueError(f"the metric {study.metric} is none of {study.script}'s: {', '.join(known)}")
    print(f"{folder.name}: done", flush=True)


def _finished(folder: Path) -> bool:
    try:
        return read_run(folder).finished
    except ValueError:
        return False


def tune(study: Study, out: Path, jobs: int) -> dict[str, Flags]:
    """Train every choice of every method once and return each method's best. Writes tuning.csv.

    Raises:
        ValueError: as :func:`train_all`; all choices of a method diverged, or none has a finite metric.
    """
    candidates: list[tuple[str, Flags, Path]] = []
    for method, flags in study.methods.items():
        varied = [name for name, value in flags.items() if isinstance(value, list)]
        for choice in choices(flags):
            candidates.append((method, choice, out / "tuning" / folder_name(method, choice, varied)))
    train_all(study, {folder: {**study.common, **study.tuning, **choice} for _, choice, folder in candidates}, jobs)
    best: dict[str, tuple[float, Flags]] = {}
    lines = ["method,choice,value"]
    for method, choice, folder in candidates:
        described = ", ".join(f"{name}: {value}" for name, value in choice.items())
        if (folder / DIVERGED_FILE).exists():
            lines.append(f'{method},"{described}",diverged')
            continue
        value = float(read_run(folder).evaluations[study.metric].iloc[-1])
        if not math.isfinite(value):
            lines.append(f'{method},"{described}",{value}')
            continue
        lines.append(f'{method},"{described}",{value:.9g}')
        cost = value if study.lower_is_better else -value
        if method not in best or cost < best[method][0]:
            best[method] = (cost, choice)
    write_text(out / "tuning.csv", "\n".join(lines) + "\n")
    if missing := [method for method in study.methods if method not in best]:
        raise ValueError(f"all choices of {missing[0]} diverged; give it smaller ones")
    return {method: choice for method, (_, choice) in best.items()}


def run_study(args: argparse.Namespace) -> None:
    """Tune, train, compare."""
    study, out = read_study(user_path(args.study)), user_path(args.out)
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
    compared = [folder for folder in wanted if not (folder / DIVERGED_FILE).exists()]
    diverged = [folder.name for folder in wanted if folder not in compared]
    for name in diverged:
        print(f"study_optimizers.py: warning: {name} diverged and is not compared", file=sys.stderr)
    command = [sys.executable, str(SCRIPTS / "compare_runs.py"), *map(str, compared), "--metric", study.metric]
    outputs = {"csv": "settings.csv", "runs-csv": "runs.csv", "markdown": "table.md", "curves": "curves.png"}
    for flag, name in outputs.items():
        command += [f"--{flag}", str(out / name)]
    if subprocess.run(command).returncode:
        raise ValueError("the runs cannot be compared, see above")
    if diverged:
        table = (out / "table.md").read_text(encoding="utf-8")
        write_text(out / "table.md", f"{table}\nDiverged, and not in the table: {', '.join(diverged)}.\n")


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
