import os

import pytest

from nnunet_cpr.demo.settings import Settings
from nnunet_cpr.demo.workspace import Workspace

SETTINGS = {"data": "d", "device": "cpu"}
DEMO = Settings(300, 0, 0, "cpu", False)


@pytest.fixture
def workspace(tmp_path) -> Workspace:
    workspace = Workspace(tmp_path / "demo", "Dataset001_X")
    workspace.create()
    return workspace


def test_nothing_is_written_before_create(tmp_path):
    workspace = Workspace(tmp_path / "demo", "Dataset001_X")
    assert not workspace.is_finished("plan", SETTINGS)
    assert not (tmp_path / "demo").exists()


def test_a_stage_is_finished_after_its_block(workspace):
    with workspace.stage("plan", SETTINGS, ["command"]):
        assert not workspace.is_finished("plan", SETTINGS)
    assert workspace.is_finished("plan", SETTINGS)
    assert workspace.record("plan")["commands"] == ["command"]


def test_an_interrupted_stage_is_not_finished_and_its_time_counts(workspace, monkeypatch):
    clock = iter([0.0, 7.0, 100.0, 105.0])
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    with pytest.raises(KeyboardInterrupt), workspace.stage("plan", SETTINGS, []):
        raise KeyboardInterrupt
    assert not workspace.is_finished("plan", SETTINGS)
    with workspace.stage("plan", SETTINGS, []):
        pass
    assert workspace.record("plan")["seconds"] == 12.0


@pytest.mark.parametrize("finished", [True, False])
def test_results_of_other_data_or_another_device_are_not_reused(workspace, finished):
    try:
        with workspace.stage("train", SETTINGS, []):
            if not finished:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    with pytest.raises(ValueError, match=r"holds results of Dataset001_X with another data and device .*--out"):
        workspace.is_finished("train", {"data": "other", "device": "cuda"})


def test_only_the_demos_own_leftovers_are_removed(workspace):
    workspace.raw.mkdir()
    (workspace.raw / "precious").touch()
    with pytest.raises(ValueError, match="exists, but not from this demo; choose another --out"):
        workspace.clear("convert", workspace.raw)
    assert (workspace.raw / "precious").exists()
    with workspace.stage("convert", SETTINGS, []):
        workspace.clear("convert", workspace.raw)
    assert not workspace.raw.exists()


def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(PermissionError, match="is not writable; choose another --out"):
        Workspace(tmp_path / "demo", "Dataset001_X").check(DEMO)


@pytest.mark.parametrize(
    "place",
    ["nnUNet_raw", "nnUNet_raw/Dataset001_X", "nnUNet_preprocessed", "nnUNet_preprocessed/Dataset001_X",
     "nnUNet_results", "nnUNet_results/Dataset001_X", "logs", "stages", "stages/Dataset001_X", "msd", "report",
     "report/Dataset001_X-300steps-seed0-fold0", ""],
)  # fmt: skip
@pytest.mark.parametrize("link", [False, True])
def test_a_file_in_the_place_of_a_folder_is_refused_before_anything_is_made(tmp_path, place, link):
    path = tmp_path / "demo" / place
    path.parent.mkdir(parents=True, exist_ok=True)
    if link:
        (tmp_path / "file").touch()
        path.symlink_to("nowhere" if place else tmp_path / "file")  # the folder itself may be a link to a new one
    else:
        path.touch()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match="is a file, or a link to nothing, where the demo needs a folder") as error:
        Workspace(tmp_path / "demo", "Dataset001_X").check(DEMO)
    assert str(error.value).startswith(f"{path if place else path.resolve()} is")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_that_nnunet_could_not_use(tmp_path):
    with pytest.raises(ValueError, match="nnU-Net takes only paths in UTF-8"):
        Workspace(tmp_path / "b\udcffd", "Dataset001_X").check(DEMO)
    assert not list(tmp_path.iterdir())


def test_folders_of_an_earlier_demo_are_fine(workspace):
    workspace.check(DEMO)


def test_the_users_own_nnunet_folders_are_not_used(workspace, monkeypatch):
    monkeypatch.setenv("nnUNet_results", "/elsewhere")
    monkeypatch.delenv("nnUNet_raw", raising=False)
    variables = workspace.variables()
    assert {name: variables[name] for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")} == {
        name: str(workspace.out / name) for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
    }


@pytest.mark.parametrize(
    "content", ["", "{", "[" * 100_000, "7", '{"settings": {}, "seconds": "1", "finished": true}', "\xff"]
)
def test_a_damaged_record_is_one_line_and_stays(workspace, content):
    with workspace.stage("plan", SETTINGS, ["command"]):
        pass
    path = workspace.records / "plan.json"
    path.write_text(content, encoding="latin-1")
    with pytest.raises(ValueError, match=r"plan\.json"):
        workspace.is_finished("plan", SETTINGS)
    assert path.read_text(encoding="latin-1") == content
