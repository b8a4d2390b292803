"""Stop signals in small processes: noted once, given back, and what they do to augmentation workers."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from nnunet_cpr.training import stopping
from nnunet_cpr.training.stopping import SIGNALS, Stopped, StopSignals


def handlers():
    return [signal.getsignal(number) for number in SIGNALS]


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_is_noted_and_handlers_are_given_back(number):
    before = handlers()
    with StopSignals() as signals:
        assert signals.received is None
        os.kill(os.getpid(), number)
        assert signals.received == number.name
    assert handlers() == before


def test_an_error_inside_gives_the_handlers_back_too():
    before = handlers()
    with pytest.raises(KeyError), StopSignals():
        raise KeyError
    assert handlers() == before


def test_stopped_is_exit_code_75():
    with pytest.raises(SystemExit) as stopped:
        raise Stopped
    assert stopped.value.code == 75 == os.EX_TEMPFAIL


def test_signals_of_one_request_count_once_and_a_later_one_acts(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(stopping.time, "monotonic", lambda: now[0])
    with StopSignals() as signals:
        os.kill(os.getpid(), signal.SIGTERM)
        now[0] += 1
        os.kill(os.getpid(), signal.SIGINT)  # a parent's death, say
        assert signals.received == "SIGTERM"
        now[0] += 2
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_what_is_ignored_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with StopSignals() as signals:
            os.kill(os.getpid(), signal.SIGINT)
            assert signals.received is None
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_another_thread_leaves_the_handlers_alone():
    seen = []

    def enter():
        with StopSignals():
            seen.append(handlers())

    before = handlers()
    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert seen == [before]


def test_at_once():
    seen = []
    with StopSignals(at_once=seen.append):
        os.kill(os.getpid(), signal.SIGUSR1)
        os.kill(os.getpid(), signal.SIGUSR1)
    assert seen == ["SIGUSR1"]


# forked workers; this one answers, which proves that it lives

WITH_WORKER = """
import multiprocessing, os, sys, threading, time
from nnunet_cpr.training import stopping

def answer(pipe):
    while True:
        pipe.send(pipe.recv())

fork = multiprocessing.get_context("fork")
stopping.WORKERS_GRACE = 0.1 if sys.argv[1] == "short" else 60
with stopping.StopSignals() as signals:
    here, there = multiprocessing.Pipe()
    worker = fork.Process(target=answer, args=(there,), daemon=True)
    worker.start()
    here.send("alive")
    here.recv()
    print(worker.pid, flush=True)
"""
STOP = """
    while signals.received is None:
        time.sleep(0.01)
    here.send("alive")
    print(here.recv(), signals.received, flush=True)
    os._exit(75)
"""
TERMINATE = """
    worker.terminate()
    worker.join()
    print(-worker.exitcode)
"""
SLEEP = """
    time.sleep(60)
"""
FORK_IN_A_THREAD = """
    others = [fork.Process(target=time.sleep, args=(60,))]
    thread = threading.Thread(target=others[0].start)
    thread.start()
    thread.join()
    time.sleep(0.3)
    print(others[0].is_alive())
    others[0].kill()
"""


def start(then, grace="long"):
    process = subprocess.Popen([sys.executable, "-c", WITH_WORKER + then, grace], stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True, start_new_session=True)  # fmt: skip
    return process, int(process.stdout.readline())


def is_gone(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@linux
@pytest.mark.parametrize("number", SIGNALS)
def test_workers_outlive_a_signal_to_the_whole_group(number):
    process, _ = start(STOP)
    os.killpg(process.pid, number)
    assert process.communicate(timeout=60) == (f"alive {number.name}\n", "")
    assert process.returncode == 75


@linux
def test_multiprocessing_can_end_workers():
    """It terminates them and then waits for them, for ever if they ignored it."""
    process, worker = start(TERMINATE, grace="short")
    assert process.communicate(timeout=60) == (f"{signal.SIGALRM:d}\n", "")
    assert is_gone(worker)


@linux
def test_a_killed_training_takes_its_workers_with_it():
    process, worker = start(SLEEP)
    assert not is_gone(worker)
    process.kill()
    process.communicate()
    for _ in range(6000):
        if is_gone(worker):
            return
        time.sleep(0.01)
    pytest.fail("the worker is still there")


@linux
def test_what_other_threads_fork_is_left_alone():
    """Linux kills a child when the thread that forked it ends; a helper's child must outlive the helper."""
    process, _ = start(FORK_IN_A_THREAD, grace="short")
    assert process.communicate(timeout=60) == ("True\n", "")
