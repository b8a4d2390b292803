"""How commands end: exit codes, one line, whatever the terminal can show and whoever reads."""

import os
import signal
import subprocess
import sys

import pytest

from nnunet_cpr.terminal import is_out_of_memory, run_command

PROGRAM = """
import os, signal, sys, time
from nnunet_cpr.terminal import run_command
def work():
    {work}
    return 0
sys.exit(run_command("program", work))
"""


def run(work: str, **settings) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM.replace("{work}", work)], capture_output=True, text=True, **settings
    )


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ValueError("wrong"), 2, "program: error: wrong"),
        (
            OSError(28, "No space left on device", "a.csv"),
            2,
            "program: error: [Errno 28] No space left on device: 'a.csv'",
        ),
        (UnicodeEncodeError("utf-8", "c\udcff", 1, 2, "?"), 2, r"program: error: 'c\udcff' is not text in utf-8"),
        (
            UnicodeEncodeError("utf-8", "x" * 999 + "/a/b\udcff/c.csv" + "x" * 999, 1003, 1004, "?"),
            2,
            rf"program: error: '{96 * 'x'}/a/b\udcff/c.csv{93 * 'x'}' is not text in utf-8",
        ),
        (MemoryError(), 2, "program: error: there is not enough memory; "),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), 2, "program: error: there is not enough memory; "),
        (KeyboardInterrupt(), 130, "program: interrupted"),
    ],
)
def test_one_line_for_what_went_wrong(error, code, line, capsys):
    def work() -> int:
        raise error

    assert run_command("program", work) == code
    written = capsys.readouterr()
    assert written.err.startswith(line) and written.err.count("\n") == 1 and not written.out


def test_a_fault_of_ours_is_not_hidden(capsys):
    for error in (RuntimeError("bug"), ZeroDivisionError()):

        def work(error=error) -> int:
            raise error

        with pytest.raises(type(error)):
            run_command("program", work)


@pytest.mark.parametrize(
    "text", ["DefaultCPUAllocator: not enough memory: you tried", "std::bad_alloc", "CUDA out of memory."]
)
def test_what_libraries_say_where_memory_does_not_suffice(text):
    assert is_out_of_memory(RuntimeError(text))
    assert not is_out_of_memory(RuntimeError("size mismatch"))


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1", "utf-8"])
def test_a_terminal_that_cannot_show_a_name_shows_its_number(encoding):
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    done = run(r"print('\u65e5 \udcff'); print('\u65e5', file=sys.stderr)", env=environment)
    first = "日" if encoding == "utf-8" else r"\u65e5"
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{first} \\udcff\n", f"{first}\n")


@pytest.mark.parametrize(
    "work", ["print('line ' * 100_000); print(2)", "print(1); sys.stdout.flush(); print(2)", "print(1)"]
)
@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_reader_who_goes_away_is_no_error(work, stream):
    if stream == "stderr":
        work = work.replace(")", ", file=sys.stderr)").replace("flush(, file=sys.stderr)", "flush()")
    reading, writing = os.pipe()
    os.close(reading)
    other = {"stdout": "stderr", "stderr": "stdout"}[stream]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.replace("{work}", work)], **{stream: writing, other: subprocess.PIPE}, text=True
    )
    os.close(writing)
    assert (done.returncode, getattr(done, other)) == (0, "")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs Linux")
def test_output_that_cannot_be_written_is_one_line():
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM.replace("{work}", "print(1)")],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert done.returncode == 2
    assert done.stderr == "program: error: [Errno 28] No space left on device: '<stdout>'\n"


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_stop_signal_clears_up_and_ends_with_its_number(name):
    work = f"""
    try:
        os.kill(os.getpid(), signal.{name})
        time.sleep(600)
    finally:
        print("cleared up")
"""
    done = run(work.strip())
    number = getattr(signal, name)
    assert (done.returncode, done.stdout) == (128 + number, "cleared up\n")
    assert done.stderr == f"program: stopped by {name}\n"


def test_an_ignored_signal_stays_ignored_and_handlers_are_given_back():
    work = "signal.raise_signal(signal.SIGHUP); print('on')"
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # what nohup does; children inherit it
    try:
        assert run(work).stdout == "on\n"
    finally:
        signal.signal(signal.SIGHUP, before)
    handler = signal.getsignal(signal.SIGTERM)
    assert run_command("program", lambda: 0) == 0
    assert signal.getsignal(signal.SIGTERM) == handler


def test_without_a_standard_output():
    code = PROGRAM.replace("{work}", "print(1)")
    done = subprocess.run(["sh", "-c", f'exec "{sys.executable}" -c "$CODE" >&-'], env=os.environ | {"CODE": code})
    assert done.returncode == 0
