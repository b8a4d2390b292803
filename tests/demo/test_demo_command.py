import json
import subprocess
import sys
from pathlib import Path

import pytest

from nnunet_cpr.cli import main
from nnunet_cpr.demo.data import UsersData
from nnunet_cpr.demo.device import Machine
from nnunet_cpr.demo.pipeline import run_stages
from nnunet_cpr.demo.settings import Settings
from nnunet_cpr.demo.workspace import Workspace
from nnunet_cpr.exclusive import LOCK_FILE, exclusive


@pytest.fixture
def cpu_only(monkeypatch):
    monkeypatch.setattr("nnunet_cpr.demo.device.probe", lambda: Machine(cuda=None, mps=False, bf16_cpu=False))


def test_parsing_imports_no_torch():
    program = (
        "import sys; from nnunet_cpr.cli import main\n"
        "try: main(['demo', '--help'])\n"
        "finally: print('torch' in sys.modules)"
    )
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert "--steps" in shown
    assert shown.endswith("False\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--device", "cuda"], "--device cuda: torch finds no CUDA device here"),
        (["--steps", "7"], "--steps 7: must be a multiple of 10"),
        (["--data", "/no/such/folder"], "/no/such/folder: no folder imagesTr"),
    ],
)
def test_a_users_mistake_is_one_line_and_writes_nothing(arguments, message, cpu_only, tmp_path, capsys):
    out = tmp_path / "demo"
    assert main(["demo", "--out", str(out), *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"nnunet-cpr: error: {message}")
    assert error.count("\n") == 1
    assert not out.exists()


def test_bad_data_is_refused_before_anything_is_written(cpu_only, tmp_path, capsys, monkeypatch):
    def bad(*_):
        raise ValueError("case_1: shapes differ")

    monkeypatch.setattr("nnunet_cpr.datasets.mni152.check_available", bad)
    assert main(["demo", "--out", str(tmp_path / "demo")]) == 2
    assert capsys.readouterr().err == "nnunet-cpr: error: case_1: shapes differ\n"
    assert not (tmp_path / "demo").exists()


def test_a_file_in_the_place_of_a_folder_leaves_nothing(cpu_only, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("nnunet_cpr.datasets.mni152.check_available", lambda: None)
    out = tmp_path / "demo"
    out.mkdir()
    (out / "logs").write_text("the user's")
    assert main(["demo", "--out", str(out)]) == 2
    assert f"{out / 'logs'} is a file" in capsys.readouterr().err
    assert [path.name for path in out.iterdir()] == ["logs"]


def test_an_interruption_is_one_line(monkeypatch, capsys):
    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr("nnunet_cpr.demo.command._run", interrupted)
    assert main(["demo"]) == 130
    assert capsys.readouterr().err.strip() == (
        "Interrupted; nothing is running any more. The same command goes on from here."
    )


@pytest.fixture(scope="module")
def users_data(hippocampus, tmp_path_factory) -> Path:
    """Six cases of the Hippocampus in a folder whose name nnU-Net's converter would not take."""
    folder = tmp_path_factory.mktemp("data") / "my small data"
    description = json.loads((hippocampus / "dataset.json").read_text())
    description["training"] = description["training"][:6]
    del description["test"], description["numTraining"]
    for case in description["training"]:
        for name in case.values():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).symlink_to(hippocampus / name)
    (folder / "dataset.json").write_text(json.dumps(description))
    return folder


def test_users_data_is_converted_and_planned_once(users_data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Settings, "trainers", {})
    data = UsersData(users_data)
    workspace = Workspace(tmp_path / "demo", data.name)
    settings = Settings(10, 0, 0, "cpu", False)
    run_stages(workspace, data, settings)
    assert workspace.dataset == "Dataset999_mysmalldata"
    assert len(list((workspace.raw / "imagesTr").iterdir())) == 6
    plans = workspace.preprocessed / "nnUNetPlans.json"
    assert json.loads(plans.read_text())["configurations"]["3d_small"]["inherits_from"] == "3d_fullres"
    assert len(list((workspace.preprocessed / "nnUNetPlans_3d_fullres").glob("*.pkl"))) == 6

    before = plans.stat().st_mtime_ns
    capsys.readouterr()
    run_stages(workspace, data, settings)
    assert capsys.readouterr().out.splitlines() == [
        "Convert the data to nnU-Net's format: done before",
        "Plan and preprocess: done before",
    ]
    assert plans.stat().st_mtime_ns == before

    changed = json.loads((users_data / "dataset.json").read_text()) | {"description": "changed"}
    (users_data / "dataset.json").write_text(json.dumps(changed))
    with pytest.raises(ValueError, match="holds results of Dataset999_mysmalldata with another data"):
        run_stages(workspace, UsersData(users_data), settings)


def test_a_failed_stage_shows_its_log(users_data, tmp_path, monkeypatch, capsys, cpu_only):
    monkeypatch.setattr(
        UsersData, "commands", lambda *_: [["nnUNetv2_convert_MSD_dataset", "-i", str(tmp_path / "Task01_None")]]
    )
    assert main(["demo", "--data", str(users_data), "--out", str(tmp_path / "demo"), "--steps", "10"]) == 1
    error = capsys.readouterr().err
    assert "nnUNetv2_convert_MSD_dataset failed with exit code 1" in error
    assert "labelsTr subfolder missing in source folder" in error
    assert f"The whole log: {tmp_path / 'demo' / 'logs'}" in error


def test_a_second_demo_in_a_folder_is_refused_before_it_touches_anything(cpu_only, tmp_path, capsys):
    out = tmp_path / "demo"
    with exclusive(out):  # as by another process
        assert main(["demo", "--out", str(out)]) == 2
        assert [path.name for path in out.iterdir()] == [LOCK_FILE]
    shown = capsys.readouterr()
    assert shown.err.startswith(f"nnunet-cpr: error: {out} is in use by another process")
    assert (shown.err.count("\n"), shown.out) == (1, "")
