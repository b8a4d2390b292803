"""The demo's result: a table, figures and a page that says what was run and what it is not."""

import platform
import re
import shlex
import shutil
import textwrap
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pandas as pd

from nnunet_cpr.datasets.small_plans import CONFIGURATION
from nnunet_cpr.demo.data import DemoData
from nnunet_cpr.demo.device import Machine
from nnunet_cpr.demo.pipeline import fold_folder, train_stage
from nnunet_cpr.demo.settings import CPR, WEIGHT_DECAY, Settings
from nnunet_cpr.demo.workspace import REPORT, Workspace
from nnunet_cpr.evaluation import report_numbers as numbers
from nnunet_cpr.evaluation import statistics
from nnunet_cpr.evaluation.figures import COLOURS, MARKERS, save_figure
from nnunet_cpr.evaluation.nnunet_logs import read_log
from nnunet_cpr.evaluation.nnunet_results import foreground_labels, read_cases
from nnunet_cpr.evaluation.report_csv import csv_table
from nnunet_cpr.evaluation.report_markdown import escape
from nnunet_cpr.evaluation.results import FOREGROUND
from nnunet_cpr.evaluation.slice_figures import Prediction, slice_picture
from nnunet_cpr.evaluation.training_figures import Curve, training_curves
from nnunet_cpr.files import read_json, write_text, write_whole
from nnunet_cpr.output_folder import replace_folder
from nnunet_cpr.parallel import job_cores

PAGE = """\
# CPR against weight decay: {name}

{table}

{verdict}

{caution}

![Training curves](figures/training_curves.png)

The pseudo Dice is nnU-Net's running estimate on random patches of the validation cases; the table has the real one.

![Lambda, R and kappa of the CPR training](figures/cpr_progress.png)

![One validation case](figures/slice.png)

The case shown is the one with the median Dice (mean over labels and both methods), not the best one.

## What was run

| | |
|---|---|
{facts}

Split: {split}

{small}

## Again, by hand

{fence}sh
{commands}
{fence}

{by_itself}

## Files

- `comparisons.csv`: the table; `cases.csv`: Dice per case, label and trainer
- `table.md`: the table alone
- `figures/`: the pictures
- nnU-Net's own results, with checkpoints and predictions: {results}
"""


def write_report(workspace: Workspace, data: DemoData, settings: Settings, machine: Machine) -> tuple[Path, str]:
    """Write the report's folder and return its page and the text for the terminal: table and verdict."""
    folder = workspace.report(settings)
    with replace_folder(folder, REPORT) as report:
        text = _write_files(report, workspace, data, settings, machine)
    return folder / "report.md", text


def _write_files(report: Path, workspace: Workspace, data: DemoData, settings: Settings, machine: Machine) -> str:
    description = read_json(workspace.raw / "dataset.json")
    labels, evaluated = description["labels"], foreground_labels(description)
    folders = {method: fold_folder(workspace, settings, trainer) for method, trainer in settings.trainers.items()}
    cases = pd.concat(
        [
            read_cases(folders[method] / "validation", data.name, trainer, trainer, str(settings.fold), evaluated)
            for method, trainer in settings.trainers.items()
        ]
    )
    comparison = statistics.compare(cases, settings.trainers[WEIGHT_DECAY])
    table, verdict = format_table(comparison), state_result(comparison)

    (report / "figures").mkdir()
    for name, frame in (("cases.csv", cases), ("comparisons.csv", comparison)):
        write_text(report / name, csv_table(frame))
    write_text(report / "table.md", table + "\n")
    _draw_curves(folders, settings, report / "figures" / "training_curves.png")
    with write_whole(report / "figures" / "cpr_progress.png") as temporary:
        shutil.copyfile(folders[CPR] / "cpr_progress.png", temporary)
    _draw_slice(workspace, settings, folders, cases, labels, report / "figures" / "slice.png")
    commands = "\n".join(_commands(workspace, settings))
    page = PAGE.format(
        name=escape(data.name),
        table=table,
        verdict=verdict,
        caution=data.caution,
        facts="\n".join(
            f"| {escape(key)} | {escape(value)} |" for key, value in _facts(workspace, data, settings, machine).items()
        ),
        split=data.split,
        small=_describe_network(workspace),
        commands=commands,
        fence=max(["```", *(f"{run}`" for run in re.findall("`{3,}", commands))], key=len),
        by_itself=(
            f"The demo itself adds the configuration `{CONFIGURATION}` to `nnUNetPlans.json` before training"
            + (", and writes the raw data and `splits_final.json`." if not data.commands(workspace) else ".")
        ),
        results=escape(str(workspace.results)),
    )
    write_text(report / "report.md", page)
    shown = format_table(comparison, numbers.name)  # a terminal shows names as they are
    return "\n".join([shown, "", *(textwrap.fill(text, 110) for text in (verdict, data.caution))])


