"""A small preprocessed nnU-Net dataset on real MR images, made once per session with nnU-Net's own commands."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure
from nnunetv2.training.logging.nnunet_logger import MetaLogger
from training_helpers import run_command, tiny

from nnunet_cpr.training.checkpoints import Pace

CASES = 8


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """One torch thread: the networks are tiny, and sums then always have the same order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a figure's second after every epoch, and with a checkpoint after every one."""
    monkeypatch.setattr(MetaLogger, "plot_progress_png", lambda *_: None)
    monkeypatch.setattr("nnunet_cpr.training.trace.draw", lambda _: Figure())
    monkeypatch.setattr(Pace, "due", lambda _: True)


@pytest.fixture(scope="session")
def nnunet_folders(hippocampus: Path, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """nnU-Net's three folders with 8 Hippocampus cases preprocessed."""
    root = tmp_path_factory.mktemp("nnunet")
    source = root / "Task04_Hippocampus"
    for folder in ("imagesTr", "labelsTr", "imagesTs"):
        (source / folder).mkdir(parents=True)
    description = json.loads((hippocampus / "dataset.json").read_text())
    description["training"] = description["training"][:CASES]
    description.update(numTraining=CASES, numTest=0, test=[])
    (source / "dataset.json").write_text(json.dumps(description))
    for case in description["training"]:
        for file in case.values():
            shutil.copy(hippocampus / file, source / file)
    variables = {name: str(root / name) for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
    for folder in variables.values():
        Path(folder).mkdir()
    # Spinning threads make a busy machine many times slower.
    variables |= {"nnUNet_def_n_proc": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    environment: dict[str, Any] = variables | {"nnUNet_n_proc_DA": "1"}  # the planner cannot take a 0
    run_command("nnUNetv2_convert_MSD_dataset", "-i", str(source), "-np", "1", **environment)
    plan = ("nnUNetv2_plan_and_preprocess", "-d", "4", "-c", "2d", "3d_fullres", "-np", "1", "1", "-npfp", "1")
    run_command(*plan, **environment)
    dataset = Path(variables["nnUNet_preprocessed"]) / "Dataset004_Hippocampus"
    plans_file = dataset / "nnUNetPlans.json"
    plans = json.loads(plans_file.read_text())
    full, flat = plans["configurations"]["3d_fullres"], plans["configurations"]["2d"]
    plans["configurations"] |= {
        "tiny": {"inherits_from": "3d_fullres"} | tiny(full, [24, 32, 24], [4, 8, 8]),
        "tiny_2d": {"inherits_from": "2d"} | tiny(flat, [40, 40], [4, 8, 8]),
    }
    plans_file.write_text(json.dumps(plans))
    return SimpleNamespace(
        raw=Path(variables["nnUNet_raw"]) / dataset.name,
        preprocessed=dataset,
        plans=plans,
        dataset_json=json.loads((dataset / "dataset.json").read_text()),
        results=Path(variables["nnUNet_results"]) / dataset.name,
        variables=variables | {"nnUNet_n_proc_DA": "0"},
    )


@pytest.fixture(scope="module")
def nnunet(nnunet_folders: SimpleNamespace) -> Iterator[SimpleNamespace]:
    """nnU-Net's folders, in the environment for the tests of one file."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in nnunet_folders.variables.items():
            patch.setenv(name, value)
        patch.delenv("nnUNet_extTrainer", raising=False)
        yield nnunet_folders
