"""The CPU kernel is compiled, kept and loaded safely, and where that cannot be, torch alone is used without a word."""

import hashlib
import os
import shlex
import shutil
import signal
import stat
import subprocess
from pathlib import Path

import pytest
import torch
from optim_helpers import Pull, make

from nnunet_cpr.optim.fused import c_build

needs_kernel = pytest.mark.skipif(c_build.kernels() is None, reason="no C compiler, or not Linux")
COMPILER = shutil.which("cc") or "cc"


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """The folder of an empty cache, which is not there yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "nnunet-cpr"


@pytest.fixture
def temporary(monkeypatch, tmp_path):
    """An empty folder for temporary files."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


def library():
    found = c_build._kernels_or_reason.__wrapped__()
    return None if isinstance(found, str) else found


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """A cache that was filled once."""
    folder = tmp_path_factory.mktemp("compiled")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        assert library() is not None
    return folder / "nnunet-cpr"


@pytest.fixture
def filled(compiled, cache):
    """A cache like it; its library."""
    cache.parent.mkdir()
    shutil.copytree(compiled, cache)
    (built,) = cache.glob("*.so")
    return built


def files(folder):
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def script(folder, text):
    path = folder / "compiler"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o700)
    return str(path)


def train_without_kernel(monkeypatch):
    found = library()
    monkeypatch.setattr(c_build, "kernels", lambda: found)
    pull = Pull(dtype=torch.float32)
    params = pull.params()
    opt = make("Adam", params, "dependent", fused=True)
    pull.run(opt, params, 0, 40)
    assert float(opt.state[params[0]]["lagmul"]) > 0
    return found


class TestKept:
    pytestmark = needs_kernel

    def test_compiled_once(self, cache, monkeypatch):
        assert library() is not None
        assert [Path(name).suffix for name in files(cache)] == [".sha256", ".so"]
        monkeypatch.setenv("CC", "no-such-compiler")
        assert library() is not None

    @pytest.mark.parametrize("umask", [0, 0o002, 0o022, 0o077])
    def test_nobody_else_can_write_to_it(self, cache, monkeypatch, umask):
        before = os.umask(umask)
        try:
            assert library() is not None
        finally:
            os.umask(before)
        (built,) = cache.glob("*.so")
        assert (mode(cache), mode(built)) == (0o700, 0o700)
        monkeypatch.setenv("CC", "no-such-compiler")
        assert library() is not None

    @pytest.mark.parametrize("size", [0, 8000])
    def test_a_damaged_binary_is_built_again(self, filled, size):
        whole = filled.read_bytes()
        filled.write_bytes(whole[:size])
        assert library() is not None
        assert len(filled.read_bytes()) == len(whole)

    @pytest.mark.parametrize("content", [b"", b"0" * 64, bytes(range(200, 256)), None])
    def test_so_is_one_with_a_damaged_checksum(self, filled, content):
        checksum = filled.with_suffix(".sha256")
        if content is None:
            checksum.unlink()
        else:
            checksum.write_bytes(content)
        assert library() is not None
        assert checksum.read_text() == hashlib.sha256(filled.read_bytes()).hexdigest()

    def test_a_folder_in_the_place_of_the_checksum_is_no_reason_to_stop(self, filled):
        checksum = filled.with_suffix(".sha256")
        checksum.unlink()
        checksum.mkdir()
        assert library() is not None

    def test_a_link_to_a_cache_elsewhere_is_followed(self, cache, tmp_path):
        (tmp_path / "scratch").mkdir(mode=0o700)
        cache.parent.mkdir()
        cache.symlink_to(tmp_path / "scratch")
        assert library() is not None
        assert len(files(tmp_path / "scratch")) == 2


@pytest.fixture
def planted(filled, tmp_path):
    """A library in the cache, with the right checksum, that leaves a mark when it is loaded; the mark."""
    built = filled
    mark = tmp_path / "mark"
    source = tmp_path / "planted.c"
    source.write_text(
        "#include <stdio.h>\n"
        f'__attribute__((constructor)) static void leave(void) {{ FILE *f = fopen("{mark}", "w"); if (f) fclose(f); }}'
    )
    built.unlink()
    subprocess.run([COMPILER, "-shared", "-fPIC", str(source), "-o", str(built)], check=True)
    built.chmod(0o700)
    built.with_suffix(".sha256").write_text(hashlib.sha256(built.read_bytes()).hexdigest())
    return built, mark


