"""The locks of the GPUs are this user's alone, and lie where nobody else can put anything."""

import os
import stat
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from nnunet_cpr.batch import locks
from nnunet_cpr.batch.gpus import gpu_locks, guard_lock
from nnunet_cpr.batch.locks import take


@pytest.fixture(autouse=True)
def places(tmp_path, monkeypatch):
    for name in ("tmp", "runtime"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "runtime"))


def test_the_folder_is_private(tmp_path):
    first, second = gpu_locks(["0", "GPU-8f/1"])
    assert first.parent == tmp_path / "tmp" / f"nnunet-cpr-{os.getuid()}"
    assert stat.S_IMODE(first.parent.stat().st_mode) == 0o700
    assert second.parent == first.parent
    assert gpu_locks(["0"]) == [first]


def test_a_lock_that_is_taken_is_a_new_file_to_what_cleans_tmp():
    (path,) = gpu_locks(["0"])
    os.close(take(path))
    os.utime(path, (0, 0))
    os.close(take(path))
    assert path.stat().st_mtime > 0


@pytest.mark.parametrize("wanted", [(2, 2, 2, 2), (1, 2, 3, 2, 1), (3, 3)])
def test_some_of_three_are_taken_whole_and_by_nobody_else(monkeypatch, wanted):
    """Nobody waits for ever, whatever order they come in."""
    monkeypatch.setattr(locks, "POLL_SECONDS", 0.001)
    paths, guard, used, clashes = gpu_locks(["0", "1", "2"]), guard_lock(), set(), []

    def work(number):
        for _ in range(30):
            taken = locks.take_some_of(paths, number, guard, lambda: None)
            assert len(taken) == number
            clashes.extend(used & taken.keys())
            used.update(taken)
            time.sleep(0.0005)
            used.difference_update(taken)
            for descriptor in taken.values():
                os.close(descriptor)

    with ThreadPoolExecutor(len(wanted)) as pool:
        list(pool.map(work, wanted))
    assert not clashes and not used


def test_nothing_is_held_while_waiting_for_more(monkeypatch):
    paths, guard = gpu_locks(["0", "1", "2"]), guard_lock()
    others = [locks.take(path) for path in paths[:2]]
    said = []

    def wait(_):
        assert [locks.is_locked(path) for path in [*paths, guard]] == [True, True, False, False]
        os.close(others.pop())

    monkeypatch.setattr(locks.time, "sleep", wait)
    taken = locks.take_some_of(paths, 2, guard, lambda: said.append(1))
    assert sorted(taken) == [1, 2] and said == [1] and len(others) == 1
    for descriptor in [*taken.values(), *others]:
        os.close(descriptor)


def open_to_all(folder):
    folder.mkdir()
    folder.chmod(0o777)


def a_link(folder):
    (folder.parent.parent / "elsewhere").mkdir()
    folder.symlink_to(folder.parent.parent / "elsewhere")


def a_file(folder):
    folder.touch()


@pytest.mark.parametrize("spoil", [open_to_all, a_link, a_file])
def test_a_folder_that_is_not_private_is_passed_over(tmp_path, spoil):
    spoil(tmp_path / "tmp" / f"nnunet-cpr-{os.getuid()}")
    assert gpu_locks(["0"])[0].parent.parent == tmp_path / "runtime"


def test_a_strangers_folder_is_refused_where_there_is_no_other(tmp_path, monkeypatch):
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    own = os.getuid()
    monkeypatch.setattr("os.getuid", lambda: own + 1)  # only root could give a folder away
    (tmp_path / "tmp" / f"nnunet-cpr-{own + 1}").mkdir()
    with pytest.raises(OSError, match=r"^there is no place for the locks of the GPUs: .*TMPDIR") as error:
        gpu_locks(["0"])
    assert "\n" not in str(error.value)


def test_links_are_not_followed(tmp_path):
    (lock,) = gpu_locks(["0"])
    lock.symlink_to(tmp_path / "made-elsewhere")
    with pytest.raises(OSError):
        take(lock, wait=False)
    assert not (tmp_path / "made-elsewhere").exists()
