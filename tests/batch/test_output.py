"""A study's output may be a folder of the user's, but none of their files is written over."""

import json

import pytest

from nnunet_cpr.batch.plan import Plan, check_output
from nnunet_cpr.batch.study import Study


@pytest.fixture
def study(tmp_path, monkeypatch):
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "results"))
    trainers = {"SGD": ["nnUNetTrainerSGD"], "CPR": ["nnUNetTrainerCPR"]}
    output = tmp_path / "own"
    output.mkdir()
    return Study(tmp_path / "study.yaml", ["Dataset004_Tiny"], ["3d_fullres"], ["nnUNetPlans"], trainers, ["0"], "SGD",
                 False, 1.0, "cpu", [], output)  # fmt: skip


def test_an_empty_folder_one_with_other_files_and_our_own(study):
    check_output(study)
    (study.output / "notes.txt").write_text("mine")
    check_output(study)
    Plan(study, []).write()
    for name in ("markers", "records", "logs"):
        (study.output / name).mkdir()
    check_output(study)


@pytest.mark.parametrize("name", ["study.json", "snakemake.log", "markers/x", "logs/x", "report/report.html"])
@pytest.mark.parametrize("content", ["mine", json.dumps({"datasets": [4], "trainers": ["A", "B"]})])
def test_files_of_the_user_are_refused(study, name, content):
    mine = study.output / name
    mine.parent.mkdir(exist_ok=True)
    mine.write_text(content)
    with pytest.raises(ValueError, match=str(study.output / name.split("/")[0])) as error:
        check_output(study)
    assert "\n" not in str(error.value) and mine.read_text() == content


def test_a_report_of_the_user_in_our_folder_is_refused(study):
    Plan(study, []).write()
    (study.output / "report").mkdir()
    (study.output / "report" / "report.html").write_text("mine")
    with pytest.raises(ValueError, match=r"report is not empty and holds no earlier report, but report\.html"):
        check_output(study)


@pytest.mark.parametrize("kind", ["file", "link to nothing"])
def test_what_is_no_folder(study, kind):
    study.output.rmdir()
    study.output.write_text("mine") if kind == "file" else study.output.symlink_to("nowhere")
    with pytest.raises(ValueError, match="own is not a folder; choose another output"):
        check_output(study)
