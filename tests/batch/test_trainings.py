"""How far the trainings of a study are, from folders made by hand, and what `status` and --dry-run show of it."""

import fcntl
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from batch_helpers import DATASET, prepared_dataset

from nnunet_cpr.batch.states_table import states_table
from nnunet_cpr.batch.study import read_study
from nnunet_cpr.batch.trainings import states_of, trainings_of
from nnunet_cpr.cli import main

SGD, CPR = "nnUNetTrainerSGD_10epochs", "nnUNetTrainerCPR_10epochs"


@pytest.fixture
def study(tmp_path, monkeypatch) -> Path:
    for name in ("raw", "preprocessed", "results"):
        monkeypatch.setenv(f"nnUNet_{name}", str(tmp_path / name))
    prepared_dataset(tmp_path / "preprocessed")
    path = tmp_path / "study.yaml"
    path.write_text(f"datasets: 4\ntrainers: {{wd: {SGD}, CPR: {CPR}}}\nfolds: [0, 1, 2]\ndevice: cpu\n")
    return path


def fold(tmp_path, trainer, number, seconds=(), checkpoint=None, summary=None, configuration="3d_fullres") -> Path:
    folder = tmp_path / "results" / DATASET / f"{trainer}__nnUNetPlans__{configuration}" / f"fold_{number}"
    (folder / "validation").mkdir(parents=True)
    log = "".join(f"t: Epoch {k}\nt: Epoch time: {time} s\n" for k, time in enumerate(seconds))
    (folder / "training_log_2026_1_1_00_00_00.txt").write_text(log)
    if checkpoint:
        (folder / f"checkpoint_{checkpoint}.pth").touch()
    if summary is not None:
        (folder / "validation" / "summary.json").write_text(summary)
    return folder


def record(tmp_path, trainer, number, **content) -> None:
    path = tmp_path / "results/studies/study/records" / DATASET / f"{trainer}__nnUNetPlans__3d_fullres"
    path.mkdir(parents=True, exist_ok=True)
    (path / f"fold_{number}.json").write_text(json.dumps(content))


def of(states, trainer, number):
    return next(state for state in states if (state.run, state.fold) == (trainer, str(number)))


def test_states_and_hours(study, tmp_path):
    whole = json.dumps({"metric_per_case": [{}]})
    fold(tmp_path, SGD, 0, seconds=[100.0] * 10, checkpoint="final", summary=whole)
    fold(tmp_path, SGD, 1, seconds=[360.0, 360.0, 1000.0], checkpoint="latest")
    fold(tmp_path, CPR, 0, seconds=[720.0] * 4, checkpoint="best")
    record(tmp_path, CPR, 0, outcome="failed", exit_code=9)
    fold(tmp_path, CPR, 1, seconds=[50.0])  # it was stopped before the first checkpoint
    states = states_of(read_study(study))
    assert [(s.run, s.fold, s.state, s.epochs_done, s.epochs) for s in states] == [
        (SGD, "0", "done", 10, 10),
        (CPR, "0", "failed", 4, 10),
        (SGD, "1", "resumable", 3, 10),
        (CPR, "1", "missing", 0, 10),
        (SGD, "2", "missing", 0, 10),
        (CPR, "2", "missing", 0, 10),
    ]
    # Epochs left times the median of: this training, else this trainer on the dataset.
    assert [s.hours_left for s in states] == pytest.approx(
        [0, 6 * 720 / 3600, 7 * 360 / 3600, 10 * 50 / 3600, 10 * 100 / 3600, 10 * 720 / 3600]
    )
    assert states[1].note.startswith("exit code 9, see ")
    assert {(s.dataset, s.trainer) for s in states} == {(DATASET, "wd"), (DATASET, "CPR")}
    assert "6 trainings: 1 done, 1 resumable, 1 failed, 3 missing; 43 of 60 epochs left; 4.3 hours" in states_table(
        states
    )


