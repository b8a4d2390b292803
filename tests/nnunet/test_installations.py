"""The wheel, the sdist and a checkout, installed with pip in fresh environments beside nnU-Net as users have it.

An environment takes all libraries from the running one, but for nnU-Net and nnunet-cpr, which pip installs. pip's index
is needed for the build tools.
"""

import json
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.slow

CHECKOUT = Path(__file__).parents[2]
LIBRARIES = Path(torch.__file__).parents[1]
NOT_SHARED = (
    "nnunet",
    "_nnunet",
    "__editable__",
    "_editable_impl",
    "pip",
    "setuptools",
    "_distutils",
    "distutils-",
    "__pycache__",
)
EDITABLE = ("-e",)
# nnU-Net's own pyproject.toml, as far as it decides where the package is found
PYPROJECT = """
[project]
name = "nnunetv2"
version = "2.8.1"
[project.scripts]
nnUNetv2_train = "nnunetv2.run.run_training:run_training_entry"
[build-system]
requires = ["setuptools>=67.8.0"]
build-backend = "setuptools.build_meta"
[tool.setuptools.packages.find]
include = ["nnunetv2*"]
"""
# Asks nnU-Net's own search without and with the user's folder, in this process and in a spawned one (several GPUs).
PROBE = """
import contextlib, io, json, multiprocessing, os, sys
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

def find(names, folder):
    os.environ["nnUNet_extTrainer"] = folder
    if not folder:
        del os.environ["nnUNet_extTrainer"]
    found = []
    for name in names:
        with contextlib.redirect_stdout(io.StringIO()) as said:
            trainer = recursive_find_trainer_class_by_name(name)
        found.append((trainer.__module__, trainer.__name__, said.getvalue()))
    return found

if __name__ == "__main__":
    folder, ours, *own = sys.argv[1:]
    asked = ([ours], ""), ([ours, *own], folder)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        spawned = [pool.apply(find, question) for question in asked]
    here = [find(*question) for question in asked]
    assert here == spawned, (here, spawned)
    print(json.dumps(here))
"""


def run(*command: object, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=600, **options)


