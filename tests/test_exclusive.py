"""One process at a time in an output folder, whatever becomes of the process."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time

import pytest

from nnunet_cpr.exclusive import LOCK_FILE, exclusive, held

HOLDER = """
import subprocess, sys, time
from pathlib import Path
from nnunet_cpr.exclusive import exclusive, held
with exclusive(Path(sys.argv[1])):
    if len(sys.argv) > 2:
        command = [sys.executable, "-c", "import time; print(flush=True); time.sleep(60)"]
        child = subprocess.Popen(command, pass_fds=held() if sys.argv[2] == "inherits" else ())
        print(child.pid, flush=True)
    print("held", flush=True)
    time.sleep(60)
"""


def hold(folder, *how):
    """Start a process that holds the folder; return it and its child's number, if it has a child."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, folder, *how], stdout=subprocess.PIPE, text=True)
    numbers = [line for line in iter(process.stdout.readline, "held\n") if line.strip()]
    return process, *map(int, numbers)


def test_a_second_process_is_refused_and_a_killed_one_lets_go(tmp_path):
    folder = tmp_path / "out"
    process, *_ = hold(folder)
    with (
        pytest.raises(ValueError, match=r"out is in use by another process; .* or choose another folder"),
        exclusive(folder),
    ):
        pass
    process.kill()
    process.wait()
    assert (folder / LOCK_FILE).exists()
    with exclusive(folder):
        (folder / "result").touch()
    assert [path.name for path in folder.iterdir()] == ["result"]


@pytest.mark.parametrize("inherits", [True, False])
def test_a_child_that_works_on_keeps_the_folder_if_it_is_told_so(tmp_path, inherits):
    process, child = hold(tmp_path, "inherits" if inherits else "does not")
    process.kill()
    process.wait()
    try:
        if inherits:
            with pytest.raises(ValueError, match="in use"), exclusive(tmp_path):
                pass
        else:
            with exclusive(tmp_path):
                pass
    finally:
        os.kill(child, signal.SIGKILL)
    for _ in range(100):  # it ends a moment later
        try:
            with exclusive(tmp_path):
                return
        except ValueError:
            time.sleep(0.1)
    pytest.fail("the folder was never free")


def _fork(folder, barrier, results):
    results.put(held())
    barrier.wait()
    barrier.wait()


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork here")
def test_a_forked_worker_does_not_keep_the_folder(tmp_path):
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(2), context.Queue()
    with exclusive(tmp_path):
        worker = context.Process(target=_fork, args=(tmp_path, barrier, results))
        worker.start()
        assert results.get(timeout=60) == ()
        assert len(held()) == 1
    barrier.wait()
    with exclusive(tmp_path):
        barrier.wait()
    worker.join()


def test_a_folder_that_stays_empty_is_not_left_behind(tmp_path):
    with pytest.raises(ValueError, match="wrong"), exclusive(tmp_path / "a" / "b"):
        raise ValueError("wrong")
    assert not list(tmp_path.iterdir())
    (tmp_path / "mine").mkdir()
    with exclusive(tmp_path / "mine"):
        pass
    assert not list((tmp_path / "mine").iterdir())


@pytest.mark.parametrize(
    ("function", "error"),
    [*((name, KeyboardInterrupt()) for name in ("mkdir", "open", "write")), ("write", OSError(28, "No space left"))],
)
@pytest.mark.parametrize("existed", [False, True])
def test_a_stop_while_the_folder_is_made_leaves_nothing(tmp_path, monkeypatch, function, error, existed):
    real = getattr(os, function)

    def stopped(*arguments, **more):
        real(*arguments, **more)
        monkeypatch.undo()
        raise error

    folder = tmp_path / "out"
    if existed:
        folder.mkdir()
    monkeypatch.setattr(os, function, stopped)
    with pytest.raises(type(error)), exclusive(folder / "new" / "report"):
        pass
    assert [path.name for path in tmp_path.rglob("*")] == ["out"] * existed
    assert not held()


@pytest.mark.parametrize("function", ["unlink", "rmdir"])
@pytest.mark.parametrize("before", [True, False])
def test_a_stop_while_the_folder_is_let_go_leaves_nothing(tmp_path, monkeypatch, function, before):
    real = getattr(os, function)

    def stopped(*arguments, **more):
        monkeypatch.undo()
        if not before:
            real(*arguments, **more)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), exclusive(tmp_path / "new" / "report"):
        monkeypatch.setattr(os, function, stopped)
    assert not list(tmp_path.iterdir()) and not held()


def test_what_is_no_folder_is_refused_by_name(tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(ValueError, match="out is not a folder; choose another one"), exclusive(tmp_path / "out"):
        pass
    assert (tmp_path / "out").read_text() == "mine"


def test_nothing_is_made_through_a_planted_link(tmp_path):
    (tmp_path / LOCK_FILE).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match=str(tmp_path)), exclusive(tmp_path):
        pass
    assert not (tmp_path / "elsewhere").exists()