def format_table(comparison: pd.DataFrame, written: Callable[[str], str] = escape) -> str:
    """Return the comparison as a Markdown table with aligned columns; `written` writes the names of labels."""
    header = ["Dice", WEIGHT_DECAY, CPR, f"{CPR} - {WEIGHT_DECAY}", "n", "higher / equal / lower"]
    rows = [
        [
            written(row.label),
            f"{row.baseline_mean:.3f}",
            f"{row.trainer_mean:.3f}",
            f"{row.difference:+.3f}" + (f" (sd {row.difference_std:.3f})" if row.n > 1 else ""),
            str(row.n),
            f"{row.wins} / {row.ties} / {row.losses}",
        ]
        for row in comparison.itertuples()
    ]
    widths = [max(len(line[column]) for line in [header, *rows]) for column in range(len(header))]
    lines = [header, ["-" * width for width in widths], *rows]
    return "\n".join("| " + " | ".join(map(str.ljust, line, widths)) + " |" for line in lines)


def state_result(comparison: pd.DataFrame) -> str:
    """Say in neutral words what the foreground mean shows."""
    row = comparison[comparison["label"] == FOREGROUND].iloc[0]
    if abs(row.difference) < 0.0005:
        finding = "CPR's mean foreground Dice is the same as weight decay's to three digits"
    elif row.difference > 0:
        finding = f"CPR's mean foreground Dice is {row.difference:.3f} higher than weight decay's"
    else:
        finding = (
            f"CPR's mean foreground Dice is {-row.difference:.3f} lower than weight decay's: no gain from CPR here"
        )
    return (
        f"{finding} (n = {row.n} validation case{'s' if row.n != 1 else ''}, one fold, one training per method). With "
        "one seed, a difference between two trainings can be chance: this does not show that either method is better."
    )


def _draw_curves(folders: dict[str, Path], settings: Settings, path: Path) -> None:
    per_epoch = settings.steps // settings.epochs
    curves = []
    for (method, folder), colour, marker in zip(folders.items(), COLOURS, MARKERS, strict=False):
        log = read_log(folder)
        epochs = log.assign(step=(log["epoch"] + 1) * per_epoch, run=method, fold=settings.fold)
        curves.append(Curve(epochs, colour, marker, method))
    save_figure(training_curves(curves, settings.warm_start), path)


def _draw_slice(
    workspace: Workspace,
    settings: Settings,
    folders: dict[str, Path],
    cases: pd.DataFrame,
    labels: dict[str, int],
    path: Path,
) -> None:
    means = cases.groupby("case")["value"].mean().dropna().sort_values()
    case = means.index[(len(means) - 1) // 2]
    shown = cases[cases["case"] == case]
    predictions = [
        Prediction(
            method,
            folders[method] / "validation" / f"{case}.nii.gz",
            shown.loc[shown["trainer"] == trainer, "value"].tolist(),
        )
        for method, trainer in settings.trainers.items()
    ]
    image, reference = (workspace.raw / part for part in (f"imagesTr/{case}_0000.nii.gz", f"labelsTr/{case}.nii.gz"))
    save_figure(slice_picture(case, image, reference, predictions, labels), path)


def _facts(workspace: Workspace, data: DemoData, settings: Settings, machine: Machine) -> dict[str, str]:
    iterations = settings.steps // settings.epochs
    facts = {
        "data": data.title,
        "steps per training": f"{settings.steps} ({settings.epochs} epochs of {iterations})",
        "CPR's warm start": f"{settings.warm_start} steps: so long the weights are unconstrained",
        "seed, fold": f"{settings.seed}, {settings.fold}",
        "device": f"cuda ({machine.cuda})" if settings.device == "cuda" else settings.device,
        "CPU cores": str(job_cores()),
        "precision": f"{settings.precision}, the same for both",
        "Python": platform.python_version(),
    }
    for method, trainer in settings.trainers.items():
        record = workspace.record(train_stage(settings, trainer)) or {"seconds": 0}
        facts[f"trainer, {method}"] = f"{trainer}, {record['seconds'] / 60:.1f} min with validation"
    for package in ("nnunet-cpr", "nnunetv2", "torch", "nilearn"):
        try:
            facts[package] = version(package)
        except PackageNotFoundError:
            facts[package] = "not installed"
    return facts


def _describe_network(workspace: Workspace) -> str:
    plans = read_json(workspace.preprocessed / "nnUNetPlans.json")
    small, full = (plans["configurations"][name] for name in (CONFIGURATION, "3d_fullres"))

    def summary(configuration: dict[str, Any]) -> str:
        features = configuration["architecture"]["arch_kwargs"]["features_per_stage"]
        return (
            f"features {', '.join(map(str, features))}, batch {configuration['batch_size']}, "
            f"patch {' x '.join(map(str, configuration['patch_size']))}"
        )

    return f"Configuration `{CONFIGURATION}`: {summary(small)} (nnU-Net's `3d_fullres` would be: {summary(full)})."


def _commands(workspace: Workspace, settings: Settings) -> list[str]:
    stages = ["convert", "plan", *(train_stage(settings, trainer) for trainer in settings.trainers.values())]
    records = [workspace.record(stage) or {"commands": []} for stage in stages]
    return [f"export {name}={shlex.quote(value)}" for name, value in workspace.variables().items()] + [
        command for record in records for command in record["commands"]
    ]