class Environment:
    """An environment of Python's, and what a user does in it: a virtual one, or a user's own site-packages."""

    def __init__(self, folder: Path, virtual: bool = True) -> None:
        self.folder = folder
        self.variables = {key: value for key, value in os.environ.items() if not key.startswith(("nnUNet_", "PYTHON"))}
        self.variables |= {f"nnUNet_{name}": str(folder / name) for name in ("raw", "preprocessed", "results")}
        if virtual:
            venv.create(folder / "venv", with_pip=True)
            self.python = folder / "venv" / "bin" / "python"
            self.site = next((folder / "venv" / "lib").glob("python*/site-packages"))
        else:
            self.python = Path(sys._base_executable)
            self.variables |= {"PYTHONUSERBASE": str(folder / "user base"), "PIP_BREAK_SYSTEM_PACKAGES": "1"}
            self.site = Path(self.run("-m", "site", "--user-site").stdout.strip())
            self.site.mkdir(parents=True)
        libraries = folder / "libraries"
        libraries.mkdir()
        for path in LIBRARIES.iterdir():
            if not path.name.startswith(NOT_SHARED):
                (libraries / path.name).symlink_to(path)
        (self.site / "zz_libraries.pth").write_text(str(libraries))

    def run(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        """Run Python with these arguments."""
        return run(self.python, *arguments, env=self.variables, cwd=self.folder)

    def command(self, name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
        """Run a command that pip has installed."""
        return run(self.python.with_name(name), *arguments, env=self.variables, cwd=self.folder)

    def pip(self, *arguments: object) -> None:
        done = self.run("-m", "pip", *arguments, "--quiet", "--disable-pip-version-check")
        assert done.returncode == 0, done.stderr

    def install(self, what: Path, *options: str) -> None:
        self.pip("install", "--no-deps", *options, what)

    def files(self) -> set[str]:
        """What is in site-packages, without the code that Python compiles."""
        paths = (path.relative_to(self.site) for path in self.site.rglob("*"))
        return {str(path) for path in paths if "__pycache__" not in path.parts and path.parts[0] != "pip"}

    def nnunet_works(self) -> bool:
        """Whether Python finds nnU-Net's trainer."""
        module = "nnunetv2.training.nnUNetTrainer.nnUNetTrainer"
        code = f"from importlib.util import find_spec; assert find_spec({module!r})"
        return self.run("-c", code).returncode == 0


@pytest.fixture(scope="module")
def clone(tmp_path_factory) -> Path:
    """nnU-Net as `git clone` gives it: the package in the root."""
    import nnunetv2

    folder = tmp_path_factory.mktemp("clone") / "nnUNet"
    shutil.copytree(Path(nnunetv2.__file__).parent, folder / "nnunetv2", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "pyproject.toml").write_text(PYPROJECT)
    return folder


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """What git knows of this repository, as `git clone` gives it, in a path with a space."""
    folder = tmp_path_factory.mktemp("checkout") / "nnunet cpr"
    for name in run("git", "-C", CHECKOUT, "ls-files").stdout.splitlines():
        if (CHECKOUT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(CHECKOUT / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def built(checkout, tmp_path_factory) -> dict[str, Path]:
    """The sdist, and the wheel that is built from it."""
    folder = tmp_path_factory.mktemp("built")
    venv.create(folder / "venv", with_pip=True)
    python = folder / "venv" / "bin" / "python"
    done = run(python, "-m", "pip", "install", "--quiet", "hatchling>=1.25")
    assert done.returncode == 0, done.stderr
    done = run(python, "-m", "hatchling", "build", "-t", "sdist", "-d", folder, cwd=checkout)
    assert done.returncode == 0, done.stderr
    sdist = next(folder.glob("*.tar.gz"))
    done = run(python, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", folder, sdist)
    assert done.returncode == 0, done.stderr
    return {"sdist": sdist, "wheel": next(folder.glob("*.whl"))}


def install_nnunet(environment: Environment, clone: Path, kind: str) -> None:
    if kind == "wheel":
        environment.install(clone)
    elif kind.startswith("editable"):
        mode = kind.partition(" ")[2]
        settings = ["--config-settings", f"editable_mode={mode}"] if mode else []
        environment.install(clone, *settings, *EDITABLE)
    elif kind == "PYTHONPATH":
        environment.variables["PYTHONPATH"] = str(clone)
    else:
        (environment.site / "nnunet_clone.pth").write_text(str(clone))


def check_trainers(environment: Environment) -> None:
    """Ours are found without a word, with and without nnUNet_extTrainer, and the user's own are found as before."""
    name, own = "nnUNetTrainerCPR_ws2000_100epochs", environment.folder / "my trainers"
    own.mkdir()
    (own / "mine.py").write_text(
        "from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer, nnUNetTrainerCPR\n"
        "class nnUNetTrainerMine(nnUNetTrainer):\n    pass\n"
        "class nnUNetTrainerMineWithCPR(nnUNetTrainerCPR):\n    pass\n"
    )
    folders = os.pathsep.join([str(environment.folder / "none"), str(own)])
    probe = environment.folder / "probe.py"
    probe.write_text(PROBE)
    done = environment.run(probe, folders, name, "nnUNetTrainerMine", "nnUNetTrainerMineWithCPR")
    assert done.returncode == 0, done.stderr
    without, with_own = json.loads(done.stdout)
    assert without == [with_own[0]] == [["nnunet_cpr.training.factory", name, ""]]
    assert [module for module, _, _ in with_own[1:]] == ["mine", "mine"]


@pytest.mark.parametrize("kind", ["wheel", "editable", "editable compat", "editable strict", "PYTHONPATH", ".pth"])
def test_beside_every_kind_of_nnunet(kind, clone, built, tmp_path):
    environment = Environment(tmp_path)
    install_nnunet(environment, clone, kind)
    before = environment.files()
    environment.install(built["wheel"])
    assert {path.split("/")[0] for path in environment.files() - before} == {
        "nnunet_cpr", "nnunet_cpr.pth", "nnunet_cpr-0.1.0.dist-info"
    }  # fmt: skip
    assert environment.nnunet_works()
    check_trainers(environment)
    environment.pip("uninstall", "--yes", "nnunet-cpr")
    assert environment.files() == before
    assert environment.nnunet_works()


@pytest.mark.parametrize("nnunet", ["wheel", "editable"])
@pytest.mark.parametrize("kind", ["sdist", "editable"])
def test_every_kind_of_ours(kind, nnunet, clone, checkout, built, tmp_path):
    environment = Environment(tmp_path / "a folder")
    install_nnunet(environment, clone, nnunet)
    before = environment.files()
    environment.install(built.get(kind, checkout), *(EDITABLE if kind == "editable" else ()))
    check_trainers(environment)
    train = environment.command("nnUNetv2_train", "-h")
    assert train.returncode == 0, train.stderr
    doctor = environment.command("nnunet-cpr", "doctor", "--json")
    states = {row["name"]: row["state"] for row in json.loads(doctor.stdout)}
    assert states["trainers"] == states["nnU-Net"] == "ok"
    environment.pip("uninstall", "--yes", "nnunet-cpr")
    assert environment.files() == before


def test_in_the_site_packages_of_a_user(clone, built, tmp_path):
    """`pip install --user`, for both."""
    environment = Environment(tmp_path, virtual=False)
    if environment.run("-m", "pip", "--version").returncode:
        pytest.skip(f"{environment.python} has no pip")
    environment.install(clone, "--user")
    before = environment.files()
    environment.install(built["wheel"], "--user")
    assert environment.nnunet_works()
    check_trainers(environment)
    environment.pip("uninstall", "--yes", "nnunet-cpr")
    assert environment.files() == before


def test_in_a_folder_of_pythonpath_with_the_doctors_advice(clone, built, tmp_path):
    """`pip install --target`: Python reads no .pth file there, and the doctor says what to do."""
    environment = Environment(tmp_path)
    install_nnunet(environment, clone, "wheel")
    environment.install(built["wheel"], "--target", str(tmp_path / "target"))
    environment.variables["PYTHONPATH"] = str(tmp_path / "target")
    trainers = []
    for _ in range(2):
        doctor = environment.run("-m", "nnunet_cpr.cli", "doctor", "--json")
        trainers.append(next(row for row in json.loads(doctor.stdout) if row["name"] == "trainers"))
        environment.variables["nnUNet_extTrainer"] = trainers[-1]["advice"].rpartition("nnUNet_extTrainer=")[2]
    assert [fact["state"] for fact in trainers] == ["FAULT", "ok"]


@pytest.mark.parametrize("uninstalled_first", [False, True])
def test_upgrade_from_the_files_in_nnunets_folder(uninstalled_first, clone, checkout, tmp_path):
    """The first release candidate put files into nnU-Net's folder of site-packages, which hid an editable nnU-Net."""
    environment = Environment(tmp_path)
    install_nnunet(environment, clone, "editable")
    before = environment.files()
    earlier = tmp_path / "earlier"
    (earlier / "trainers").mkdir(parents=True)
    (earlier / "nnunet_cpr").mkdir()
    for file in ("nnunet_cpr/__init__.py", "trainers/__init__.py", "trainers/nnUNetTrainerCPR.py"):
        (earlier / file).touch()
    (earlier / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n'
        '[project]\nname = "nnunet-cpr"\nversion = "0.1.0"\n'
        '[tool.hatch.build.targets.wheel]\npackages = ["nnunet_cpr"]\n'
        '[tool.hatch.build.targets.wheel.force-include]\n"trainers" = "nnunetv2/training/nnUNetTrainer/cpr"\n'
    )
    environment.install(earlier)
    assert not environment.nnunet_works()  # the earlier version breaks it
    if uninstalled_first:
        environment.pip("uninstall", "--yes", "nnunet-cpr")
        assert not environment.nnunet_works()
    environment.install(checkout)
    check_trainers(environment)
    environment.pip("uninstall", "--yes", "nnunet-cpr")
    assert environment.files() == before
    assert environment.nnunet_works()
