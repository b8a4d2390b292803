"""nnU-Net finds the trainers by name: among its own by the hook of an installation, or through nnUNet_extTrainer."""

import inspect
import os
import subprocess
import sys
from pathlib import Path

import nnunetv2
import pytest
from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as nnunet_module
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name as find

from nnunet_cpr.nnunet import startup
from nnunet_cpr.training.factory import explain_once

EXT_TRAINERS = str(Path(startup.__file__).with_name("ext_trainers"))
NAMES = ["nnUNetTrainerCPR", "nnUNetTrainerCPR_ws2000_warmup2000_100epochs", "nnUNetTrainerAdamCPR",
         "nnUNetTrainerAdamCPR_ip", "nnUNetTrainerSGD", "nnUNetTrainerSGD_wd1e-2", "nnUNetTrainerAdamW",
         "nnUNetTrainerAdamW_bf16", "nnUNetTrainerCPR_on_nnUNetTrainerDA5_ws20"]  # fmt: skip


@pytest.fixture(params=["hook", "nnUNet_extTrainer"])
def way(request, monkeypatch):
    explain_once.cache_clear()
    monkeypatch.delenv("nnUNet_extTrainer", raising=False)
    assert "__getattr__" in vars(nnunet_module), "nnunet-cpr is not installed in this environment"
    if request.param == "nnUNet_extTrainer":
        monkeypatch.delattr(nnunet_module, "__getattr__")
        with pytest.raises(RuntimeError, match="Could not find"):
            find("nnUNetTrainerCPR")
        monkeypatch.setenv("nnUNet_extTrainer", EXT_TRAINERS)
    return request.param


@pytest.mark.parametrize("name", NAMES)
def test_found(way, name):
    trainer = find(name)
    assert issubclass(trainer, nnUNetTrainer)
    assert trainer.__name__ == name  # the results folder and the checkpoint's trainer_name
    assert find(name) is trainer
    assert list(inspect.signature(trainer.__init__).parameters) == [
        "self", "plans", "configuration", "fold", "dataset_json", "device"
    ]  # fmt: skip


def test_the_hook_finds_them_without_a_word_of_a_search(monkeypatch, capfd):
    monkeypatch.setenv("nnUNet_extTrainer", os.pathsep.join(["", "/nowhere", str(Path(__file__).parent)]))
    find("nnUNetTrainerCPR_ws2000")
    assert capfd.readouterr() == ("", "")


def test_what_does_not_parse_is_nnunets_own_error_and_ours_says_why(way, capsys):
    with pytest.raises(RuntimeError, match="Could not find requested nnunet trainer nnUNetTrainerCPR_ws10_ip"):
        find("nnUNetTrainerCPR_ws10_ip")
    lines = capsys.readouterr().out.splitlines()
    assert sum("'ip' sets the bound rule a second time" in line for line in lines) == 1


def test_we_say_nothing_about_other_names(way, capsys):
    with pytest.raises(RuntimeError):
        find("nnUNetTrainerWithSomethingElse")
    out = capsys.readouterr().out.replace(EXT_TRAINERS, "")  # nnU-Net prints where it looks
    assert "nnunet-cpr" not in out


def test_nnunets_own_trainers_are_found_as_before():
    own = Path(nnunetv2.__path__[0]) / "training" / "nnUNetTrainer"
    for name in (
        "nnUNetTrainer",
        "nnUNetTrainerAdam",
        "nnUNetTrainerAdam1en3",
        "nnUNetTrainer_100epochs",
        "nnUNetTrainerAdan",
    ):
        found = find(name)
        assert found.__name__ == name
        assert Path(inspect.getfile(found)).is_relative_to(own)


@pytest.mark.parametrize(
    "name", ["__path__", "__all__", "__wrapped__", "nnUNetTrainerCP", "torch_", "nnUNetTrainerSGDR", "NnUNetTrainerCPR"]
)
def test_a_module_has_nothing_else(name):
    assert not hasattr(nnunet_module, name)


@pytest.fixture
def own_trainers(tmp_path, monkeypatch):
    """A folder of the user's with trainers whose names we know, too, and with an editor's leftovers."""
    folder = tmp_path / "my trainers"
    folder.mkdir()
    (folder / "mine.py").write_text(
        "from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer\n"
        "class nnUNetTrainerAdamW(nnUNetTrainer):\n    pass\n"
        "class nnUNetTrainerCPR_myloss(nnUNetTrainer):\n    pass\n"
    )
    (folder / ".#mine.py").symlink_to("somebody@host.1234")
    monkeypatch.setenv("nnUNet_extTrainer", os.pathsep.join([str(tmp_path / "none"), str(folder)]))
    explain_once.cache_clear()
    return folder


