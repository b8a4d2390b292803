"""The locks of the GPUs are this user's alone, and lie where nobody else can put anything."""

import os
import stat

import pytest

from nnunet_cpr.batch.gpus import gpu_locks
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
