import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nnunet_cpr import parallel
from nnunet_cpr.parallel import in_parallel, job_cores

SCHEDULERS = ("SLURM_CPUS_PER_TASK", "SLURM_CPUS_ON_NODE", "LSB_DJOB_NUMPROC", "NSLOTS", "NCPUS")


@pytest.fixture
def no_scheduler(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SCHEDULERS:
        monkeypatch.delenv(name, raising=False)


pytestmark = pytest.mark.usefixtures("no_scheduler")


@pytest.mark.parametrize("name", SCHEDULERS)
def test_cores_are_those_the_scheduler_gave(name, monkeypatch):
    monkeypatch.setenv(name, "1")
    assert job_cores() == 1


def test_a_task_counts_rather_than_its_node(monkeypatch):
    without_scheduler = job_cores()
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", "1")
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "1000")
    assert job_cores() == without_scheduler


@pytest.mark.parametrize("said", ["", "0", "many", "-3", "²"])
def test_a_count_that_makes_no_sense_is_passed_over(said, monkeypatch):
    without_scheduler = job_cores()
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", said)
    assert job_cores() == without_scheduler


def test_cores_are_those_of_the_affinity():
    code = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))});"
        "from nnunet_cpr.parallel import job_cores; print(job_cores())"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "1"


def process_of(_) -> int:
    return os.getpid()


def die_elsewhere(_) -> None:
    if multiprocessing.parent_process() is not None:
        os._exit(1)


def test_little_work_is_done_in_this_process():
    assert set(in_parallel(process_of, range(5), 2, "ids")) == {os.getpid()}


def test_much_work_is_shared(monkeypatch):
    monkeypatch.setattr(parallel, "START_SECONDS", -1.0)
    assert list(in_parallel(abs, range(-40, 0), 2, "numbers")) == list(range(40, 0, -1))
    found = list(in_parallel(process_of, range(5), 2, "ids"))
    assert found[:2] == [os.getpid()] * 2 and os.getpid() not in found[2:]
    assert set(in_parallel(process_of, range(5), 1, "ids")) == {os.getpid()}


def test_a_killed_process_is_an_error_and_no_endless_wait(monkeypatch):
    monkeypatch.setattr(parallel, "START_SECONDS", -1.0)
    with pytest.raises(ValueError, match="use fewer processes"):
        list(in_parallel(die_elsewhere, range(4), 2, "exits"))


def want_too_much(item: int) -> None:
    if item == 1 or multiprocessing.parent_process() is not None:
        raise RuntimeError(f"DefaultCPUAllocator: can't allocate memory: you tried to allocate {item} bytes")


@pytest.mark.parametrize(("first", "case"), [(1, "case 1"), (5, "case 7")])
def test_where_memory_does_not_suffice_the_case_is_named(monkeypatch, first, case):
    """In this process, which does the first two, and in others."""
    monkeypatch.setattr(parallel, "START_SECONDS", -1.0)
    with pytest.raises(ValueError, match=f"^{case}: there is not enough memory; free some memory, use fewer processes"):
        list(in_parallel(want_too_much, range(first, first + 4), 2, "numbers", name="case {}".format))


def test_a_killed_process_names_where_it_was(monkeypatch):
    monkeypatch.setattr(parallel, "START_SECONDS", -1.0)
    with pytest.raises(ValueError, match=r"^case 2 or a case after it: a process ended unexpectedly"):
        list(in_parallel(die_elsewhere, range(4), 2, "exits", name="case {}".format))


COMMAND = """
import multiprocessing, os, sys, time
from nnunet_cpr import parallel
from nnunet_cpr.terminal import run_command

parallel.START_SECONDS = -1.0

def work(item):
    if multiprocessing.parent_process() is not None:
        os.write(1, f"{os.getpid()}\\n".encode())
        time.sleep(600)

def main():
    list(parallel.in_parallel(work, range(100), 2, "sleep"))
    return 0

if __name__ == "__main__":
    sys.exit(run_command("program", main))
"""


@pytest.fixture
def command(tmp_path):
    """A command whose two workers sleep, in a process group of its own, and the numbers of its workers."""
    (tmp_path / "program.py").write_text(COMMAND)
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "program.py")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    workers = [int(process.stdout.readline()) for _ in range(2)]
    yield process, workers
    for number in [process.pid, *workers]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(number, signal.SIGKILL)
    process.communicate()


def lives(number: int) -> bool:
    """Whether there is such a process that is no zombie; in a container nobody may collect those."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def wait_until_gone(workers: list[int]) -> None:
    until = time.monotonic() + 300  # never reached unless they stay
    while any(map(lives, workers)):
        assert time.monotonic() < until, "workers stay"
        time.sleep(0.05)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("number", "to_group", "code", "said"),
    [
        (signal.SIGKILL, False, -9, None),
        (signal.SIGTERM, False, 143, "program: stopped by SIGTERM\n"),
        (signal.SIGTERM, True, 143, "program: stopped by SIGTERM\n"),
        (signal.SIGINT, True, 130, "program: interrupted\n"),  # Ctrl-C on a terminal
        (signal.SIGHUP, False, 129, "program: stopped by SIGHUP\n"),
    ],
)
def test_workers_end_with_the_command_and_say_nothing(command, number, to_group, code, said):
    process, workers = command
    (os.killpg if to_group else os.kill)(process.pid, number)
    assert process.wait() == code
    wait_until_gone(workers)
    error = process.stderr.read()
    assert "Traceback" not in error
    assert said is None or error == said


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_workers_that_are_starting_do_not_hear_ctrl_c(command):
    """Before it runs any of our code a worker would print a traceback."""
    _, workers = command
    for number in workers:
        status = Path(f"/proc/{number}/status").read_text()
        blocked = int(status.split("SigBlk:")[1].split()[0], 16)
        assert blocked & 1 << (signal.SIGINT - 1)


def test_no_progress_bar_without_a_terminal(capfd):
    assert list(in_parallel(abs, [-1, -2], 1, "numbers")) == [1, 2]
    assert capfd.readouterr() == ("", "")
