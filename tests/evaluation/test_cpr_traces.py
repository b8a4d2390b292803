"""The traces of CPR trainings, and what is said of missing ones."""

import pytest
from evaluation_helpers import write_trace, write_training

from nnunet_cpr.evaluation.readers.cpr_traces import read_traces
from nnunet_cpr.evaluation.readers.trainings import find_trainings
from nnunet_cpr.evaluation.results import TRACE_COLUMNS
from nnunet_cpr.optim import Constraint
from nnunet_cpr.training.trace import Trace


@pytest.fixture
def trained(tmp_path, monkeypatch):
    monkeypatch.setenv("nnUNet_results", str(tmp_path))
    monkeypatch.setattr("nnunet_cpr.evaluation.readers.nnunet_results.dataset_name", lambda _: "Dataset004_Tiny")
    runs = ["nnUNetTrainer", "nnUNetTrainerCPR", "nnUNetTrainerCPR_seed1"]
    folders = {run: write_training(tmp_path, run, 0, {"c": {"1": 0.5}}, {"x": 1}) for run in runs}
    trainers = {"base": runs[:1], "CPR": runs[1:]}
    return folders, find_trainings(["4"], "3d_fullres", trainers, "nnUNetPlans", ["0"])[0]


def test_rows_are_what_the_training_wrote(trained):
    folders, trainings = trained
    trace = Trace(folders["nnUNetTrainerCPR"], 0)
    for epoch, kappa in enumerate((float("inf"), 1.5)):
        trace.add(epoch, 250 * (epoch + 1), [Constraint("a", 4, 2.0, kappa, 0.25 * epoch, False)])
    trace.save()
    traces, left_out = read_traces(trainings)
    assert list(traces.columns) == TRACE_COLUMNS
    assert traces.iloc[1].tolist() == ["Dataset004_Tiny", "CPR", "nnUNetTrainerCPR", "0", "a", 1, 500, 2.0, 1.5, 0.25]
    assert traces["kappa"].iloc[0] == float("inf")
    assert left_out == ["Left out, because there is no cpr_trace.csv: Dataset004_Tiny, nnUNetTrainerCPR_seed1, fold 0."]


@pytest.mark.parametrize(
    "damage",
    ["", "epoch,step\n1,2\n", *("epoch,step,tensor,reg,kappa,lagmul\n" + row + "\n" for row in (
        "0,1,a,x,1,0", "0,1,,1,1,0", "-1,1,a,1,1,0", "0,-1,a,1,1,0", "0,1,a,1,1,-inf", "0,1,a,-2,1,0",
        "0,1,a,1,1e300,0", "0,1,a,1e-320,1,0"))],
)  # fmt: skip
def test_a_damaged_trace_is_left_out_and_named(trained, damage):
    folders, trainings = trained
    write_trace(folders["nnUNetTrainerCPR"], {0: {"a": (1, 2, 0)}})
    path = folders["nnUNetTrainerCPR_seed1"] / "cpr_trace.csv"
    path.write_text(damage)
    traces, (sentence,) = read_traces(trainings)
    assert len(traces) == 1
    assert sentence.startswith(f"Left out, because it cannot be read: {path} (") and "\n" not in sentence


def test_a_diverged_training_is_no_damage(trained):
    folders, trainings = trained
    for folder in (folders["nnUNetTrainerCPR"], folders["nnUNetTrainerCPR_seed1"]):
        write_trace(folder, {0: {"a": (float("nan"), float("inf"), float("nan"))}})
    traces, left_out = read_traces(trainings)
    assert len(traces) == 2 and not left_out
