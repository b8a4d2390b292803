"""The stages of the demo, each nnU-Net's own command, none of them done twice."""

import shlex
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from nnunet_cpr.datasets.small_plans import CONFIGURATION, add_small_configuration
from nnunet_cpr.demo.data import DemoData
from nnunet_cpr.demo.settings import Settings
from nnunet_cpr.demo.subprocesses import Meter, run_command
from nnunet_cpr.demo.training_log import epochs_done, latest_values
from nnunet_cpr.demo.workspace import Workspace
from nnunet_cpr.files import read_json, write_json

PLANS = "nnUNetPlans"


@dataclass(frozen=True)
class Stage:
    """A stage is finished when its record says so, for the same settings, and its product is there."""

    name: str
    title: str
    settings: dict[str, Any]
    commands: list[list[str]]
    product: Path
    work: Callable[[], None]


def run_stages(workspace: Workspace, data: DemoData, settings: Settings) -> None:
    """Convert, plan, preprocess and train both trainers, leaving out what an earlier run has finished."""
    fingerprint = {"data": data.fingerprint()}
    _refuse_mixture(workspace, settings, fingerprint)
    converted = workspace.raw / "dataset.json"
    if not (workspace.is_finished("convert", fingerprint) and converted.is_file()):
        data.check()  # before anything is written
        workspace.clear("convert", workspace.raw)
    workspace.create()
    stages = [
        Stage("convert", "Convert the data to nnU-Net's format", fingerprint, data.commands(workspace), converted,
              lambda: data.convert(workspace)),
        Stage("plan", "Plan and preprocess", fingerprint, [plan_command(workspace, data)],
              workspace.preprocessed / f"{PLANS}.json", lambda: _plan(workspace, data)),
    ]  # fmt: skip
    for method, trainer in settings.trainers.items():
        stages.append(
            Stage(
                train_stage(settings, trainer),
                f"Train and validate with {method}: {settings.steps} steps",
                fingerprint | {"device": settings.device},
                [train_command(data, settings, trainer)],
                fold_folder(workspace, settings, trainer) / "validation" / "summary.json",
                partial(_train, workspace, data, settings, trainer),
            )
        )
    for stage in stages:
        _run_stage(workspace, stage)


def plan_command(workspace: Workspace, data: DemoData) -> list[str]:
    """nnU-Net's planning and preprocessing, with its check of the dataset."""
    processes = workspace.variables()["nnUNet_def_n_proc"]
    return ["nnUNetv2_plan_and_preprocess", "-d", str(data.number), "-c", "3d_fullres",
            "-npfp", processes, "-np", processes, "--verify_dataset_integrity"]  # fmt: skip


def train_command(data: DemoData, settings: Settings, trainer: str) -> list[str]:
    """nnU-Net's training, which goes on where an earlier one stopped."""
    return ["nnUNetv2_train", str(data.number), CONFIGURATION, str(settings.fold),
            "-tr", trainer, "-device", settings.device, "--c"]  # fmt: skip


def train_stage(settings: Settings, trainer: str) -> str:
    """The name of a training in the workspace's records."""
    return f"train-{trainer}-fold{settings.fold}"


def fold_folder(workspace: Workspace, settings: Settings, trainer: str) -> Path:
    """Where nnU-Net puts a training's results."""
    return workspace.results / f"{trainer}__{PLANS}__{CONFIGURATION}" / f"fold_{settings.fold}"


def _refuse_mixture(workspace: Workspace, settings: Settings, fingerprint: dict[str, Any]) -> None:
    """Raise before anything runs if any stage was done with other data or on another device."""
    for stage in ("convert", "plan"):
        workspace.is_finished(stage, fingerprint)
    for trainer in settings.trainers.values():
        workspace.is_finished(train_stage(settings, trainer), fingerprint | {"device": settings.device})


def _run_stage(workspace: Workspace, stage: Stage) -> None:
    if workspace.is_finished(stage.name, stage.settings) and stage.product.is_file():
        print(f"{stage.title}: done before", flush=True)
        return
    begun = workspace.record(stage.name) is not None
    print(f"{stage.title}{' (begun before)' if begun else ''} ...", flush=True)
    start = time.monotonic()
    with workspace.stage(stage.name, stage.settings, [shlex.join(command) for command in stage.commands]):
        stage.work()
    print(f"  done in {time.monotonic() - start:.0f} s", flush=True)


def _plan(workspace: Workspace, data: DemoData) -> None:
    workspace.clear("plan", workspace.preprocessed)
    cases = read_json(workspace.raw / "dataset.json")["numTraining"]
    cropped = workspace.preprocessed / f"{PLANS}_3d_fullres"
    meter = Meter("preprocess", "case", lambda: cases, lambda: sum(1 for _ in cropped.glob("*.pkl")))
    log = workspace.logs / f"{data.name}-plan.log"
    run_command(plan_command(workspace, data), log, workspace.variables(), [meter])
    plans_file = workspace.preprocessed / f"{PLANS}.json"
    add_small_configuration(plans_file, read_json(plans_file))
    own_splits = workspace.raw / "splits_final.json"
    if own_splits.is_file():
        write_json(workspace.preprocessed / own_splits.name, read_json(own_splits))


def _train(workspace: Workspace, data: DemoData, settings: Settings, trainer: str) -> None:
    folder = fold_folder(workspace, settings, trainer)
    iterations = settings.steps // settings.epochs
    training = Meter(
        "train", "step", lambda: settings.steps, lambda: epochs_done(folder) * iterations, lambda: latest_values(folder)
    )
    validation = Meter(
        "validate",
        "case",
        lambda: len(validation_cases(workspace, settings)),
        lambda: sum(1 for _ in (folder / "validation").glob("*.nii.gz")),
    )
    log = workspace.logs / f"{workspace.dataset}-{train_stage(settings, trainer)}.log"
    run_command(train_command(data, settings, trainer), log, workspace.variables(), [training, validation])


def validation_cases(workspace: Workspace, settings: Settings) -> list[str]:
    """The cases of the fold; none while nnU-Net has not yet written its split."""
    splits = workspace.preprocessed / "splits_final.json"
    return read_json(splits)[settings.fold]["val"] if splits.is_file() else []
