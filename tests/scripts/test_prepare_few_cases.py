"""Datasets of few cases: no case is in two parts, smaller ones are within larger ones, mistakes leave nothing."""

import json
from unittest import mock

import pytest
from prepare_few_cases import draw, main

CASES = [f"case_{number:02}" for number in range(20)]


@pytest.fixture
def nnunet(tmp_path, monkeypatch):
    """nnU-Net's folders with a dataset of 20 cases of two channels."""
    for variable in ("raw", "preprocessed", "results"):
        (tmp_path / variable).mkdir()
        monkeypatch.setenv(f"nnUNet_{variable}", str(tmp_path / variable))
    source = tmp_path / "raw" / "Dataset004_Organ"
    for folder in ("imagesTr", "labelsTr"):
        (source / folder).mkdir(parents=True)
    for case in CASES:
        (source / "labelsTr" / f"{case}.nii.gz").write_text(f"label of {case}")
        for channel in range(2):
            (source / "imagesTr" / f"{case}_{channel:04}.nii.gz").write_text(f"channel {channel} of {case}")
    description = {"channel_names": {"0": "T1", "1": "T2"}, "labels": {"background": 0, "organ": 1}}
    (source / "dataset.json").write_text(json.dumps(description | {"numTraining": 20, "file_ending": ".nii.gz"}))
    return tmp_path


def cases_in(folder):
    return {path.name.removesuffix(".nii.gz") for path in folder.iterdir()}


def test_parts_do_not_overlap_and_smaller_datasets_are_within_larger_ones(nnunet, capsys):
    arguments = ["Dataset004_Organ", "--as", "402:2", "--as", "405:5", "--validation", "6", "--test", "7"]
    assert main(arguments) == 0
    assert "Dataset402_Organ2cases: 2 cases for training, 6 for validation, 7 for the test" in capsys.readouterr().out
    splits, tests = {}, {}
    for name, size in (("Dataset402_Organ2cases", 2), ("Dataset405_Organ5cases", 5)):
        raw, preprocessed = nnunet / "raw" / name, nnunet / "preprocessed" / name
        (split,) = json.loads((preprocessed / "splits_final.json").read_text())
        assert len(split["train"]) == size and len(split["val"]) == 6
        splits[size], tests[size] = split, cases_in(raw / "labelsTs")
        assert cases_in(raw / "labelsTr") == {*split["train"], *split["val"]}
        assert len(tests[size] | {*split["train"], *split["val"]}) == 7 + 6 + size
        assert cases_in(raw / "imagesTs") == {f"{case}_{c:04}" for case in tests[size] for c in range(2)}
        for case in split["train"]:
            assert (raw / "labelsTr" / f"{case}.nii.gz").read_text() == f"label of {case}"
            assert (raw / "imagesTr" / f"{case}_0001.nii.gz").read_text() == f"channel 1 of {case}"
        description = json.loads((raw / "dataset.json").read_text())
        assert description["numTraining"] == 6 + size and description["channel_names"] == {"0": "T1", "1": "T2"}
    assert set(splits[2]["train"]) < set(splits[5]["train"])
    assert splits[2]["val"] == splits[5]["val"] and tests[2] == tests[5]


def test_another_seed_draws_other_cases_and_the_same_the_same():
    first = draw(CASES, 5, 6, 7, seed=0)
    assert first == draw(CASES[::-1], 5, 6, 7, seed=0)
    assert first != draw(CASES, 5, 6, 7, seed=1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["Dataset004_Organ", "--as", "402:9", "--validation", "6", "--test", "7"], "22 cases are asked for, but"),
        (["Dataset009_No", "--as", "402:2"], "Dataset009_No is no dataset of nnU-Net's"),
        (["Dataset004_Organ", "--as", "402:2", "--as", "406:3", "--validation", "6", "--test", "7"], "there already"),
        (["Dataset004_Organ", "--as", "402:2", "--validation", "-1", "--test", "7"], "must not be negative"),
        (
            ["Dataset004_Organ", "--as", "402:2", "--as", "402:3", "--validation", "6", "--test", "7"],
            "the number 402 is given twice",
        ),
        (["Dataset004_Organ", "--as", "406:4", "--validation", "6", "--test", "7"], "Dataset406_Organ3cases is there"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(nnunet, capsys, arguments, message):
    (nnunet / "preprocessed" / "Dataset406_Organ3cases").mkdir()
    before = sorted(nnunet.rglob("*"))
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1
    assert sorted(nnunet.rglob("*")) == before


@pytest.mark.parametrize(
    "content", ["[]", "{", "{}", '{"file_ending": 7}', '{"file_ending": ".nii.gz", "dataset": {}}']
)
def test_a_dataset_json_that_does_not_fit(nnunet, capsys, content):
    (nnunet / "raw" / "Dataset004_Organ" / "dataset.json").write_text(content)
    assert main(["Dataset004_Organ", "--as", "402:2", "--validation", "6", "--test", "7"]) == 2
    said = capsys.readouterr().err
    assert "Dataset004_Organ" in said and said.count("\n") == 1


def test_a_case_without_image_is_refused_and_a_failure_leaves_nothing(nnunet, capsys, monkeypatch):
    arguments = ["Dataset004_Organ", "--as", "402:2", "--validation", "6", "--test", "7"]
    before = sorted(nnunet.rglob("*"))
    monkeypatch.setattr("prepare_few_cases.write_json", mock.Mock(side_effect=OSError("the disk is full")))
    assert main(arguments) == 2
    assert "the disk is full" in capsys.readouterr().err and sorted(nnunet.rglob("*")) == before
    (nnunet / "raw" / "Dataset004_Organ" / "labelsTr" / "c[1].nii.gz").touch()
    assert main(arguments) == 2
    assert "c[1] has a label, but no image" in capsys.readouterr().err


@pytest.mark.parametrize("entry", ["402", "402:0", "0:2", "1000:2", "a:b", "402:-1"])
def test_an_entry_that_makes_no_sense_is_refused(entry, capsys):
    with pytest.raises(SystemExit) as error:
        main(["Dataset004_Organ", "--as", entry])
    assert error.value.code == 2 and f"{entry} is not NUMBER:CASES" in capsys.readouterr().err
