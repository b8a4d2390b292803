"""`nnunet-cpr doctor` says what is there, and what to do about what is not."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import nnunet_cpr
from nnunet_cpr.cli import main
from nnunet_cpr.doctor import installation, machine
from nnunet_cpr.doctor.fact import Fact
from nnunet_cpr.nnunet import startup

FOLDERS = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")


@pytest.fixture
def folders(tmp_path, monkeypatch):
    for name in FOLDERS:
        (tmp_path / name).mkdir()
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.delenv("nnUNet_extTrainer", raising=False)
    monkeypatch.delenv("nnUNet_n_proc_DA", raising=False)
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent) + os.pathsep + os.environ["PATH"])
    return tmp_path


def facts_of(module_facts) -> dict[str, Fact]:
    return {fact.name: fact for fact in module_facts}


def test_all_is_well_here(folders, capsys):
    """The whole command in a good environment, as one line per fact and as JSON."""
    assert main(["doctor", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    import nnunetv2
    import torch

    assert str(Path(nnunetv2.__file__).parent) in rows["nnU-Net"]["value"]
    assert rows["trainers"] == {
        "name": "trainers", "state": "ok", "value": "nnU-Net's own search finds nnUNetTrainerCPR_ws2000", "advice": ""
    }  # fmt: skip
    assert torch.__version__ in rows["torch"]["value"]
    for name in FOLDERS:
        assert rows[name]["value"] == str(folders / name)
    assert {row["state"] for row in rows.values()} <= {"ok", "note"}
    for name in ("nnunet-cpr", "Python", "nnUNetv2_train", "GPU", "optimizer step", "Snakemake", "MONAI", "SLURM"):
        assert name in rows


def test_one_line_a_fact_and_what_to_do(monkeypatch, capsys):
    monkeypatch.setattr(
        installation, "installation_facts", lambda: iter([Fact("a", "1"), Fact("b", "2", "do this", False)])
    )
    monkeypatch.setattr(machine, "machine_facts", lambda: iter([]))
    assert main(["doctor"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines == [["ok", "a", "1"], ["note", "b", "2"], ["->", "do", "this"]]


def test_what_trainings_need_is_the_exit_code(monkeypatch, capsys):
    monkeypatch.setattr(installation, "installation_facts", lambda: iter([Fact("a", "1", "mend it")]))
    monkeypatch.setattr(machine, "machine_facts", lambda: iter([]))
    assert main(["doctor"]) == 1
    assert capsys.readouterr().out.startswith("FAULT")


@pytest.mark.parametrize("variable", FOLDERS)
@pytest.mark.parametrize(
    ("value", "state", "advice"),
    [
        (None, "FAULT", "export {variable}=/path"),
        ("", "FAULT", "export {variable}=/path"),
        ("{there}/none", "FAULT note", "mkdir -p '{there}/none'"),
        ("{there}/file", "FAULT", "export {variable}=/path"),
        ("~nobody-here/data", "FAULT", "export {variable}=/the/whole/path"),
        ("~/data", "FAULT", "export {variable}={home}/data"),
        ("{there}", "ok", ""),
    ],
)
def test_folders(variable, value, state, advice, tmp_path, folders, monkeypatch):
    there = tmp_path / "a b"
    there.mkdir()
    (there / "file").touch()
    monkeypatch.setenv("HOME", str(tmp_path))
    names = {"there": there, "variable": variable, "home": tmp_path}
    monkeypatch.delenv(variable)
    if value is not None:
        monkeypatch.setenv(variable, value.format(**names))
    fact = facts_of(machine.machine_facts())[variable]
    assert fact.state in state.split()
    assert advice.format(**names) in fact.advice


def test_a_job_with_few_cores_is_told_about_augmentation_workers(folders, monkeypatch):
    monkeypatch.setattr(machine, "job_cores", lambda: 4)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    cores = facts_of(machine.machine_facts())["CPU cores"]
    assert cores.value == "4 for this job, 64 in this machine" and "nnUNet_n_proc_DA=3" in cores.advice
    monkeypatch.setenv("nnUNet_n_proc_DA", "4")
    assert facts_of(machine.machine_facts())["CPU cores"].state == "ok"
    monkeypatch.setenv("nnUNet_n_proc_DA", "four")
    assert facts_of(machine.machine_facts())["CPU cores"].state == "FAULT"


@pytest.mark.parametrize("said", ["slurm 22.05.8", None])
def test_slurm(said, tmp_path, folders, monkeypatch):
    assert facts_of(machine.machine_facts())["SLURM"].state == "ok" or os.path.exists("/usr/bin/sbatch")
    sbatch = tmp_path / "sbatch"
    sbatch.write_text(f"#!/bin/sh\necho {said}\n" if said else "#!/bin/sh\necho no munge >&2; exit 1\n")
    sbatch.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    fact = facts_of(machine.machine_facts())["SLURM"]
    assert (fact.state, fact.value) == (("ok", said) if said else ("note", "no munge"))


@pytest.mark.parametrize(
    ("script", "python"),
    [
        ("#!/opt/nnunet/bin/python3.11\nimport re\n", "/opt/nnunet/bin/python3.11"),
        ("#!/bin/sh\n'''exec' \"/home/a b/venv/bin/python\" \"$0\" \"$@\"\n' '''\n", "/home/a b/venv/bin/python"),
        ("#!/bin/sh\nexec singularity run nnunet.sif\n", None),
        ("#!/usr/bin/env python3\n", None),
    ],
)
def test_the_python_of_a_script(script, python, tmp_path):
    path = tmp_path / "nnUNetv2_train"
    path.write_text(script)
    assert installation._python_of(path) == (None if python is None else Path(python))


def test_nnunets_commands_of_another_environment(tmp_path, monkeypatch):
    other = tmp_path / "nnUNetv2_train"
    other.write_text("#!/opt/nnunet/bin/python\n")
    other.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    fact = installation._nnunet_commands()
    assert fact.state == "FAULT" and "/opt/nnunet/bin/python" in fact.advice


def test_trainers_that_nnunet_does_not_find(monkeypatch):
    """Without the hook, as after `pip install --target`; then what the advice says must help."""
    code = "import sys; sys.meta_path = [f for f in sys.meta_path if type(f).__name__ != 'TrainerFinder'];"
    code += "import nnunet_cpr.doctor.probe as probe; print(probe.trainers())"
    environment = {key: value for key, value in os.environ.items() if key != "nnUNet_extTrainer"}
    run = lambda **more: subprocess.run(  # noqa: E731
        [sys.executable, "-c", code], env=environment | more, capture_output=True, text=True
    )
    result = run()
    assert result.returncode and "Could not find requested nnunet trainer" in result.stderr

    monkeypatch.delitem(sys.modules, startup.__name__)
    fact = installation._trainers({"trainers": {"error": "RuntimeError: Could not find ..."}})
    assert fact.state == "FAULT" and "nnUNet_extTrainer=" in fact.advice
    folder = fact.advice.rpartition("nnUNet_extTrainer=")[2]
    assert run(nnUNet_extTrainer=folder).stdout.strip() == "nnunet_cpr.training.factory.nnUNetTrainerCPR_ws2000"


def test_a_library_that_crashes_is_reported(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    facts = [installation._trainers(installation._probe()), installation._step(installation._probe())]
    assert [fact.state for fact in facts] == ["FAULT", "FAULT"] and "exit code 1" in facts[0].value


def test_what_an_earlier_version_left_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(installation.sysconfig, "get_path", lambda _: str(tmp_path))
    assert list(installation._leftovers()) == []
    left = tmp_path / "nnunetv2" / "training" / "nnUNetTrainer" / "cpr"
    left.mkdir(parents=True)
    assert [fact.advice for fact in installation._leftovers()] == [f"rm -r {left}"]


def test_version_is_the_packages(folders):
    fact = next(iter(installation.installation_facts()))
    assert fact.value == f"{nnunet_cpr.__version__}, {Path(nnunet_cpr.__file__).parent}"