@needs_kernel
class TestOutOfReach:
    """A library that somebody else may have put there is not loaded. The checksum lies beside it and proves nothing."""

    def test_the_mark_is_left_by_a_library_of_the_users_own(self, planted):
        _, mark = planted
        assert library() is not None
        assert mark.exists()

    @pytest.mark.parametrize("others", [0o020, 0o002, 0o022])
    def test_a_folder_that_others_can_write_to(self, planted, temporary, others):
        built, mark = planted
        built.parent.chmod(0o755 | others)
        before = built.stat().st_mtime_ns
        assert library() is not None  # compiled for this process
        assert not mark.exists()
        assert built.stat().st_mtime_ns == before
        assert list(temporary.glob("nnunet-cpr*")) == []

    @pytest.mark.parametrize("others", [0o020, 0o002])
    def test_a_file_that_others_can_write_to(self, planted, others):
        built, mark = planted
        built.chmod(0o700 | others)
        assert library() is not None
        assert not mark.exists()
        assert mode(built) == 0o700  # it was replaced

    def test_a_link_to_a_file(self, planted, tmp_path):
        built, mark = planted
        built.rename(tmp_path / "elsewhere.so")
        built.symlink_to(tmp_path / "elsewhere.so")
        assert library() is not None
        assert not mark.exists()
        assert not built.is_symlink()

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
    @pytest.mark.parametrize("whose", ["folder", "file"])
    def test_what_belongs_to_somebody_else(self, planted, whose):
        built, mark = planted
        os.chown(built.parent if whose == "folder" else built, 65534, 65534)
        assert library() is not None
        assert not mark.exists()

    def test_what_belongs_to_somebody_else_as_seen_by_another_user(self, planted, monkeypatch):
        _, mark = planted
        uid = os.geteuid()
        monkeypatch.setattr(os, "geteuid", lambda: uid + 1)
        assert library() is None  # the temporary folder is not this user's either
        assert not mark.exists()

    def test_a_folder_that_anybody_can_replace(self, planted, tmp_path):
        _, mark = planted
        tmp_path.chmod(0o777)
        try:
            assert library() is not None
            assert not mark.exists()
            tmp_path.chmod(0o1777)  # as /tmp
            assert library() is not None
            assert mark.exists()
        finally:
            tmp_path.chmod(0o700)

    def test_no_path_that_depends_on_the_working_directory(self, planted, tmp_path, monkeypatch):
        _, mark = planted
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("XDG_CACHE_HOME", "cache")
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        assert library() is not None
        assert not mark.exists()
        assert len(files(tmp_path / "home" / ".cache" / "nnunet-cpr")) == 2


@needs_kernel
class TestNoCache:
    """Then each process compiles for itself, in a folder that is gone afterwards."""

    @pytest.fixture(autouse=True)
    def _nothing_is_left(self, temporary, recwarn):
        yield
        assert list(temporary.glob("nnunet-cpr*")) == []
        assert not recwarn.list

    def test_a_folder_that_cannot_be_made(self, monkeypatch, tmp_path):
        (tmp_path / "file").write_text("")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
        assert train_without_kernel(monkeypatch) is not None

    def test_a_file_in_the_place_of_the_folder(self, cache):
        cache.parent.mkdir()
        cache.write_text("")
        assert library() is not None

    @pytest.mark.parametrize("home", [None, "", "relative"])
    def test_no_home_folder(self, monkeypatch, tmp_path, home):
        monkeypatch.chdir(tmp_path)
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
        if home is None:  # of a user without an entry in /etc/passwd, as in containers
            monkeypatch.delenv("HOME")
            monkeypatch.setattr("pwd.getpwuid", lambda uid: {}[uid])
        else:
            monkeypatch.setenv("HOME", home)
        before = files(tmp_path)
        assert library() is not None
        assert files(tmp_path) == before

    def test_a_disk_that_is_full(self, cache, tmp_path, monkeypatch):
        """As seen by a compiler that cannot write there."""
        text = f'case "$*" in *{cache}*) echo "No space left on device" >&2; exit 1;; esac; exec {COMPILER} "$@"'
        monkeypatch.setenv("CC", script(tmp_path, text))
        assert library() is not None
        assert files(cache) == []


