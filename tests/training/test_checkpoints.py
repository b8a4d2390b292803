"""Checkpoints as files: whole or not at all, broken ones noticed and kept apart."""

import os
import random
import resource
import shutil
import signal
import sys
import zipfile

import numpy as np
import pytest
import torch

from nnunet_cpr.files import remove_leftovers
from nnunet_cpr.training import checkpoints
from nnunet_cpr.training.checkpoints import BEST, FINAL, LATEST, PREVIOUS, Pace, damage, newest_intact, open_whole


def content(epoch):
    generator = torch.Generator().manual_seed(epoch)
    return {
        "network_weights": {name: torch.randn(5, generator=generator) for name in ("a", "b")},
        "logging": {"lrs": [0.1] * epoch, "dice": [np.float32(0.5)]},
        "current_epoch": epoch,
        "_best_ema": None,
    }


def save(path, epoch):
    with open_whole(path) as file:
        torch.save(content(epoch), file)
    return path


def load(path):
    return torch.load(path, weights_only=False)


def equal(first, second):
    weights = (first.pop("network_weights"), second.pop("network_weights"))
    return first == second and all(torch.equal(weights[0][name], weights[1][name]) for name in ("a", "b"))


def names(folder):
    return {path.name for path in folder.iterdir()}


# what is broken


def test_every_flipped_bit_is_noticed_or_harmless(tmp_path):
    """The bits of a small checkpoint, one bit of each byte: torch alone loads many of these files as if intact."""
    path = save(tmp_path / "checkpoint.pth", 3)
    good = path.read_bytes()
    generator = random.Random(0)
    noticed = 0
    for position in range(len(good)):
        flipped = bytearray(good)
        flipped[position] ^= 1 << generator.randrange(8)
        path.write_bytes(flipped)
        if damage(path) is None:
            assert equal(load(path), content(3)), position
        else:
            noticed += 1
    assert noticed > len(good) / 2
    path.write_bytes(good)
    assert damage(path) is None


def test_every_truncation_is_noticed(tmp_path):
    path = save(tmp_path / "checkpoint.pth", 3)
    good = path.read_bytes()
    for length in range(len(good)):
        path.write_bytes(good[:length])
        assert damage(path)


def test_a_flipped_bit_that_makes_weights_a_folder(tmp_path):
    """Its checksum matches, as Python reads it; torch reads uninitialized memory."""
    path = save(tmp_path / "checkpoint.pth", 3)
    with zipfile.ZipFile(path) as archive:
        table = archive.start_dir
    flipped = bytearray(path.read_bytes())
    flipped[flipped.index(b"archive/data/0", table) - 46 + 38] ^= 0x10  # external attributes
    path.write_bytes(flipped)
    assert damage(path) == "its table of contents calls a record a folder"


@pytest.mark.parametrize(
    "bytes_",
    [b"", b"\0" * 5000, b"not a checkpoint", random.Random(0).randbytes(3000)],
    ids=["empty", "zeros", "text", "noise"],  # bytes in a name may differ between pytest's workers
)
def test_other_files_are_broken(tmp_path, bytes_):
    path = tmp_path / "checkpoint.pth"
    path.write_bytes(bytes_)
    assert damage(path) == "File is not a zip file"


def test_what_is_not_the_files_fault_is_raised(tmp_path, monkeypatch):
    """A good file must not be put aside because it was written with a newer library, or cannot be read just now."""
    path = save(tmp_path / "checkpoint.pth", 1)
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    records["archive/data.pkl"] = records["archive/data.pkl"].replace(b"torch._utils", b"torch._later")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, record in records.items():
            archive.writestr(name, record)
    assert damage(path) is None  # whoever loads it says what is missing
    with pytest.raises(FileNotFoundError):
        damage(tmp_path / "absent.pth")

    def stale(*_, **__):
        raise OSError(116, "Stale file handle")

    monkeypatch.setattr(zipfile, "ZipFile", stale)
    with pytest.raises(OSError, match="Stale"):
        damage(path)


# which one to resume from


def test_order_is_nnunets_with_the_previous_after_the_latest(tmp_path):
    for epoch, name in enumerate((BEST, PREVIOUS, LATEST, FINAL)):
        (tmp_path / name).write_bytes(save(tmp_path / "any.pth", epoch).read_bytes())
        assert newest_intact(tmp_path) == (tmp_path / name, [])


def test_broken_ones_are_passed_over_and_kept(tmp_path):
    save(tmp_path / BEST, 2)
    for name in (FINAL, LATEST, PREVIOUS):
        (tmp_path / name).write_bytes(name.encode())
    chosen, broken = newest_intact(tmp_path)
    assert chosen == tmp_path / BEST
    assert broken == [
        f"{name} is broken (File is not a zip file) and was renamed to {name}.broken."
        for name in (FINAL, LATEST, PREVIOUS)
    ]
    assert names(tmp_path) == {BEST} | {f"{name}.broken" for name in (FINAL, LATEST, PREVIOUS)}
    assert (tmp_path / f"{LATEST}.broken").read_bytes() == LATEST.encode()
    (tmp_path / BEST).write_bytes(b"")
    chosen, broken = newest_intact(tmp_path)
    assert chosen is None and len(broken) == 1


# writing


