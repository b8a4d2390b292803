"""Running a study's jobs with Snakemake, as a process group of its own that is stopped as a whole."""

import getpass
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from nnunet_cpr.batch.ensembles import ensembles_of
from nnunet_cpr.batch.failures import forget_failures
from nnunet_cpr.batch.locks import take
from nnunet_cpr.batch.place import Place
from nnunet_cpr.batch.plan import Plan, job_name
from nnunet_cpr.batch.prepare import is_prepared
from nnunet_cpr.batch.slurm import plugin_path
from nnunet_cpr.batch.stop_relay import STOP_SECONDS
from nnunet_cpr.batch.study import Study
from nnunet_cpr.batch.trainings import trainings_of

SNAKEFILE = Path(__file__).with_name("Snakefile")
POLL_SECONDS = 1.0


class StudyStopped(Exception):
    """The user, or the system, asked to stop; nothing is running any more."""


def run_snakemake(plan: Plan, place: Place, watch: Callable[[], None]) -> tuple[int, int]:
    """Run what is missing of the study; `watch` is called every second.

    Returns:
        Snakemake's exit code, and where in snakemake.log this call's output begins.

    Raises:
        ValueError: another call is at work on this study.
        StudyStopped: on SIGINT, SIGTERM or SIGHUP, after the signal of `place` has stopped all of Snakemake's group.
    """
    study = plan.study
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(SNAKEFILE), "--configfile", str(plan.file),
               "--directory", str(study.output), "--keep-going", "--rerun-incomplete", "--rerun-triggers", "mtime",
               "--scheduler", "greedy", "--nolock", *place.arguments]  # fmt: skip
    with _alone(study) as lock, _stop_signals() as received:
        plan.write()  # first: it marks the folder as ours
        forget_failures(study.output)
        match_markers(study)
        with (study.output / "snakemake.log").open("ab") as log:
            begin = log.tell()
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                                       start_new_session=True, pass_fds=[lock], env=_environment(plan))  # fmt: skip
        os.pwrite(lock, f"{process.pid:<12}".encode(), 0)
        try:
            while process.poll() is None and not received:
                watch()
                time.sleep(POLL_SECONDS)
            if received:
                print("\nStopping: trainings finish their step and end ...", flush=True)
        finally:
            _stop(process, place.stop_signal)  # if Snakemake was killed, its jobs are still there
        watch()
        if received:
            raise StudyStopped
        return process.returncode, begin


def _environment(plan: Plan) -> dict[str, str]:
    """Return Snakemake's environment, in which it needs neither a writable home nor a user with a name."""
    environment = dict(os.environ)
    if places := environment.get("PYTHONPATH"):  # Snakemake and the jobs start in the study's folder
        environment["PYTHONPATH"] = os.pathsep.join(map(os.path.abspath, places.split(os.pathsep)))
    try:
        getpass.getuser()
    except (KeyError, OSError):  # as in a container with a number instead of a user
        environment["LOGNAME"] = str(os.getuid())
    cache = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    try:
        if not cache.is_absolute():
            raise OSError(f"{cache} is not absolute")
        sources = cache / "snakemake" / "source-cache" / "snakemake-runtime-cache"
        sources.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=sources).close()
    except OSError:
        environment["XDG_CACHE_HOME"] = str(plan.study.output / ".snakemake" / "cache")
    if plan.sbatch:
        environment["PYTHONPATH"] = plugin_path(environment.get("PYTHONPATH"))
    return environment


def match_markers(study: Study) -> None:
    """Make Snakemake's markers say what nnU-Net's folders say, whoever trained or deleted what."""
    runs = trainings_of(study)
    for run in runs:
        trained, surface = (study.output / "markers" / f"{job_name(run.key)}.{kind}" for kind in ("trained", "surface"))
        if run.is_done():
            _touch(trained)
            _remove_older(surface, run.validation / "summary.json")
        else:
            for stale in (trained, surface, run.record(study.output)):
                stale.unlink(missing_ok=True)
    for ensemble in ensembles_of(study):
        predicted, surface = (
            study.output / "markers" / f"{job_name(ensemble.key)}.{kind}" for kind in ("predicted", "test_surface")
        )
        if ensemble.is_done():
            _touch(predicted)
            _remove_older(surface, ensemble.folder / "summary.json")
        else:
            for stale in (predicted, surface, ensemble.record(study.output)):
                stale.unlink(missing_ok=True)
    for dataset in study.datasets:
        marker = study.output / "markers" / f"{job_name(dataset)}.prepared"
        if is_prepared(study, dataset) or all(run.is_done() for run in runs if run.dataset == dataset):
            _touch(marker)
        else:
            marker.unlink(missing_ok=True)


@contextmanager
def _alone(study: Study) -> Iterator[int]:
    """Hold the study's lock. Snakemake inherits it, so it stays taken if only this process is killed."""
    path = study.output / ".lock"
    lock = take(path, wait=False)
    if lock is None:
        group = path.read_text().strip()
        raise ValueError(
            f"another call is at work on this study (process group {group}); look with nnunet-cpr status {study.path}, "
            f"stop it with Ctrl-C there, or with: kill -TERM -- -{group}"
        )
    os.ftruncate(lock, 0)
    try:
        yield lock
    finally:
        os.close(lock)


@contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """Collect Ctrl-C, SIGTERM and the hang-up of a closed terminal, unless it is ignored, as nohup does."""
    received: list[int] = []
    before = {
        number: signal.signal(number, lambda number, _: received.append(number))
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        if signal.getsignal(number) != signal.SIG_IGN
    }
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop(process: subprocess.Popen[bytes], stop_signal: int) -> None:
    """Stop the whole group and wait until nothing of it runs."""
    for how, patience in ((stop_signal, STOP_SECONDS + 20), (signal.SIGKILL, 10)):
        try:
            os.killpg(process.pid, how)
        except ProcessLookupError:
            break
        until = time.monotonic() + patience
        while time.monotonic() < until:
            process.poll()
            if not _living(process.pid):
                return
            time.sleep(0.2)


def _living(group: int) -> bool:
    """Whether some process of the group lives. Zombies do not count: in a container nobody may collect them."""
    import psutil

    for process in psutil.process_iter(["status"]):
        try:
            if os.getpgid(process.pid) == group and process.info["status"] != psutil.STATUS_ZOMBIE:
                return True
        except ProcessLookupError:
            continue
    return False


def _touch(marker: Path) -> None:
    if not marker.is_file():
        marker.parent.mkdir(parents=True, exist_ok=True)
        marker.touch()


def _remove_older(marker: Path, result: Path) -> None:
    """Remove the marker of what was computed of an earlier result."""
    if marker.is_file() and marker.stat().st_mtime < result.stat().st_mtime:
        marker.unlink()