def test_a_trainer_of_the_users_keeps_its_name(own_trainers, capsys):
    assert find("nnUNetTrainerAdamW").__module__ == "mine"
    said = [line for line in capsys.readouterr().out.splitlines() if "nnunet-cpr" in line]
    assert len(said) == 1 and str(own_trainers / "mine.py") in said[0]


def test_nothing_is_said_where_a_name_only_begins_as_ours(own_trainers, capsys):
    assert find("nnUNetTrainerCPR_myloss").__name__ == "nnUNetTrainerCPR_myloss"
    assert "no such trainer" not in capsys.readouterr().out


def test_ours_are_found_beside_the_users(own_trainers):
    assert find("nnUNetTrainerAdamCPR").__module__ == "nnunet_cpr.training.factory"


def test_ours_are_found_on_top_of_the_users_without_a_word_of_a_search(own_trainers, capfd):
    trainer = find("nnUNetTrainerCPR_on_nnUNetTrainerCPR_myloss_ws20")
    assert trainer.__name__ == "nnUNetTrainerCPR_on_nnUNetTrainerCPR_myloss_ws20"
    assert trainer.__mro__[-3].__name__ == "nnUNetTrainerCPR_myloss"
    assert capfd.readouterr().out == ""


def bare_python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run code in a Python that knows this package, and nothing else beside the standard library."""
    code = f"import os, sys; sys.path.append({str(Path(startup.__file__).parents[2])!r})\n{code}"
    return subprocess.run([sys.executable, "-I", "-S", "-c", code, *arguments], capture_output=True, text=True)


def test_the_module_keeps_its_loader_and_a_getattr_of_its_own(tmp_path):
    """As other tools see it: inspect and reload work, and a __getattr__ that nnU-Net may add one day is asked, too."""
    trainers = tmp_path / "nnunetv2" / "training" / "nnUNetTrainer"
    trainers.mkdir(parents=True)
    for folder in (trainers, *trainers.parents[:2]):
        (folder / "__init__.py").touch()
    (trainers / "nnUNetTrainer.py").write_text(
        "def __getattr__(name):\n    if name == 'theirs':\n        return 1\n    raise AttributeError(name)\n"
    )
    code = """
import importlib, inspect
import nnunet_cpr.nnunet.startup
sys.path.insert(0, sys.argv[1])
import nnunetv2.training.nnUNetTrainer.nnUNetTrainer as module
for _ in range(2):
    assert module.theirs == 1
    assert type(module.__loader__).__name__ == type(module.__spec__.loader).__name__ == "SourceFileLoader"
    assert "def __getattr__" in inspect.getsource(module)
    assert not hasattr(module, "nnUNetTrainerElse")
    importlib.reload(module)
"""
    result = bare_python(code, str(tmp_path))
    assert result.returncode == 0, result.stderr


def test_installing_the_hook_again_changes_nothing():
    before, own = list(sys.meta_path), vars(nnunet_module)["__getattr__"]
    startup.install()
    assert sys.meta_path == before and vars(nnunet_module)["__getattr__"] is own


def test_the_hook_loads_nothing_that_python_has_not():
    """So no Python starts noticeably later. (What it costs is measured by scripts/benchmark_startup.py.)"""
    result = bare_python(
        "before = set(sys.modules); import nnunet_cpr.nnunet.startup; print(sorted(set(sys.modules) - before))"
    )
    assert result.stdout.strip() == str(["nnunet_cpr", "nnunet_cpr.nnunet", "nnunet_cpr.nnunet.startup"]), result.stderr


@pytest.mark.parametrize("kept", [False, True])
def test_empty_folders_of_an_uninstalled_010_do_not_hide_nnunet(tmp_path, kept):
    """Python takes them for a namespace package, which hides an editable nnU-Net, whose finder is asked last."""
    empty, real = tmp_path / "site-packages", tmp_path / "clone"
    (empty / "nnunetv2" / "training" / "nnUNetTrainer" / "cpr").mkdir(parents=True)
    if kept:
        (empty / "nnunetv2" / "training" / "notes.txt").touch()
    (real / "nnunetv2").mkdir(parents=True)
    (real / "nnunetv2" / "__init__.py").touch()
    code = f"""
from importlib.machinery import PathFinder
class Editable:
    def find_spec(name, path=None, target=None):
        return PathFinder.find_spec(name, [{str(real)!r}]) if name == "nnunetv2" else None
sys.path.insert(0, {str(empty)!r})
sys.meta_path.append(Editable)
import nnunet_cpr.nnunet.startup
import nnunetv2
assert nnunetv2.__file__, nnunetv2.__path__
"""
    result = bare_python(code)
    assert result.returncode == 0, result.stderr
    assert (empty / "nnunetv2").exists() == kept  # only folders without any file are removed
