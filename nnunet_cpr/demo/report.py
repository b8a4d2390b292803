"""The demo's result: the report of `nnunet-cpr compare` on its two trainings, with what was run and what it is not."""

import shlex
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from nnunet_cpr.datasets.small_plans import CONFIGURATION
from nnunet_cpr.demo.data import DemoData
from nnunet_cpr.demo.device import Machine
from nnunet_cpr.demo.pipeline import PLANS, train_stage
from nnunet_cpr.demo.settings import CPR, WEIGHT_DECAY, Settings
from nnunet_cpr.demo.workspace import Workspace
from nnunet_cpr.evaluation import formatting as numbers
from nnunet_cpr.evaluation.comparison import compare_trainings
from nnunet_cpr.evaluation.report.layout import REPORT
from nnunet_cpr.evaluation.report.markdown import escape
from nnunet_cpr.evaluation.report.sections import Section
from nnunet_cpr.evaluation.report.verdict import READING, verdicts
from nnunet_cpr.evaluation.report.write import write_files
from nnunet_cpr.evaluation.request import make_request
from nnunet_cpr.files import read_json
from nnunet_cpr.output_folder import replace_folder
from nnunet_cpr.parallel import job_cores


def write_report(
    workspace: Workspace, data: DemoData, settings: Settings, machine: Machine, command: str
) -> tuple[Path, str]:
    """Write the report's folder and return its page and the text for the terminal: table, verdict and caution."""
    folder = workspace.report(settings)
    request = make_request(
        {
            "datasets": [data.name],
            "configuration": CONFIGURATION,
            "plans": PLANS,
            "trainers": {method: [trainer] for method, trainer in settings.trainers.items()},
            "folds": [str(settings.fold)],
            "output": folder,
        }
    )
    about, commands = _about_commands(workspace, data), _commands(workspace, settings)
    by_hand = Section("by-hand", "Again, by hand", [about], commands=commands)
    with workspace.environment(), replace_folder(folder, REPORT) as new:
        results = compare_trainings(request, command)
        results.cautions.insert(0, data.caution)
        results.facts |= _facts(workspace, data, settings, machine)
        write_files(results, new, [by_hand])
    ((verdict,),) = verdicts(results).values()
    said = f"{verdict.trainer}: {verdict.finding}. {verdict.numbers} {READING}"
    said = said.replace(numbers.MINUS, "-").replace("\N{NO-BREAK SPACE}", " ")
    texts = [textwrap.fill(text, 110) for text in (said, data.caution)]
    return folder / "report.html", "\n\n".join([format_table(results.comparisons, numbers.name), *texts])


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


def _facts(workspace: Workspace, data: DemoData, settings: Settings, machine: Machine) -> dict[str, str]:
    iterations = settings.steps // settings.epochs
    facts = {
        "data": data.title,
        "split": data.split,
        "network": _describe_network(workspace),
        "steps per training": f"{settings.steps} ({settings.epochs} epochs of {iterations})",
        "CPR's warm start": f"{settings.warm_start} steps: so long the weights are unconstrained",
        "device": f"cuda ({machine.cuda})" if settings.device == "cuda" else settings.device,
        "CPU cores": str(job_cores()),
        "precision": f"{settings.precision}, the same for both",
    }
    for method, trainer in settings.trainers.items():
        record = workspace.record(train_stage(settings, trainer)) or {"seconds": 0}
        facts[f"trainer, {method}"] = f"{trainer}, {record['seconds'] / 60:.1f} min with validation"
    return facts


def _describe_network(workspace: Workspace) -> str:
    plans = read_json(workspace.preprocessed / f"{PLANS}.json")
    small, full = (plans["configurations"][name] for name in (CONFIGURATION, "3d_fullres"))

    def summary(configuration: dict[str, Any]) -> str:
        features = configuration["architecture"]["arch_kwargs"]["features_per_stage"]
        return (
            f"features {', '.join(map(str, features))}, batch {configuration['batch_size']}, "
            f"patch {' x '.join(map(str, configuration['patch_size']))}"
        )

    return f"{CONFIGURATION}: {summary(small)}. nnU-Net's 3d_fullres would be: {summary(full)}."


def _commands(workspace: Workspace, settings: Settings) -> list[str]:
    stages = ["convert", "plan", *(train_stage(settings, trainer) for trainer in settings.trainers.values())]
    records = [workspace.record(stage) or {"commands": []} for stage in stages]
    return [f"export {name}={shlex.quote(value)}" for name, value in workspace.variables().items()] + [
        command for record in records for command in record["commands"]
    ]


def _about_commands(workspace: Workspace, data: DemoData) -> str:
    also = "" if data.commands(workspace) else ", and writes the raw data and splits_final.json"
    return f"The demo itself adds the configuration {CONFIGURATION} to {PLANS}.json before training{also}."
