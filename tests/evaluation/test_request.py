"""What can be asked for, and one clear line for what cannot."""

from pathlib import Path

import pytest

from nnunet_cpr.evaluation.request import make_request, read_yaml

GOOD = {"datasets": ["4"], "trainers": ["A", "B"]}


def test_defaults():
    request = make_request(GOOD)
    assert (request.configuration, request.plans, request.folds) == ("3d_fullres", "nnUNetPlans", list("01234"))
    assert (request.baseline, request.names, request.empty) == ("A", ["A", "B"], "nan")


def test_runs_are_grouped_and_the_baseline_comes_first():
    request = make_request({**GOOD, "trainers": ["CPR=A_seed0,A_seed1", "B"], "baseline": "B"})
    assert request.trainers == {"CPR": ["A_seed0", "A_seed1"], "B": ["B"]}
    assert request.names == ["B", "CPR"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dataset": 4}, "unknown key dataset; there are output, datasets"),
        ({"trainers": ["A"]}, "nothing to compare A with"),
        ({"trainers": []}, "name either trainers of nnU-Net"),
        ({"predictions": ["X=f", "Y=g"]}, "name either trainers of nnU-Net"),
        ({"datasets": []}, "-tr needs the datasets"),
        ({"trainers": ["A", "A"]}, "A is named twice"),
        ({"trainers": ["X=A", "X=B"]}, "two trainers have the same name"),
        ({"trainers": ["X=A,", "B"]}, "cannot read the trainer 'X'"),
        ({"trainers": [], "predictions": ["X=f", "Y=g"]}, "--pred needs --reference"),
        ({"trainers": [], "datasets": None, "predictions": ["X=f", "g"], "reference": "r"}, "write --pred NAME=FOLDER"),
        ({"trainers": [], "predictions": ["X=f", "X=g"], "reference": "r"}, "two predictions have the name X"),
        ({"baseline": "C"}, "the baseline C is not among A, B"),
        ({"empty": "zero"}, "empty is zero, but must be one of nan, 0, 1"),
        ({"tolerance": 0}, "tolerance is 0"),
        ({"tolerance": 2.0}, "needs --surface"),
        ({"trainers": [], "predictions": ["X=f", "Y=g"], "reference": "r"}, "datasets means nothing for folders"),
        ({"tolerance": float("nan")}, "tolerance is nan"),
        ({"seed": -1}, "seed is -1, but must be a whole number of at least 0"),
        ({"processes": 1.5}, "processes is 1.5"),
        ({"surface": "yes"}, "surface is 'yes', but must be true or false"),
    ],
)
def test_mistakes(change, message):
    with pytest.raises(ValueError, match=message) as error:
        make_request({**GOOD, **change})
    assert "\n" not in str(error.value)


def test_yaml(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text(
        "reference: labels\npredictions: {SGD: one, CPR: two}\nbaseline: CPR\nempty: 1\noutput: out\nsurface: true\n"
    )
    request = make_request(read_yaml(path))
    assert request.reference == tmp_path / "labels" and request.output == tmp_path / "out"
    assert request.predictions == {"SGD": tmp_path / "one", "CPR": tmp_path / "two"}
    assert (request.names, request.empty, request.surface) == (["CPR", "SGD"], "1", True)


def test_paths_in_the_home_folder_whether_in_a_file_or_a_flag(tmp_path, monkeypatch):
    home = tmp_path / "home"
    monkeypatch.setenv("HOME", str(home))
    given = {"reference": "~/labels", "predictions": ["SGD=~/one", "CPR=~/two"], "output": "~/out"}
    path = tmp_path / "study.yaml"
    path.write_text("reference: ~/labels\npredictions: {SGD: ~/one, CPR: ~/two}\noutput: ~/out\n")
    for request in (make_request(given), make_request(read_yaml(path))):
        assert (request.reference, request.output) == (home / "labels", home / "out")
        assert request.predictions == {"SGD": home / "one", "CPR": home / "two"}
    path.write_text("reference: ~nobody-here/labels\npredictions: {SGD: one, CPR: two}\n")
    with pytest.raises(ValueError, match="the home folder ~nobody-here is not known"):
        read_yaml(path)


def test_yaml_groups_runs_by_a_mapping(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text("datasets: 027\noutput:\nfolds: [0, all]\ntrainers:\n  SGD: [a, b]\n  CPR: c\n")
    request = make_request(read_yaml(path))
    assert request.trainers == {"SGD": ["a", "b"], "CPR": ["c"]}
    assert (request.datasets, request.folds) == (["027"], ["0", "all"])


@pytest.mark.parametrize("text", ["trainers: [", "just words", ""])
def test_a_yaml_file_that_is_none(tmp_path, text):
    path = tmp_path / "study.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"study\.yaml") as error:
        read_yaml(path)
    assert "\n" not in str(error.value)


def test_a_missing_yaml_file():
    with pytest.raises(ValueError, match=r"nowhere\.yaml cannot be read"):
        read_yaml(Path("nowhere.yaml"))
