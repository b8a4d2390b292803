"""What a measurement was made on: processor, caches, compiler, torch, and which code."""

import importlib.metadata
import os
import platform
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import torch

_ROOT = Path(__file__).parents[2]
_CPUINFO = Path("/proc/cpuinfo")
_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")


def describe_machine(device: torch.device) -> dict[str, Any]:
    """Return what the results of a benchmark on this device have to say about it."""
    on_gpu = device.type == "cuda"
    sizes = _gpu_caches(device) if on_gpu else read_caches(_CACHES)
    return {
        "processor": torch.cuda.get_device_name(device) if on_gpu else name_processor(_read(_CPUINFO)),
        "device": device.type,
        "processors": os.cpu_count() or 1,
        "caches": sizes,
        "compiler": _gpu_compilers() if on_gpu else _c_compiler(),
        "torch": torch.__version__,
        "code": _code(),
    }


def name_processor(cpuinfo: str) -> str:
    """Return the name of a processor from Linux's /proc/cpuinfo.

    Virtual machines may have a model name without a model; its family and model number are added then.
    """
    lines = [line.partition(":") for line in cpuinfo.partition("\n\n")[0].splitlines()]
    facts = {key.strip(): value.strip() for key, _, value in lines}
    name = re.sub(r"\((R|TM)\)|\b(CPU|Processor|\d+-Core)\b|@.*", " ", facts.get("model name", ""))
    name = " ".join(name.split())
    if "CPU part" in facts:  # ARM
        return f"{name or platform.machine()} (implementer {facts.get('CPU implementer')}, part {facts['CPU part']})"
    if not name:
        return platform.processor() or platform.machine()
    if not re.search(r"\d", name):
        return f"{name} (family {facts.get('cpu family')}, model {facts.get('model')})"
    return name


def file_name(processor: str) -> str:
    """Return the name of the file for the results of a processor."""
    return "-".join(re.findall(r"[a-z0-9]+", processor.lower())) + ".json"


def read_caches(folder: Path) -> dict[str, int]:
    """Return the bytes of each cache for data, by level, from Linux's folder about a processor's caches."""
    sizes = {}
    for cache in sorted(folder.glob("index*")):
        size = re.fullmatch(r"(\d+)K", _read(cache / "size").strip())
        if size and _read(cache / "type").strip() != "Instruction":
            sizes[f"L{_read(cache / 'level').strip()}"] = 1024 * int(size[1])
    return sizes


def _gpu_caches(device: torch.device) -> dict[str, int]:
    return {"L2": torch.cuda.get_device_properties(device).L2_cache_size}


def _c_compiler() -> str:
    """Return the first line that the C compiler says about itself; it is found as the C kernel finds it."""
    command = [*(shlex.split(os.environ.get("CC", "")) or ["cc"]), "--version"]
    return _first_line(command) or "none"


def _gpu_compilers() -> str:
    try:
        triton = importlib.metadata.version("triton")
    except importlib.metadata.PackageNotFoundError:
        triton = "none"
    return f"CUDA {torch.version.cuda}, Triton {triton}"


def _code() -> str:
    """Return the commit of this checkout; it ends with -dirty where files differ from it."""
    return _first_line(["git", "-C", str(_ROOT), "describe", "--always", "--dirty", "--exclude", "*"]) or "unknown"


def _first_line(command: list[str]) -> str:
    """Return the first line that a command prints, or an empty text where it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.partition("\n")[0].strip()


def _read(path: Path) -> str:
    """Return a file's text, which is empty where there is no such file."""
    try:
        return path.read_text()
    except OSError:
        return ""