def test_hours_by_another_trainer_and_unknown_hours(study, tmp_path):
    assert {s.hours_left for s in states_of(read_study(study))} == {None}
    table = states_table(states_of(read_study(study)))
    assert "no epoch was timed yet" in table
    assert table.splitlines()[1].endswith("0/10    ?")
    fold(tmp_path, SGD, 0, seconds=[36.0])
    assert of(states_of(read_study(study)), CPR, 2).hours_left == pytest.approx(0.1)


def test_several_configurations_are_told_apart(study, tmp_path):
    study.write_text(study.read_text() + "configuration: [2d, 3d_fullres]\n")
    fold(tmp_path, SGD, 0, seconds=[36.0], configuration="2d", checkpoint="latest")
    states = states_of(read_study(study))
    # A dataset's configurations one after the other, each with all folds; times of one say nothing of another.
    assert [(s.configuration, s.fold, s.run, s.hours_left is None) for s in states] == [
        (configuration, number, run, configuration == "3d_fullres")
        for configuration in ("2d", "3d_fullres") for number in "012" for run in (SGD, CPR)
    ]  # fmt: skip
    rows = states_table(states).splitlines()
    assert rows[0].split()[:4] == ["dataset", "plans", "configuration", "trainer"]
    assert rows[1].split()[:6] == [DATASET, "nnUNetPlans", "2d", SGD, "0", "resumable"]


def test_hours_by_what_else_was_trained_on_the_dataset(study, tmp_path):
    """By steps: 100 seconds for 50 iterations are 500 for nnU-Net's 250. Other data and configurations say nothing."""
    fold(tmp_path, "nnUNetTrainerAdamW_7epochs", 0, seconds=[1.0], configuration="2d")
    shutil.copytree(tmp_path / "results" / DATASET, tmp_path / "results" / "Dataset005_Other")
    assert {s.hours_left for s in states_of(read_study(study))} == {None}
    fold(tmp_path, "nnUNetTrainerAdamW_7epochs_50iters", 4, seconds=[90.0, 100.0, 900.0])
    assert [s.hours_left for s in states_of(read_study(study))] == pytest.approx([10 * 500 / 3600] * 6)


@pytest.mark.parametrize("summary", ["", "{", "[]", "{}", '{"metric_per_case": []}', '{"metric_per_case"', "null"])
def test_half_written_results_are_not_done(study, tmp_path, summary):
    fold(tmp_path, SGD, 0, seconds=[1.0] * 10, checkpoint="final", summary=summary)
    state = of(states_of(read_study(study)), SGD, 0)
    assert (state.state, state.epochs_done, state.hours_left) == ("resumable", 10, 0.0)


def test_results_of_an_earlier_training_or_split_are_not_done(study, tmp_path):
    def whole(*cases):
        return json.dumps({"metric_per_case": [{"prediction_file": f"/x/{case}.nii.gz"} for case in cases]})

    fold(tmp_path, SGD, 0, seconds=[1.0] * 10, checkpoint="final", summary=whole("case_0", "case_5"))
    retrained = fold(tmp_path, SGD, 1, seconds=[1.0] * 4, checkpoint="latest", summary=whole("case_1", "case_6"))
    (retrained / "checkpoint_final.pth.old").touch()
    other = fold(tmp_path, CPR, 1, seconds=[1.0] * 10, checkpoint="final", summary=whole("case_1", "case_2"))
    states = states_of(read_study(study))
    assert (of(states, SGD, 0).state, of(states, SGD, 0).note) == ("done", "")
    assert (of(states, SGD, 1).state, of(states, SGD, 1).epochs_done) == ("resumable", 4)
    assert "checkpoint_latest.pth is of a training that was not finished" in of(states, SGD, 1).note
    assert of(states, CPR, 1).state == "outdated"
    assert "validated with case_2 and without case_6" in of(states, CPR, 1).note
    assert f"rename or remove {other} to train it again" in of(states, CPR, 1).note
    assert "1 done, 1 resumable, 3 missing, 1 outdated" in states_table(states)


