"""Compiles, checks and keeps the C kernels: about a second with the machine's C compiler, when first used.

A new library is first tried in a process of its own, then kept in the user's cache folder. Where it cannot be had the
reason goes to the log, and torch's own operators do the same within float32 rounding.
"""

import ctypes
import functools
import hashlib
import logging
import os
import platform
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

_SOURCE = Path(__file__).with_name("c_kernels.c")
_CHECK = Path(__file__).with_name("c_selfcheck.py")
_FLAGS = ("-O3", "-march=native", "-fno-math-errno", "-fopenmp", "-fPIC", "-std=gnu11")
_TIMEOUT = 30.0  # seconds for a command, which needs one
_log = logging.getLogger(__name__)


def kernels() -> ctypes.CDLL | None:
    """Return the compiled kernels, or None where they cannot be had."""
    found = _kernels_or_reason()
    return None if isinstance(found, str) else found


def why_not() -> str | None:
    """Return why the compiled kernels cannot be had here; None if they can."""
    found = _kernels_or_reason()
    return found if isinstance(found, str) else None


@functools.cache
def _kernels_or_reason() -> ctypes.CDLL | str:
    try:
        runtime = _openmp()
        name = f"c_kernels-{_fingerprint(runtime)}.so"
        cache = _cache()
        if cache is not None and _intact(cache / name):
            return ctypes.CDLL(str(cache / name))
        return _build(name, runtime, cache)
    except (OSError, subprocess.SubprocessError, RuntimeError, ValueError) as error:
        _log.info("no C kernels, so torch's own operators are used: %s", error)
        return str(error)


def _openmp() -> Path:
    """Return torch's own OpenMP library: a second one beside it would fight for the cores."""
    found = sorted((Path(torch.__file__).parent / "lib").glob("libgomp*.so*"))
    if platform.system() != "Linux" or not found:
        raise RuntimeError("torch has no GNU OpenMP library here")
    return found[0]


def _fingerprint(runtime: Path) -> str:
    """Name what the binary depends on; home folders are shared by machines with different processors."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line for line in lines if line.startswith(("flags", "Features"))), "")  # as x86 and ARM call it
    parts = (_SOURCE.read_text(), *_FLAGS, str(runtime), platform.machine(), cpu)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _cache() -> Path | None:
    """Return the folder that keeps the binary, or None where there is none that is out of others' reach.

    What lies there is executed. Nothing in the folder itself can prove that it is ours: only owner and permissions do.
    """
    given = os.environ.get("XDG_CACHE_HOME", "")
    try:
        # A path that is not absolute is to be ignored, says the standard: it would depend on the working directory.
        caches = Path(given) if os.path.isabs(given) else Path.home() / ".cache"
        if not caches.is_absolute():
            raise RuntimeError("no home folder is known")
        caches.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder = caches.resolve() / "nnunet-cpr"
        folder.mkdir(mode=0o700, exist_ok=True)
        folder = folder.resolve()
        if _out_of_reach(folder):
            return folder
        raise RuntimeError(f"others could write to {folder}")
    except (OSError, RuntimeError) as error:
        _log.info("the C kernels are compiled in each process, because they cannot be kept: %s", error)
        return None


def _out_of_reach(folder: Path) -> bool:
    """Return whether only this user can write to a folder, and not everybody can put another in its place."""
    above = [parent.stat().st_mode for parent in folder.parents]
    return _mine(folder.lstat(), stat.S_ISDIR) and all(mode & stat.S_ISVTX or not mode & stat.S_IWOTH for mode in above)


def _mine(found: os.stat_result, kind: Callable[[int], bool]) -> bool:
    others = stat.S_IWGRP | stat.S_IWOTH
    return kind(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & others


def _intact(path: Path) -> bool:
    """Return whether the binary is there, this user's alone and whole: a truncated one would kill the process."""
    try:
        whole = path.with_suffix(".sha256").read_bytes() == _checksum(path)
        return whole and _mine(path.lstat(), stat.S_ISREG)
    except OSError:
        return False


def _checksum(path: Path) -> bytes:
    return hashlib.sha256(path.read_bytes()).hexdigest().encode()


def _build(name: str, runtime: Path, cache: Path | None) -> ctypes.CDLL:
    """Compile, try and load the kernel, and keep it in the cache if there is one."""
    if cache is not None:
        try:
            return _build_in(cache, name, runtime, keep=True)
        except (OSError, RuntimeError) as error:
            # The disk may be full, or not meant for programs.
            _log.info("the C kernels cannot be made in %s: %s", cache, error)
    return _build_in(Path(tempfile.gettempdir()), name, runtime, keep=False)


def _build_in(place: Path, name: str, runtime: Path, keep: bool) -> ctypes.CDLL:
    with tempfile.TemporaryDirectory(prefix="nnunet-cpr-", dir=place.resolve()) as made:
        folder = Path(made)
        if not _out_of_reach(folder):
            raise RuntimeError(f"others could write to {folder}")
        built, checksum = folder / name, folder / "checksum"
        _compile(built, runtime)
        _run([sys.executable, "-I", "-S", str(_CHECK), str(built)], folder)
        kernel = ctypes.CDLL(str(built))
        if keep:
            built.chmod(0o700)  # a umask may let others write to it
            checksum.write_bytes(_checksum(built))
            os.replace(built, place / name)
            os.replace(checksum, (place / name).with_suffix(".sha256"))
        return kernel


def _compile(built: Path, runtime: Path) -> None:
    compiler = shlex.split(os.environ.get("CC", "")) or ["cc"]
    if shutil.which(compiler[0]) is None:
        raise RuntimeError(f"no C compiler found: {compiler[0]}")
    obj = built.with_name("kernel.o")
    _run([*compiler, *_FLAGS, "-c", str(_SOURCE), "-o", str(obj)], built.parent)
    _run([*compiler, "-shared", str(obj), str(runtime), "-lm", "-o", str(built)], built.parent)


def _run(command: Sequence[str], folder: Path) -> None:
    """Run a command to its end; its temporary files go to the folder. Raises RuntimeError where it fails."""
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # so that all its children can be stopped with it
        env={**os.environ, "TMPDIR": str(folder)},
    ) as process:
        try:
            output, _ = process.communicate(timeout=_TIMEOUT)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise
    if process.returncode:
        said = output.decode(errors="replace").strip().splitlines()[-1:]
        raise RuntimeError(f"{shlex.join(command)} ended with {process.returncode}: {' '.join(said)}")