class TestCompiler:
    @pytest.fixture(autouse=True)
    def _nothing_is_left(self, cache, temporary, recwarn):
        yield
        assert list(temporary.glob("nnunet-cpr*")) == []
        assert not recwarn.list

    @pytest.mark.parametrize(
        "compiler", ["no-such-compiler", "false", "true", "cc '", "echo", "cat", "/", "cc -no-such-flag", "-c", "cc -E"]
    )
    def test_none_or_one_that_fails_is_silent(self, compiler, monkeypatch, cache, capfd):
        monkeypatch.setenv("CC", compiler)
        assert train_without_kernel(monkeypatch) is None
        assert files(cache) == []
        assert capfd.readouterr() == ("", "")

    @needs_kernel
    @pytest.mark.parametrize("compiler", ["", " ", "\t", "cc -O1", "env LANG=C cc", "'cc'"])
    def test_spaces_and_arguments(self, compiler, monkeypatch, cache):
        monkeypatch.setenv("CC", compiler)
        assert library() is not None
        assert len(files(cache)) == 2

    @needs_kernel
    def test_one_that_hangs_is_stopped_with_its_children(self, monkeypatch, tmp_path, cache):
        """The child holds the pipe that the output would come through."""
        pid = tmp_path / "pid"
        monkeypatch.setenv("CC", script(tmp_path, f"sleep 600 & echo $! > {shlex.quote(str(pid))}; wait"))
        monkeypatch.setattr(c_build, "_TIMEOUT", 1.0)
        assert train_without_kernel(monkeypatch) is None
        assert files(cache) == []
        child = int(pid.read_text())
        try:
            state = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return
        assert state == "Z"  # not yet buried by its new parent

    @needs_kernel
    @pytest.mark.parametrize(
        "change",
        [
            r"s/mc\[i\] = b1/mc[i] = 0.99f * b1/",
            r"s/mu \* bc\[i\]/bc[i]/",
            r"s/s.part\[part\] += x \* x/s.part[part] += x/",
            r"s/^#include <math.h>/__attribute__((constructor)) static void f(void) { __builtin_trap(); }\n&/",
            r"s/^int sgd(/int other(/",
        ],
        ids=["wrong Adam", "wrong SGD", "wrong sums", "crash", "no SGD"],
    )
    def test_one_whose_library_disagrees(self, change, monkeypatch, tmp_path, cache, caplog):
        """The damage is done to the source on its way to the real compiler."""
        text = (
            'for word; do shift; case "$word" in *.c) '
            f'sed {shlex.quote(change)} "$word" > {tmp_path}/changed.c; word={tmp_path}/changed.c;; esac; '
            f'set -- "$@" "$word"; done; exec {COMPILER} "$@"'
        )
        monkeypatch.setenv("CC", script(tmp_path, text))
        caplog.set_level("INFO", "nnunet_cpr.optim.fused.c_build")
        assert train_without_kernel(monkeypatch) is None
        assert (tmp_path / "changed.c").read_text() != c_build._SOURCE.read_text()
        assert files(cache) == []
        assert "c_selfcheck.py" in caplog.text

    @needs_kernel
    def test_one_whose_library_never_returns(self, monkeypatch, tmp_path, cache):
        endless = '__attribute__((constructor)) static void f(void) { for (;;) __asm__(""); }'
        (tmp_path / "endless.c").write_text(endless)
        linked = f'case "$*" in *-shared*) set -- {tmp_path}/endless.c "$@";; esac; exec {COMPILER} "$@"'
        monkeypatch.setenv("CC", script(tmp_path, linked))
        monkeypatch.setattr(c_build, "_TIMEOUT", 5.0)
        assert library() is None
        assert files(cache) == []

    @needs_kernel
    def test_interrupted(self, monkeypatch, tmp_path, cache):
        monkeypatch.setenv("CC", script(tmp_path, f"kill -INT {os.getpid()}; sleep 600"))
        previous = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            with pytest.raises(KeyboardInterrupt):
                library()
        finally:
            signal.signal(signal.SIGINT, previous)
        assert files(cache) == []
