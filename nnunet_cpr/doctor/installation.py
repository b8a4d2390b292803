"""What is installed: this package, nnU-Net and its search for trainers, torch, and the optional libraries."""

import json
import platform
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import nnunet_cpr
from nnunet_cpr.doctor.fact import Fact

PROBE_SECONDS = 300.0


def installation_facts() -> Iterator[Fact]:
    """Yield one fact after the other."""
    yield Fact("nnunet-cpr", f"{nnunet_cpr.__version__}, {Path(nnunet_cpr.__file__).parent}")
    yield Fact("Python", f"{platform.python_version()}, {sys.executable}")
    yield _nnunet()
    yield _nnunet_commands()
    yield from _leftovers()
    answers = _probe()
    yield _trainers(answers)
    yield from _torch(answers)
    yield _step(answers)
    yield _library("Snakemake", "snakemake", "batch", "nnunet-cpr batch")
    yield _library("MONAI", "monai", "surface", "surface metrics (--surface)")


def _nnunet() -> Fact:
    spec = find_spec("nnunetv2")
    if spec is None or spec.origin is None:
        return Fact("nnU-Net", "not found", f"{sys.executable} -m pip install nnunetv2")
    editable = ", editable" if _is_editable("nnunetv2") else ""
    return Fact("nnU-Net", f"{_version('nnunetv2') or 'not installed by pip'}{editable}, {Path(spec.origin).parent}")


def _nnunet_commands() -> Fact:
    """Tell whether `nnUNetv2_train`, as a shell finds it, is that of this Python."""
    found = shutil.which("nnUNetv2_train")
    scripts = Path(sysconfig.get_path("scripts"))
    if found is None:
        beside = (scripts / "nnUNetv2_train").is_file()
        advice = f"add {scripts} to PATH, or activate the environment" if beside else "reinstall nnunetv2 with pip"
        return Fact("nnUNetv2_train", "not on PATH", advice, needed=not beside)
    python = _python_of(Path(found))
    if python is not None and python.parent.resolve() != Path(sys.executable).parent.resolve():
        advice = f"it runs {python}, another Python: install nnunet-cpr there, or change PATH"
        return Fact("nnUNetv2_train", found, advice)
    return Fact("nnUNetv2_train", found)


def _python_of(script: Path) -> Path | None:
    """Return the Python that a script of pip's starts; its path stands in the second line where it holds spaces."""
    try:
        head = script.read_bytes()[:2000].decode(errors="replace").splitlines()[:2]
    except OSError:
        return None
    found = re.search(r"""(/[^"'\n]*/python[\d.]*)["'\s]*""", "\n".join(head))
    return Path(found[1]) if found else None


def _leftovers() -> Iterator[Fact]:
    """Yield what the first release candidate left in nnU-Net's folder, if anything."""
    folders = [Path(sysconfig.get_path("purelib")) / "nnunetv2"]
    spec = find_spec("nnunetv2")
    folders += [Path(place) for place in (spec.submodule_search_locations or [])] if spec else []
    for folder in dict.fromkeys(folders):
        left = folder / "training" / "nnUNetTrainer" / "cpr"
        if left.exists():
            yield Fact("earlier installation", str(left), f"rm -r {shlex.quote(str(left))}", needed=False)


def _probe() -> dict[str, Any]:
    command = [sys.executable, "-m", "nnunet_cpr.doctor.probe"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=PROBE_SECONDS, check=False)
        answers: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
        return answers
    except subprocess.TimeoutExpired:
        error = f"importing torch and nnU-Net took more than {PROBE_SECONDS:.0f} s"
    except (ValueError, IndexError):
        said = result.stderr.strip().splitlines()
        error = (
            f"importing torch and nnU-Net ended with exit code {result.returncode}: {said[-1] if said else 'no word'}"
        )
    return {part: {"error": error} for part in ("trainers", "torch", "step")}


def _trainers(answers: dict[str, Any]) -> Fact:
    found = answers["trainers"].get("found")
    if found is not None and found.startswith("nnunet_cpr."):
        return Fact("trainers", f"nnU-Net's own search finds {found.rpartition('.')[2]}")
    reason = f"nnU-Net takes {found}" if found else answers["trainers"]["error"]
    if found or "nnunet_cpr.nnunet.startup" in sys.modules:  # then the search itself is not what failed
        advice = "remove the other trainer of that name" if found else "mend this error; every training would meet it"
    else:
        folder = shlex.quote(str(Path(nnunet_cpr.__file__).parent / "nnunet" / "ext_trainers"))
        advice = (
            "Python reads no .pth file where nnunet-cpr lies: install it with pip into this Python's environment, "
            f"or export nnUNet_extTrainer={folder}"
        )
    return Fact("trainers", f"not found: {reason}", advice)


def _torch(answers: dict[str, Any]) -> Iterator[Fact]:
    if error := answers["torch"].get("error"):
        yield Fact("torch", error, "reinstall torch, see https://pytorch.org/get-started")
        return
    found = answers["torch"]["found"]
    yield Fact("torch", f"{found['version']}, {'CUDA ' + found['cuda'] if found['cuda'] else 'CPU only'}")
    if found["gpus"]:
        yield Fact("GPU", "; ".join(found["gpus"]))
    elif shutil.which("nvidia-smi") is None:
        yield Fact("GPU", "none; training runs on the CPU, with -device cpu")
    else:
        yield Fact(
            "GPU", "torch cannot use the GPU that nvidia-smi knows",
            "check CUDA_VISIBLE_DEVICES and that the driver fits torch's CUDA, see https://pytorch.org/get-started",
        )  # fmt: skip


def _step(answers: dict[str, Any]) -> Fact:
    if error := answers["step"].get("error"):
        return Fact("optimizer step", error, "see torch above")
    found = answers["step"]["found"]
    set_by_user = "" if found["kernels"] == "auto" else f"; {found['switch']}={found['kernels']}"
    if found["why_not"] is None:
        return Fact(
            "optimizer step", f"on a CPU: the C kernels (l2, float32); on a GPU: torch's fused operators{set_by_user}"
        )
    return Fact(
        "optimizer step",
        f"torch's operators: {found['why_not']}{set_by_user}",
        "for the C kernels, install a C compiler or set CC",
        needed=False,
    )


def _library(name: str, distribution_name: str, extra: str, use: str) -> Fact:
    version = _version(distribution_name)
    if version is None:
        too_old = extra == "batch" and sys.version_info < (3, 11)
        advice = f"only for {use}: " + (
            "needs Python 3.11 or later" if too_old else f"pip install 'nnunet-cpr[{extra}]'"
        )
        return Fact(name, "not installed", advice, needed=False)
    return Fact(name, version)


def _distribution(name: str) -> Distribution | None:
    try:
        return distribution(name)
    except PackageNotFoundError:
        return None


def _version(name: str) -> str | None:
    found = _distribution(name)
    return None if found is None else found.version


def _is_editable(name: str) -> bool:
    found = _distribution(name)
    text = found.read_text("direct_url.json") if found else None
    try:
        return bool(json.loads(text or "{}").get("dir_info", {}).get("editable"))
    except (ValueError, AttributeError):
        return False