def test_running_is_who_holds_the_lock(study, tmp_path):
    folder = fold(tmp_path, SGD, 0, seconds=[36.0] * 2)
    record(tmp_path, SGD, 0, outcome="failed", exit_code=1)
    read = read_study(study)
    run = trainings_of(read)[0]
    assert run.folder == folder
    assert run.lock.parent == folder.parent
    with run.lock.open("w") as stream:
        assert of(states_of(read), SGD, 0).state == "failed"
        fcntl.flock(stream, fcntl.LOCK_EX)
        state = of(states_of(read), SGD, 0)
        assert (state.state, state.note, state.epochs_done) == ("running", "", 2)
    assert of(states_of(read), SGD, 0).state == "failed"


@pytest.mark.parametrize("content", ["", "[]", "3", "{", '{"outcome": 1}'])
def test_a_damaged_record_is_none(study, tmp_path, content):
    record(tmp_path, SGD, 0)
    next((tmp_path / "results/studies/study/records").rglob("*.json")).write_text(content)
    assert of(states_of(read_study(study)), SGD, 0).state == "missing"


@pytest.mark.parametrize(
    ("name", "epochs"),
    [("nnUNetTrainer", 1000), ("nnUNetTrainer_250epochs", 250), ("nnUNetTrainer_1epoch", 1),
     ("nnUNetTrainer_250epochs_NoMirroring", 250), ("nnUNetTrainerCPR", 1000), (CPR, 10)],
)  # fmt: skip
def test_epochs_are_in_the_name(study, name, epochs):
    study.write_text(f"datasets: 4\ntrainers: [{name}]\n")
    assert trainings_of(read_study(study))[0].epochs == epochs


@pytest.mark.parametrize("command", [["status", "--json"], ["batch", "--dry-run", "--json"]])
def test_json(study, tmp_path, capsys, command):
    fold(tmp_path, CPR, 1, seconds=[36.0], checkpoint="latest")
    before = sorted(tmp_path.rglob("*"))
    assert main([*command, str(study)]) == 0
    content = json.loads(capsys.readouterr().out)
    assert [(entry["dataset"], entry["trainer"], entry["run"], entry["fold"]) for entry in content] == [
        (DATASET, shown, run, number) for number in "012" for shown, run in (("wd", SGD), ("CPR", CPR))
    ]
    assert content[3] | {"note": ""} == {
        "dataset": DATASET, "plans": "nnUNetPlans", "configuration": "3d_fullres", "trainer": "CPR", "run": CPR,
        "fold": "1", "state": "resumable", "epochs_done": 1, "epochs": 10, "hours_left": pytest.approx(0.09),
        "note": "",
    }  # fmt: skip
    assert sorted(tmp_path.rglob("*")) == before


