import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from nnunet_cpr import files
from nnunet_cpr.files import (
    make_nnunet_folders_absolute,
    read_json,
    remove_leftovers,
    user_path,
    write_json,
    write_text,
    write_whole,
)


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
    number = process.pid
    ours = f".nnunet-cpr-{number}-0123456789ab"
    # As the first release candidate named them; in a new container numbers begin anew.
    old = {f".{number}-a.pth", f".{os.getpid()}-a.pth"}
    kept = {f".{os.getppid()}-a.pth", ".1-a.pth", "a.pth", ".hidden", f"{number}-a.pth", f".{number}-folder"}
    kept |= {f".{number}-notes.txt", ".nnunet-cpr-notes", f".nnunet-cpr-{number}-notes", f"{ours}-folder"}
    for name in (f"{ours}-a.pth", *old, *kept):
        (tmp_path / name).mkdir() if name.endswith("folder") else (tmp_path / name).touch()
    remove_leftovers(tmp_path, ["a.pth", "folder"])
    assert {path.name for path in tmp_path.iterdir()} == kept
    remove_leftovers(tmp_path / "nowhere")


WRITING = """
import sys, time
from pathlib import Path
from nnunet_cpr.files import write_whole
with write_whole(Path(sys.argv[1])) as temporary:
    temporary.write_text("half")
    print(temporary.name, flush=True)
    time.sleep(600)
"""


