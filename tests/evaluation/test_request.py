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
        ({"trainers": ["X=A,", "B"]}, "cannot read the trainer 'X=A,'"),
        ({"trainers": [], "predictions": ["X=f", "Y=g"]}, "--pred needs --reference"),
        ({"trainers": [], "datasets": None, "predictions": ["X=f", "g"], "reference": "r"}, "write --pred NAME=FOLDER"),
        ({"trainers": [], "predictions": ["X=f", "X=g"], "reference": "r"}, "two predictions have the name X"),
        ({"trainers": ["A:", "B"]}, "cannot read A:: write TRAINER, TRAINER:CONFIGURATION"),
        ({"trainers": ["A:2d:P:x", "B"]}, "cannot read A:2d:P:x"),
        ({"margin": 0}, "the margin of Dice is 0, but must be a number above 0"),
        ({"margin": ["Dice=much"]}, "the margin of Dice is much, but must be a number above 0"),
        ({"margin": {"Dice": True}}, "the margin of Dice is True"),
        ({"margin": {"Dice": 10**400}}, "the margin of Dice is 1000"),
        ({"margin": {"Jaccard": 0.1}}, "no metric 'Jaccard' to give a margin; there are Dice, NSD, HD95, MASD, Pre"),
        ({"margin": "RVE=0.1"}, "no metric 'RVE' to give a margin"),
        ({"margin": 2}, "the margin of Dice is 2, but must be a number above 0 and below 1"),
        ({"margin": "HD95=2"}, "there is no HD95 to give a margin without --surface"),
        ({"margin": "Recall=0.02"}, "there is no Recall to give a margin without --counts"),
        ({"margin": ["0.1", "Dice=0.2"]}, "margin has Dice twice"),
        ({"baseline": "C"}, "the baseline C is not among A, B"),
        ({"empty": "zero"}, "empty is zero, but must be one of nan, 0, 1"),
        ({"lesion_rule": "brats"}, "lesion_rule means nothing without the labels: --lesions"),
        ({"lesions": ["x"], "lesion_rule": "some"}, "lesion_rule is some, but must be one of overlap, brats"),
        ({"tolerance": 0}, "tolerance is 0"),
        ({"missed_hd95": 374.0}, "missed_hd95 is a value of HD95, which needs --surface"),
        ({"missed_hd95": -1, "surface": True}, "missed_hd95 is -1, but must be a number of at least 0"),
        ({"tolerance": 2.0}, "needs --surface"),
        ({"trainers": [], "predictions": ["X=f", "Y=g"], "reference": "r"}, "datasets means nothing for folders"),
        ({"test_set": "yes"}, "test_set is 'yes', but must be true or false"),
        ({"tolerance": float("nan")}, "tolerance is nan"),
        ({"seed": -1}, "seed is -1, but must be a whole number of at least 0"),
        ({"processes": 1.5}, "processes is 1.5"),
        ({"surface": "yes"}, "surface is 'yes', but must be true or false"),
        ({"tolerance": float("inf"), "surface": True}, "tolerance is inf, but NSD needs one above 0 and below"),
        ({"tolerance": 10**400, "surface": True}, "tolerance is 1000"),
        ({"configuration": ["2d"]}, "configuration must be one value"),
        ({"folds": [["0"]]}, "folds must be one value, or a list of single values"),
        ({"datasets": {"a": 4}}, "datasets must be one value"),
        ({"trainers": {"A": {"b": "c"}, "B": "d"}}, "trainers, A must be one value"),
        ({"trainers": ["A =a", " A=b"]}, "two trainers have the same name A"),
        ({"trainers": {"A": "a", "A ": "b"}}, "two trainers have the same name A"),
        ({"trainers": {1: "a", "1": "b"}}, "two trainers have the same name 1"),
        (
            {"trainers": [], "predictions": {"X": "f", "X\t": "g"}, "reference": "r"},
            "two predictions have the name X",
        ),
        ({"output": ""}, "output is empty"),
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


def test_yaml_takes_names_as_they_are_written(tmp_path):
    """YAML 1.1 has on for true, 010 for 8 and 1e-1 for a text."""
    path = tmp_path / "study.yaml"
    path.write_text(
        "reference: 2020\npredictions:\n  on: 1\n  010: yes\n  1e1: null\nbaseline: on\n"
        "surface: true\ntolerance: 1e-1\n"
    )
    request = make_request(read_yaml(path))
    assert request.predictions == {"on": tmp_path / "1", "010": tmp_path / "yes", "1e1": tmp_path / "null"}
    assert (request.baseline, request.reference, request.tolerance) == ("on", tmp_path / "2020", 0.1)
    path.write_text("datasets: 4\nfolds: [00, 010]\ntrainers: [a, b]\n")
    assert make_request(read_yaml(path)).folds == ["0", "10"]


def test_yaml_with_a_name_twice(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text("datasets: 4\ntrainers:\n  A: a\n  B: b\n  A: c\n")
    with pytest.raises(ValueError, match=r"study\.yaml: the key A is there twice, in line 3 and in line 5"):
        read_yaml(path)


@pytest.mark.parametrize("given", [["0.02", "HD95=2"], ["Dice=2e-2", "HD95=2"], {"Dice": 0.02, "HD95": "2"}])
def test_margins(given):
    request = make_request({"datasets": 4, "trainers": ["A", "B"], "surface": True, "margin": given})
    assert request.margin == {"Dice": 0.02, "HD95": 2.0}
    assert make_request({"datasets": 4, "trainers": ["A", "B"], "margin": 0.02}).margin == {"Dice": 0.02}


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