def test_dry_run_says_what_is_prepared(study, tmp_path, capsys):
    data = tmp_path / "preprocessed" / DATASET
    assert main(["batch", "--dry-run", str(study)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"{DATASET}: prepared"
    (data / "splits_final.json").unlink()
    assert main(["batch", "--dry-run", str(study)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"{DATASET}: to be prepared first"


ABSENT = "missing, neither in nnUNet_raw nor in nnUNet_preprocessed"


@pytest.mark.parametrize(
    ("datasets", "made", "expected"),
    [
        ("4", [], [f"Dataset004: {ABSENT}"]),
        (DATASET, [], [f"{DATASET}: {ABSENT}"]),
        ("[4, 27, 999]", ["raw/Dataset027_ACDC"],
         [f"Dataset004: {ABSENT}", f"Dataset027_ACDC: {ABSENT}", f"Dataset999: {ABSENT}"]),
        ("[4, 27]", ["raw/Dataset027_ACDC/dataset.json"],
         [f"Dataset004: {ABSENT}", "Dataset027_ACDC: to be prepared first"]),
        ("4\nplans: MyPlans\nconfiguration: mine", [], [f"Dataset004: {ABSENT}"]),
        ("4\nconfiguration: 3d_small", [], [f"Dataset004: {ABSENT}"]),
    ],
)  # fmt: skip
def test_a_study_is_planned_before_its_data_is_there(study, tmp_path, capsys, datasets, made, expected):
    shutil.rmtree(tmp_path / "preprocessed")
    study.write_text(study.read_text().replace("datasets: 4", f"datasets: {datasets}"))
    for name in made:
        description = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "a": 1}, "file_ending": ".nii.gz"}
        path = tmp_path / name
        (path if path.suffix == "" else path.parent).mkdir(parents=True)
        if path.suffix:
            path.write_text(json.dumps(description))
    before = sorted(tmp_path.rglob("*"))
    assert main(["batch", "--dry-run", str(study)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-len(expected) :] == expected
    trainings = 6 * len(expected)
    assert (
        f"{trainings} trainings: {trainings} missing; {10 * trainings} of {10 * trainings} epochs left; no epoch"
        in (lines[-len(expected) - 1])
    )
    assert main(["status", "--json", str(study)]) == 0
    assert len(json.loads(capsys.readouterr().out)) == trainings
    assert main(["batch", str(study)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == datasets.count(",") + 1 - expected.count(
        "Dataset027_ACDC: to be prepared first"
    )
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (f"wd: {SGD}", "wd: Nobody", "2: there is no trainer Nobody"),
        ("[0, 1, 2]", "[0, 5]", "3: fold 5 is out of range: Dataset004 has 5 folds, 0 to 4"),
        ("device: cpu", "configuration: 3d_huge", "4: Dataset004 has no configuration 3d_huge; there are 2d, 3d_fullr"),
        ("datasets: 4", "datasets: 1000", "1: 1000 is not a dataset of nnU-Net's folders"),
        ("datasets: 4", "datasets: [4, 04]", "1: datasets has 04 twice"),
        ("datasets: 4", "datasets: x", "1: x is not a dataset of nnU-Net's folders"),
    ],
)
def test_mistakes_are_mistakes_without_the_data_too(study, tmp_path, capsys, old, new, message):
    shutil.rmtree(tmp_path / "preprocessed")
    assert old in study.read_text()
    study.write_text(study.read_text().replace(old, new))
    assert main(["batch", "--dry-run", str(study)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"study.yaml:{message}" in line


def test_what_is_damaged_is_a_mistake_when_a_study_is_planned(study, tmp_path, capsys):
    description = tmp_path / "raw" / DATASET / "dataset.json"
    description.parent.mkdir(parents=True)
    description.write_text("{")
    assert main(["batch", "--dry-run", str(study)]) == 2
    assert f"{description} cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize(
    "configurations",
    [{"3d_fullres": {"inherits_from": "3d_fullres"}}, {"3d_fullres": {"inherits_from": "2d"}}, {"3d_fullres": {}}],
)
def test_plans_that_lead_nowhere(study, tmp_path, capsys, configurations):
    plans = tmp_path / "preprocessed" / DATASET / "nnUNetPlans.json"
    plans.write_text(json.dumps({"configurations": configurations}))
    assert main(["batch", "--dry-run", str(study)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{plans}: 3d_fullres has no data_identifier; plan {DATASET} anew" in line


@pytest.mark.parametrize(
    ("arguments", "device", "message"),
    [
        (["--json"], "cpu", "--json goes with --dry-run"),
        (["--jobs", "0"], "cpu", "--jobs 0: at least one"),
        (["--gpus", "0"], "cpu", "--gpus means nothing with device: cpu"),
        (["--gpus", "0,1,0"], "cuda", "--gpus 0,1,0 names a GPU twice"),
        (["--gpus", ","], "cuda", "no GPU was found"),
        (["--jobs", "2"], "cuda", "--jobs is for studies without GPU"),
        (
            ["--gpus", "0,7"],
            "cuda\ngpus_per_training: 3",
            "gpus_per_training is 3, but there are only these GPUs: 0, 7",
        ),
        (["--profile", "nowhere"], "cpu", "--profile nowhere is not a folder"),
    ],
)
def test_flags_that_make_no_sense(study, capsys, arguments, device, message):
    study.write_text(study.read_text().replace("cpu", device))
    assert main(["batch", str(study), *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"nnunet-cpr: error: {message}")
    assert error.count("\n") == 1


@pytest.mark.parametrize("command", [["status"], ["batch", "--dry-run"]])
def test_torch_is_not_imported_to_look(study, command):
    code = f"import sys; from nnunet_cpr.cli import main; main({[*command, str(study)]}); print(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "'yaml'" in done.stdout
    assert "'torch'" not in done.stdout
