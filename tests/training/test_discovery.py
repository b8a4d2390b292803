"""nnU-Net finds the trainers by name: among its own after an installation, or through nnUNet_extTrainer."""

import importlib
import inspect
import pkgutil
from pathlib import Path

import nnunetv2
import pytest
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name as find

from nnunet_cpr.training.trainer import _explain

TRAINERS = Path(__file__).parents[2] / "trainers"
INSTALLED = Path(nnunetv2.__path__[0]) / "training" / "nnUNetTrainer" / "cpr"
NAMES = ["nnUNetTrainerCPR", "nnUNetTrainerCPR_ws2000_warmup2000_100epochs", "nnUNetTrainerAdamCPR",
         "nnUNetTrainerAdamCPR_ip", "nnUNetTrainerSGD", "nnUNetTrainerSGD_wd1e-2", "nnUNetTrainerAdamW",
         "nnUNetTrainerAdamW_bf16"]  # fmt: skip


@pytest.fixture(params=["installed", "nnUNet_extTrainer"])
def way(request, monkeypatch):
    if request.param == "installed":
        monkeypatch.delenv("nnUNet_extTrainer", raising=False)
    else:
        everything = pkgutil.iter_modules

        def without_ours(path=None, prefix=""):
            return (m for m in everything(path, prefix) if not (m.name == "cpr" and "nnUNetTrainer" in str(path)))

        monkeypatch.setattr(pkgutil, "iter_modules", without_ours)
        monkeypatch.delenv("nnUNet_extTrainer", raising=False)
        with pytest.raises(RuntimeError, match="Could not find"):
            find("nnUNetTrainerCPR")
        monkeypatch.setenv("nnUNet_extTrainer", str(TRAINERS))
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


def test_what_does_not_parse_is_nnunets_own_error_and_ours_says_why(way, capsys):
    _explain.cache_clear()  # it says so once a process
    with pytest.raises(RuntimeError, match="Could not find requested nnunet trainer nnUNetTrainerCPR_ws10_ip"):
        find("nnUNetTrainerCPR_ws10_ip")
    lines = capsys.readouterr().out.splitlines()
    assert sum("'ip' sets the bound rule a second time" in line for line in lines) == 1


def test_other_names_are_no_business_of_ours(way, capsys):
    with pytest.raises(RuntimeError):
        find("nnUNetTrainerWithSomethingElse")
    out = capsys.readouterr().out.replace(str(TRAINERS), "")  # nnU-Net prints where it looks; a clone is called so, too
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


@pytest.mark.parametrize("name", ["__path__", "__all__", "__wrapped__", "nnUNetTrainer", "nnUNetTrainerCP", "torch"])
def test_a_module_has_nothing_else(name):
    for family in ("nnUNetTrainerCPR", "nnUNetTrainerAdamCPR", "nnUNetTrainerSGD", "nnUNetTrainerAdamW"):
        module = importlib.import_module(f"nnunetv2.training.nnUNetTrainer.cpr.{family}")
        assert not hasattr(module, name)


def test_the_installed_copy_is_the_repositorys():
    """pip copies the trainers into nnU-Net. If this fails, install again."""
    for source in TRAINERS.glob("*.py"):
        assert (INSTALLED / source.name).read_text() == source.read_text()