def test_the_latest_leaves_the_one_before(tmp_path):
    for epoch in (1, 2, 3):
        save(tmp_path / LATEST, epoch)
        save(tmp_path / BEST, epoch)
    assert load(tmp_path / LATEST)["current_epoch"] == 3
    assert load(tmp_path / PREVIOUS)["current_epoch"] == 2
    assert names(tmp_path) == {LATEST, PREVIOUS, BEST}


def in_child(function):
    """Run it in a forked process; returns what os.waitpid says of its end."""
    child = os.fork()
    if child == 0:
        try:
            function()
        finally:
            os._exit(0)
    return os.waitpid(child, 0)[1]


def killed_at(number):
    """Let this process be killed by SIGKILL when it reaches that call of the file system."""
    calls = [0]

    def counting(function):
        def call(*args, **kwargs):
            if calls[0] == number:
                os.kill(os.getpid(), signal.SIGKILL)
            calls[0] += 1
            return function(*args, **kwargs)

        return call

    os.fsync, os.replace = counting(os.fsync), counting(os.replace)
    save_ = torch.save

    def save_in_pieces(obj, file):
        class Pieces:
            write, flush = staticmethod(counting(file.write)), file.flush

        save_(obj, Pieces)

    torch.save = save_in_pieces


@pytest.mark.skipif(sys.platform == "win32", reason="forks")
def test_killed_at_any_point_of_a_save(tmp_path):
    """Whatever is on the disk afterwards, the latest intact checkpoint is whole and the new one or the last."""
    (tmp_path / "before").mkdir()
    save(tmp_path / "before" / LATEST, 1)
    save(tmp_path / "before" / LATEST, 2)
    survived = []
    for point in range(1000):
        folder = shutil.copytree(tmp_path / "before", tmp_path / str(point))

        def save_third(point=point, folder=folder):
            killed_at(point)
            save(folder / LATEST, 3)

        status = in_child(save_third)
        chosen, broken = newest_intact(folder)
        assert broken == []
        epoch = load(chosen)["current_epoch"]
        assert equal(load(chosen), content(epoch))
        remove_leftovers(folder)
        assert names(folder) <= {LATEST, PREVIOUS}
        if status == 0:
            assert epoch == 3
            break
        assert os.WTERMSIG(status) == signal.SIGKILL
        survived.append(epoch)
    assert len(survived) > 10 and set(survived) == {2}  # the last of these calls is what makes the new one visible
    assert point == len(survived)


@pytest.mark.skipif(sys.platform == "win32", reason="forks")
@pytest.mark.parametrize("room", [0, 1500, 100_000, 400_000])
def test_a_full_disk_is_told_as_such_and_leaves_the_old_file(tmp_path, room):
    """torch speaks of unexpected positions instead."""
    save(tmp_path / LATEST, 1)

    def save_with_little_room():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
        try:
            with open_whole(tmp_path / LATEST) as file:
                torch.save(torch.zeros(100_000), file)
        except OSError as error:
            if error.strerror == "File too large":
                os._exit(42)

    assert os.waitstatus_to_exitcode(in_child(save_with_little_room)) == 42
    assert names(tmp_path) == {LATEST}
    assert equal(load(tmp_path / LATEST), content(1))


def test_other_errors_while_saving_are_not_hidden(tmp_path):
    with pytest.raises(RuntimeError, match="CUDA error"), open_whole(tmp_path / LATEST):
        raise RuntimeError("CUDA error")
    assert names(tmp_path) == set()


# how often


@pytest.mark.parametrize(("epoch", "cost"), [(10.0, 0.1), (10.0, 3.0), (0.1, 0.1), (100.0, 1.9)])
def test_saving_takes_a_small_share_of_the_time(monkeypatch, epoch, cost):
    now = [0.0]
    monkeypatch.setattr(checkpoints.time, "monotonic", lambda: now[0])
    pace, saves, longest, since = Pace(), 0, 0.0, 0.0
    for number in range(5000):
        now[0] += epoch
        since += epoch
        if pace.due():
            with pace.saving():
                now[0] += cost
            saves += 1
            longest, since = max(longest, since), 0.0
        assert number > 0 or saves == 1  # the first epoch is saved in any case
    assert saves * cost <= 0.02 * now[0] + cost
    assert longest <= cost / 0.02 + epoch


class Touch:
    """A pickle that makes a folder when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_looking_for_damage_runs_nothing(tmp_path):
    path = tmp_path / "checkpoint.pth"
    torch.save(content(1) | {"more": Touch(tmp_path / "executed")}, path)
    assert damage(path) is None  # it is as it was saved
    assert not (tmp_path / "executed").exists()
    load(path)
    assert (tmp_path / "executed").exists()  # torch's plain load does run it


def test_a_missing_record_is_noticed_beside_numpys_numbers(tmp_path):
    """nnU-Net's logs consist of these; a check that stops at them would not come to the weights."""
    path = tmp_path / "checkpoint.pth"
    numbers = [np.float64(1), np.float32(2), np.float16(3), np.int64(4), np.int32(5), np.bool_(True)]
    torch.save({"logging": numbers, "network_weights": {"a": torch.ones(3)}}, path)
    assert damage(path) is None
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist() if not name.endswith("data/0")}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, record in records.items():
            archive.writestr(name, record)
    assert "data/0" in damage(path)


def test_another_archive_is_damaged(tmp_path):
    with zipfile.ZipFile(tmp_path / "checkpoint.pth", "w") as archive:
        archive.writestr("a", "b")
    assert "file in archive is not in a subdirectory" in damage(tmp_path / "checkpoint.pth")
