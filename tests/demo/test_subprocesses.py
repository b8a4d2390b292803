import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from nnunet_cpr.demo.subprocesses import CommandFailed, Meter, run_command

PYTHON = Path(sys.executable).name


def test_output_goes_to_the_log_and_variables_to_the_command(tmp_path, capfd):
    log = tmp_path / "log"
    run_command([PYTHON, "-c", "import os; print(os.environ['nnUNet_raw'])"], log, {"nnUNet_raw": "/there"}, [])
    assert "/there\n" in log.read_text()
    assert capfd.readouterr().out == ""


def test_a_failure_shows_the_end_of_the_log_and_where_it_is(tmp_path):
    log = tmp_path / "log"
    program = "print(*range(50), sep='\\n'); raise RuntimeError('no memory')"
    with pytest.raises(CommandFailed) as failure:
        run_command([PYTHON, "-c", program], log, {}, [])
    text = str(failure.value)
    assert f"{PYTHON} failed with exit code 1" in text
    assert "RuntimeError: no memory" in text
    assert str(log) in text
    assert "\n  1\n" not in text


def test_an_unknown_command_is_one_clear_line(tmp_path):
    with pytest.raises(ValueError, match="the command nnUNetv2_nonsense is not installed"):
        run_command(["nnUNetv2_nonsense"], tmp_path / "log", {}, [])


def test_meters_follow_one_after_the_other(tmp_path, monkeypatch):
    monkeypatch.setattr("nnunet_cpr.demo.subprocesses.POLL_SECONDS", 0.01)
    seen = []
    counts = {"train": iter([0, 1, 2, 3]), "validate": iter([0, 5])}

    def meter(label: str, total: int) -> Meter:
        return Meter(label, "step", lambda: total, lambda: (seen.append(label), next(counts[label]))[1])

    run_command(
        [PYTHON, "-c", "import time; time.sleep(1)"], tmp_path / "log", {}, [meter("train", 3), meter("validate", 2)]
    )
    assert seen == ["train"] * 4 + ["validate"] * 2


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_stops_the_command_and_its_children(tmp_path, how):
    program = tmp_path / "parent.py"
    program.write_text(
        textwrap.dedent(f"""
        import signal
        from pathlib import Path
        from nnunet_cpr.demo.subprocesses import run_command
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell would have it ignored
        child = "import subprocess, sys, os\\n"
        child += "p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\\n"
        child += "open({str(tmp_path / "pids")!r}, 'w').write(f'{{os.getpid()}} {{p.pid}} .'); p.wait()"
        try:
            run_command([{PYTHON!r}, "-c", child], Path({str(tmp_path / "log")!r}), {{}}, [])
        except KeyboardInterrupt:
            print("interrupted")
        """)
    )
    process = subprocess.Popen([sys.executable, program], stdout=subprocess.PIPE, text=True)
    pids = tmp_path / "pids"
    deadline = time.monotonic() + 30
    while not (pids.is_file() and pids.read_text().endswith(".")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(how)
    assert process.communicate(timeout=30)[0] == "interrupted\n"
    for pid in map(int, pids.read_text().split()[:2]):
        assert not _runs(pid)


def _runs(pid: int) -> bool:
    """Whether the process still runs a moment from now; a zombie that nobody has waited for does not."""
    for _ in range(50):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        status = Path(f"/proc/{pid}/stat")
        if status.is_file() and status.read_text().rsplit(")", 1)[1].split()[0] == "Z":
            return False
        time.sleep(0.1)
    return True
