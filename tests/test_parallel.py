import multiprocessing
import os
import subprocess
import sys

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


def test_no_progress_bar_without_a_terminal(capfd):
    assert list(in_parallel(abs, [-1, -2], 1, "numbers")) == [1, 2]
    assert capfd.readouterr() == ("", "")