def test_what_another_process_is_writing_is_no_leftover_until_it_is_killed(tmp_path):
    command = [sys.executable, "-c", WRITING, str(tmp_path / "a.csv")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        name = process.stdout.readline().strip()
        remove_leftovers(tmp_path)
        left = [path.name for path in tmp_path.iterdir()]
        process.kill()
    assert left == [name]
    assert [path.name for path in tmp_path.iterdir()] == [name]
    remove_leftovers(tmp_path)
    assert not list(tmp_path.iterdir())


def test_nothing_is_written_through_a_planted_link(tmp_path, monkeypatch):
    precious = tmp_path / "precious"
    precious.write_text("mine")
    monkeypatch.setattr(files.secrets, "token_hex", lambda _: "0123456789ab")  # as if it could be foreseen
    (tmp_path / f".nnunet-cpr-{os.getpid()}-0123456789ab-a.csv").symlink_to(precious)
    with pytest.raises(FileExistsError, match=r"a\.csv"):
        write_text(tmp_path / "a.csv", "new")
    assert precious.read_text() == "mine"


def test_temporary_names_cannot_be_foreseen(tmp_path):
    names = set()
    for _ in range(2):
        with write_whole(tmp_path / "a.csv") as temporary:
            names.add(temporary.name)
    assert len(names) == 2


def test_a_link_is_replaced_and_what_it_points_to_stays(tmp_path):
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_text("kept")
    link.symlink_to(target)
    write_text(link, "new")
    assert (target.read_text(), link.read_text(), link.is_symlink()) == ("kept", "new", False)


def test_a_pipe_gets_the_content_and_stays(tmp_path):
    path = tmp_path / "pipe.png"
    os.mkfifo(path)
    reader = subprocess.Popen(["cat", path], stdout=subprocess.PIPE)
    write_text(path, "some text")
    assert reader.communicate()[0] == b"some text"
    assert path.is_fifo()
    assert [entry.name for entry in tmp_path.iterdir()] == ["pipe.png"]


def test_a_device_stays_a_device(tmp_path):
    """Who runs as root, as in a container, must not lose /dev/null to `--json /dev/null`."""
    device, name = tmp_path / "null", tmp_path / "link"
    try:
        os.mknod(device, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("only root makes devices")
    name.symlink_to(device)
    for path in (device, name):
        write_text(path, "nothing of this is kept")
        assert path.is_char_device() and path.read_bytes() == b""


def test_files_get_the_mode_that_the_umask_gives(tmp_path):
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "a.csv", "")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.csv").stat().st_mode) == 0o640


def test_the_longest_names_can_be_written(tmp_path):
    for name in ("é" * 120 + ".nii.gz", "a" * 248 + ".nii.gz"):
        write_text(tmp_path / name, "content")
        assert (tmp_path / name).read_text() == "content"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs Linux")
def test_a_full_disk_says_which_file(tmp_path):
    with pytest.raises(OSError) as error, write_whole(tmp_path / "a.csv"), open("/dev/full", "w") as file:
        file.write("new")
    assert error.value.errno == errno.ENOSPC and str(tmp_path / "a.csv") in str(error.value)
    with pytest.raises(FileNotFoundError, match=r"nowhere/a\.csv'$"):
        write_text(tmp_path / "nowhere" / "a.csv", "new")


def test_a_name_that_is_not_text_can_be_written(tmp_path):
    write_text(tmp_path / "a.csv", os.fsdecode(b"c\xff1"))
    assert (tmp_path / "a.csv").read_text() == r"c\udcff1"


def test_paths_of_users(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert user_path("~/a") == user_path("~/a", tmp_path) == Path("/home/me/a")
    assert user_path("a/~", tmp_path) == tmp_path / "a" / "~"
    assert user_path("./~/a", tmp_path) == tmp_path / "~" / "a"
    for text, reason in (("", "is empty"), ("a\0", "is not a path"), ("~nobody-here/a", "~nobody-here is not")):
        with pytest.raises(ValueError, match=reason):
            user_path(text)


def test_without_a_home_folder_only_a_path_that_needs_it_is_refused(monkeypatch):
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", lambda _: {}[0])  # a container's user without an entry
    assert user_path("a") == Path("a")
    with pytest.raises(ValueError, match="the home folder ~ is not known here"):
        user_path("~/a")


def test_nnunets_folders_may_be_in_the_home_folder_or_relative():
    home = os.path.expanduser("~")
    environment = {"nnUNet_raw": "~/raw", "nnUNet_extTrainer": "~/a:/b:~/c", "nnUNet_results": "/r", "OTHER": "~"}
    make_nnunet_folders_absolute(environment)
    expected = {"nnUNet_raw": f"{home}/raw", "nnUNet_extTrainer": f"{home}/a:/b:{home}/c"}
    assert environment == {**expected, "nnUNet_results": "/r", "OTHER": "~"}
    here = os.getcwd()  # a batch starts its jobs in another folder
    environment = {"nnUNet_raw": "raw", "nnUNet_extTrainer": "a:/b::c", "nnUNet_results": ""}
    make_nnunet_folders_absolute(environment)
    expected = {"nnUNet_raw": f"{here}/raw", "nnUNet_extTrainer": f"{here}/a:/b::{here}/c"}
    assert environment == {**expected, "nnUNet_results": ""}
    with pytest.raises(ValueError, match=r"^nnUNet_raw is ~nobody-here/raw: the home folder ~nobody-here is not known"):
        make_nnunet_folders_absolute({"nnUNet_raw": "~nobody-here/raw"})


DEEP = "[" * 100_000


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", DEEP.encode(), b"9" * 5000])
def test_damaged_json_is_one_line(tmp_path, content):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.json: not valid JSON: [^\n]+$"):
        read_json(path)


def test_a_line_break_in_nnunets_folders_is_one_line():
    with pytest.raises(ValueError, match=r"^nnUNet_results is '/data\\n', which holds a line break[^\n]+$"):
        make_nnunet_folders_absolute({"nnUNet_results": "/data\n"})
    make_nnunet_folders_absolute({"nnUNet_results": "/Größe/数据 1\udcff"})


def test_a_pipe_is_named_instead_of_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.json")
    with pytest.raises(ValueError, match=r"a\.json is a pipe, not a file"):
        files.read_json(tmp_path / "a.json")
