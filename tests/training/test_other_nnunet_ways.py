"""Our trainers with nnU-Net's ResEnc plans and by MONAI's nnUNetV2Runner, as docs/how-to/other-nnunet-ways.md says."""

import json
import os
import re
import sys
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from training_helpers import make_trainer, run_command

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "other-nnunet-ways.md"
NAME = "nnUNetTrainerCPR_ws1_1epochs_3iters_seed0"
pytestmark = pytest.mark.slow


def test_residual_encoder_plans(nnunet):
    run_command("nnUNetv2_plan_experiment", "-d", "4", "-pl", "nnUNetPlannerResEncM", nnUNet_n_proc_DA="1")
    plans = json.loads((nnunet.preprocessed / "nnUNetResEncUNetMPlans.json").read_text())
    full = plans["configurations"]["3d_fullres"]
    architecture = deepcopy(full["architecture"])
    kwargs = architecture["arch_kwargs"]
    kwargs |= {key: kwargs[key][:3] for key in ("kernel_sizes", "strides")}
    kwargs |= {"n_stages": 3, "features_per_stage": [4, 8, 8], "n_blocks_per_stage": [1, 1, 1]}
    kwargs["n_conv_per_stage_decoder"] = [1, 1]
    small = {"inherits_from": "3d_fullres", "batch_size": 2, "patch_size": [24, 32, 24], "architecture": architecture}
    small["data_identifier"] = "nnUNetPlans_3d_fullres"  # ResEnc resamples as the default planner does
    plans["configurations"]["tiny"] = small
    trainer = make_trainer(nnunet, NAME, plans=plans)
    trainer.run_training()
    assert "ResidualEncoderUNet" in type(trainer.network).__name__
    bounded = [c for c in trainer.optimizer.constraints() if c.bounded]
    kernels = [p for p in trainer.network.parameters() if p.ndim == 5]
    assert len(bounded) == len(kernels) - 1  # the lowest deep supervision output is not trained
    trainer.perform_actual_validation()


def test_monais_runner(nnunet, tmp_path, monkeypatch):
    """The page's code; `nnUNetv2_train` is nnU-Net's own with `-device cpu`, which the runner cannot pass on."""
    pytest.importorskip("monai.apps.nnunet")
    command = tmp_path / "bin" / "nnUNetv2_train"
    command.parent.mkdir()
    real = Path(sys.executable).with_name("nnUNetv2_train")
    command.write_text(f'#!/bin/sh\nexec "{real}" "$@" -device cpu\n')
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{command.parent}{os.pathsep}{os.environ['PATH']}")
    folders = {name: os.environ[name] for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
    for name in (*folders, "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.setenv(name, os.environ.get(name, ""))  # the runner changes them
    settings = {name.lower(): folder for name, folder in folders.items()} | {"dataset_name_or_id": "4"}
    (tmp_path / "input.json").write_text(json.dumps(settings))
    code = re.search(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)[1]
    for shown, tried in {
        "input.yaml": str(tmp_path / "input.json"),
        "nnUNetTrainerCPR": NAME,
        "3d_fullres": "tiny",
    }.items():
        assert shown in code
        code = code.replace(shown, tried)
    exec(code)
    checkpoint = nnunet.results / f"{NAME}__nnUNetPlans__tiny" / "fold_0" / "checkpoint_final.pth"
    assert torch.load(checkpoint, weights_only=False)["trainer_name"] == NAME
