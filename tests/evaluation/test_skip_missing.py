"""`nnunet-cpr compare --skip-missing`: a report over what is finished, which says what is not."""

import pandas as pd
import pytest
from evaluation_helpers import write_training

from nnunet_cpr.cli import main
from nnunet_cpr.evaluation.readers.nnunet_results import shortened
from nnunet_cpr.evaluation.request import make_request

A, B = "Dataset001_A", "Dataset002_B"


@pytest.fixture
def train(tmp_path, monkeypatch):
    for name in ("raw", "preprocessed"):
        monkeypatch.delenv(f"nnUNet_{name}", raising=False)
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "results"))

    def write(dataset, trainer, *folds):
        (tmp_path / "results" / dataset).mkdir(parents=True, exist_ok=True)
        for fold in folds:
            gain = 0.1 * (trainer != "Base")
            cases = {f"c{fold}{k}": {"1": 0.5 + gain + 0.01 * k} for k in range(3)}
            write_training(tmp_path / "results", trainer, fold, cases, {"background": 0, "x": 1}, dataset)

    return write


@pytest.fixture
def compare(tmp_path, capsys):
    def run(*more, datasets=(A, B)):
        arguments = ["compare", "-d", *datasets, "-f", "0", "1", "-tr", "Base", "New", "Third"]
        code = main([*arguments, "-o", str(tmp_path / "report"), *more])
        return code, capsys.readouterr()

    return run


def table(tmp_path):
    rows = pd.read_csv(tmp_path / "report" / "comparisons.csv")
    return {(row.dataset, row.trainer): row.n for row in rows.itertuples() if row.label == "x"}


def test_missing_folds_are_named_and_the_common_cases_compared(train, compare, tmp_path):
    train(A, "Base", 0, 1)
    train(A, "New", 1)
    train(A, "Third", 0, 1)
    code, said = compare("--skip-missing", datasets=[A])
    assert code == 0, said.err
    assert f"! {A}: 1 trainings are missing: New fold 0." in said.out
    assert f"! {A}: 3 of 6 cases are left out: not every trainer has them." in said.out
    assert table(tmp_path) == {(A, "New"): 3, (A, "Third"): 3}
    page = (tmp_path / "report" / "report.html").read_text()
    assert "1 trainings are missing: New fold 0." in page
    cases = pd.read_csv(tmp_path / "report" / "cases.csv")
    assert set(cases["fold"]) == {1}


def test_a_trainer_without_any_training_is_left_out(train, compare, tmp_path):
    train(A, "Base", 0, 1)
    train(A, "New", 0, 1)
    code, said = compare("--skip-missing", datasets=[A])
    assert code == 0, said.err
    assert "2 trainings are missing: Third fold 0, Third fold 1." in said.out
    assert table(tmp_path) == {(A, "New"): 6}
    assert "3d_fullres, 2 trainers" in (tmp_path / "report" / "report.html").read_text()


def test_datasets_that_cannot_be_compared_are_left_out(train, compare, tmp_path):
    for trainer in ("Base", "New", "Third"):
        train(A, trainer, 0, 1)
    train(B, "New", 0)
    train(B, "Third", 0)
    code, said = compare("--skip-missing")
    assert code == 0, said.err
    assert f"! {B}: 4 trainings are missing: Base fold 0, Base fold 1, New fold 1, Third fold 1." in said.out
    assert f"! {B} is left out: there is no finished training of the baseline and another trainer." in said.out
    assert {dataset for dataset, _ in table(tmp_path)} == {A}


def test_no_common_fold(train, compare, tmp_path):
    for trainer in ("Base", "New", "Third"):
        train(A, trainer, 0, 1)
    train(B, "Base", 0)
    train(B, "New", 1)
    code, said = compare("--skip-missing")
    assert code == 0, said.err
    assert f"! {B} is left out: its finished trainings have no fold in common." in said.out
    assert {dataset for dataset, _ in table(tmp_path)} == {A}


def test_nothing_to_compare_is_one_line(train, compare, tmp_path):
    train(A, "New", 0)
    train(B, "Base", 0)
    code, said = compare("--skip-missing")
    assert code == 2
    assert said.err.startswith("nnunet-cpr: error: nothing can be compared yet with the baseline Base: ")
    assert said.err.count("\n") == 1
    assert not (tmp_path / "report").exists()


def test_nothing_missing_changes_nothing(train, compare, tmp_path):
    for trainer in ("Base", "New", "Third"):
        train(A, trainer, 0, 1)
    assert compare(datasets=[A])[0] == 0
    before = (tmp_path / "report" / "comparisons.csv").read_bytes()
    code, said = compare("--skip-missing", datasets=[A])
    assert code == 0
    assert "are missing" not in said.out and "left out" not in said.out
    assert (tmp_path / "report" / "comparisons.csv").read_bytes() == before


def test_without_it_missing_trainings_are_an_error_that_names_it(train, compare):
    train(A, "Base", 0)
    code, said = compare(datasets=[A])
    assert code == 2
    assert "5 of 6 trainings have no validation result" in said.err and "or use --skip-missing" in said.err


def test_in_a_yaml_file_it_is_a_truth_value_and_not_for_folders():
    given = {"datasets": ["1"], "trainers": ["a", "b"]}
    assert not make_request(given).skip_missing
    assert make_request({**given, "skip_missing": True}).skip_missing
    with pytest.raises(ValueError, match="skip_missing is 'yes', but must be true or false"):
        make_request({**given, "skip_missing": "yes"})
    with pytest.raises(ValueError, match="skip_missing means nothing for folders"):
        make_request({"predictions": ["a=x", "b=y"], "reference": "r", "skip_missing": True})


def test_long_lists_are_shortened():
    assert shortened(list("abcde")) == "a, b, c, d, e"
    assert shortened(list("abcdefg")) == "a, b, c, d, e and 2 more"
