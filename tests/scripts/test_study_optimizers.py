"""scripts/study_optimizers.py: tuned on one set, compared on another, continued, and one line for what is wrong."""

import csv

import pytest
import study_optimizers
from script_helpers import ROOT
from study_optimizers import choices, main, read_study

STUDY = """
question: Is it so?
script: train_grokking
metric: val_loss
lower_is_better: true
common: {modulus: 7, width: 16, hidden: 32, train_share: 0.9, max_steps: 6, log_every: 1, eval_every: 3, device: cpu}
tuning: {seed: 7}
final: {}
seeds: [1, 2]
methods:
  adamw: {optimizer: adamw, weight_decay: [0.0, 1.0], lr: [0.001, 0.1]}
  adamcpr k: {optimizer: adamcpr, kappa_init_method: dependent, kappa_init_param: [0.8]}
"""


def written(tmp_path, text=STUDY):
    path = tmp_path / "study.yaml"
    path.write_text(text)
    return path


def table(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_best_choice_of_each_method_is_trained_with_every_seed(tmp_path, monkeypatch):
    path, out = written(tmp_path), tmp_path / "out"
    assert main([str(path), "--out", str(out), "--jobs", "2"]) == 0
    tuning = table(out / "tuning.csv")
    assert [row["method"] for row in tuning] == ["adamw"] * 4 + ["adamcpr k"]
    best = min((row for row in tuning if row["method"] == "adamw"), key=lambda row: float(row["value"]))
    # Each value is that of the last evaluation of the run that is named so.
    for row in tuning[:4]:
        given = dict(part.split(": ") for part in row["choice"].split(", "))
        folder = out / "tuning" / f"adamw-weight_decay{given['weight_decay']}-lr{given['lr']}"
        last = table(folder / "metrics.csv")[-1]
        assert (last["step"], float(last["val_loss"])) == ("6", pytest.approx(float(row["value"]), rel=1e-8))
    final = table(out / "runs.csv")
    assert sorted(row["seed"] for row in final) == ["1", "1", "2", "2"]
    settings = [row["setting"] for row in table(out / "settings.csv")]
    decay = float(dict(part.split(": ") for part in best["choice"].split(", "))["weight_decay"])
    assert any(name.startswith(f"adamw wd {decay:g}") for name in settings)
    assert {path.name for path in (out / "final").iterdir()} == {
        f"{method}-seed{seed}" for method in ("adamw", "adamcpr_k") for seed in (1, 2)
    }

    # Again: nothing is trained a second time.
    def fails(*_, **__):
        raise AssertionError

    before = (out / "table.md").read_text()
    real = study_optimizers.subprocess.run
    monkeypatch.setattr(
        study_optimizers.subprocess,
        "run",
        lambda command, **o: fails() if "--resume" in command else real(command, **o),
    )
    times = {p: p.stat().st_mtime_ns for p in out.rglob("metrics.csv")}
    assert main([str(path), "--out", str(out)]) == 0
    assert {p: p.stat().st_mtime_ns for p in out.rglob("metrics.csv")} == times
    assert (out / "table.md").read_text() == before


def test_a_training_that_fails_is_named(tmp_path, capsys):
    path = written(tmp_path, STUDY.replace("train_share: 0.9", "train_share: 1.5"))
    assert main([str(path), "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "tuning/adamw-weight_decay0.0-lr0.001: train_grokking.py: " in error
    assert "train_share" in error


def test_a_folder_with_a_run_of_other_settings_is_not_taken_for_the_one_that_is_wanted(tmp_path, capsys):
    path, out = written(tmp_path), tmp_path / "out"
    assert main([str(path), "--out", str(out)]) == 0
    capsys.readouterr()
    written(tmp_path, STUDY.replace("hidden: 32", "hidden: 16"))
    assert main([str(path), "--out", str(out)]) == 2
    assert "holds a run with hidden 32, but the study says 16; move it away" in capsys.readouterr().err


def test_a_choice_that_diverges_is_the_worst_and_is_not_tried_again(tmp_path, capsys, monkeypatch):
    text = STUDY.replace("weight_decay: [0.0, 1.0], lr: [0.001, 0.1]", "lr: [0.001, 1.0e+36]")
    path, out = written(tmp_path, text), tmp_path / "out"
    assert main([str(path), "--out", str(out)]) == 0
    values = [row["value"] for row in table(out / "tuning.csv")]
    assert values[1] == "diverged"
    assert float(values[0]) > 0
    assert len(table(out / "runs.csv")) == 4
    assert main([str(path), "--out", str(out)]) == 0
    assert capsys.readouterr().out.count("diverged") == 1


def test_a_metric_that_is_no_number_is_never_the_best(tmp_path, monkeypatch):
    path, out = written(tmp_path), tmp_path / "out"
    read = study_optimizers.read_run

    def first_is_nan(folder):
        run = read(folder)
        if folder.name == "adamw-weight_decay0.0-lr0.001":
            run.evaluations["val_loss"].iloc[-1] = float("nan")
        return run

    monkeypatch.setattr(study_optimizers, "read_run", first_is_nan)
    study = read_study(path)
    best = study_optimizers.tune(study, out, 1)["adamw"]
    rows = [row for row in table(out / "tuning.csv") if row["method"] == "adamw"]
    assert rows[0]["value"] == "nan"
    chosen = min(rows[1:], key=lambda row: float(row["value"]))
    assert f"weight_decay: {best['weight_decay']}, lr: {best['lr']}" in chosen["choice"]


def test_the_table_names_the_last_trainings_that_diverged(tmp_path, monkeypatch, capsys):
    path, out = written(tmp_path), tmp_path / "out"
    assert main([str(path), "--out", str(out)]) == 0
    assert "Diverged" not in (out / "table.md").read_text()
    (out / "final" / "adamcpr_k-seed2" / study_optimizers.DIVERGED_FILE).write_text("the loss was not finite\n")
    assert main([str(path), "--out", str(out)]) == 0
    assert (out / "table.md").read_text().endswith("\nDiverged, and not in the table: adamcpr_k-seed2.\n")
    assert "adamcpr_k-seed2 diverged and is not compared" in capsys.readouterr().err


def test_a_child_without_a_last_word_and_a_wrong_metric_are_one_line(tmp_path, capsys, monkeypatch):
    path = written(tmp_path, STUDY.replace("metric: val_loss", "metric: val_los"))
    assert main([str(path), "--out", str(tmp_path / "out")]) == 2
    assert "the metric val_los is none of train_grokking's: val_loss, val_accuracy" in capsys.readouterr().err
    died = study_optimizers.subprocess.CompletedProcess([], -9, "", "")
    monkeypatch.setattr(study_optimizers.subprocess, "run", lambda *_, **__: died)
    assert main([str(path), "--out", str(tmp_path / "other")]) == 2
    assert "ended with exit code -9" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seeds: [1, 2]\n", "", "this differs in seeds"),
        ("question", "questions", "this differs in question"),
        ("train_grokking", "train_nothing", "there is no script train_nothing"),
        (STUDY, "- a list", "a study has the keys"),
    ],
)
def test_what_is_no_study(tmp_path, capsys, old, new, message):
    assert main([str(written(tmp_path, STUDY.replace(old, new))), "--out", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_choices_are_all_combinations():
    assert choices({"a": [1, 2], "b": 3, "c": ["x", "y"]}) == [
        {"a": a, "b": 3, "c": c} for a in (1, 2) for c in ("x", "y")
    ]


@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "studies").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_study_of_ours_is_one_and_says_what_would_count(path):
    study = read_study(path)
    assert "Written before the first run" in study.question
    assert study.tuning["seed"] not in study.seeds
    assert len(study.seeds) >= 3
    assert "adamw" in study.methods
