import errno
import os
import subprocess
import sys

import pytest

from nnunet_cpr.files import read_json, read_yaml, remove_leftovers, write_json, write_text, write_whole


def test_text_and_json_arrive_and_leave_no_temporary_file(tmp_path):
    write_text(tmp_path / "a.txt", "κ")
    write_json(tmp_path / "b.json", {"a": [1]})
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "κ"
    assert (tmp_path / "b.json").read_text() == '{\n  "a": [\n    1\n  ]\n}\n'
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt", "b.json"]


@pytest.mark.parametrize("old", ["old content", None])
def test_a_full_disk_while_writing_leaves_the_old_file_or_none(tmp_path, old):
    path = tmp_path / "result.csv"
    if old is not None:
        path.write_text(old)
    with pytest.raises(OSError, match="No space left"), write_whole(path) as temporary:
        temporary.write_text("half of the new con")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert [p.read_text() for p in tmp_path.iterdir()] == ([] if old is None else [old])


def test_the_temporary_name_keeps_the_ending(tmp_path):
    with write_whole(tmp_path / "image.nii.gz") as temporary:
        assert temporary.name.endswith(".nii.gz")
        assert temporary.parent == tmp_path
        temporary.touch()


def test_leftovers_of_dead_processes_are_removed(tmp_path):
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    dead, own = f".{process.pid}-a.pth", f".{os.getpid()}-a.pth"  # in a new container numbers begin anew
    kept = {f".{os.getppid()}-a.pth", ".1-a.pth", "a.pth", ".hidden", f"{process.pid}-a.pth", f".{process.pid}-folder"}
    for name in (dead, own, *kept):
        (tmp_path / name).mkdir() if name.endswith("folder") else (tmp_path / name).touch()
    remove_leftovers(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == kept


DEEP = "[" * 100_000


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", DEEP.encode(), b"9" * 5000])
def test_damaged_json_is_one_line(tmp_path, content):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.json: not valid JSON: [^\n]+$"):
        read_json(path)


@pytest.mark.parametrize(
    "content", [b"a: [", b"\xff", DEEP.encode(), b"a: 2020-13-45", b"a: !!python/name:os.system", b"\0"]
)
def test_damaged_yaml_is_one_line(tmp_path, content):
    path = tmp_path / "a.yaml"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.yaml cannot be read: [^\n]+$"):
        read_yaml(path)


def test_yaml_as_it_is_written(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("a: [027, 1e-3]")
    assert (read_yaml(path), read_yaml(path, texts=True)) == ({"a": [23, "1e-3"]}, {"a": ["027", "1e-3"]})
