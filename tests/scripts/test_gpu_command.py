"""The prepared GPU command, rehearsed on the CPU with the Triton kernels in Triton's interpreter."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from benchmarks import gpu

pytest.importorskip("triton", reason="no Triton, which comes with torch on Linux")


@pytest.mark.slow
def test_the_rehearsal(tmp_path):
    assert gpu.main(["--device", "cpu", "--out", str(tmp_path)]) == 0
    results = json.loads((tmp_path / "cpu.json").read_text())
    sync = {key: value for key, value in results["sync"].items() if key != "seconds"}
    assert len(sync) == 4 and set(sync.values()) == {"no synchronization"}
    assert results["training"]["largest difference of weights"] < 1e-5
    assert results["tests"]["passed"]
    steps = results["steps"]
    assert steps["code"] == 0 and "AdamCPR, bounds active" in "\n".join(steps["printed"])
    (measured,) = set(tmp_path.glob("*.json")) - {tmp_path / "cpu.json"}
    assert len(json.loads(measured.read_text())["contests"]) == 2


def test_a_stage_that_fails_or_hangs_costs_only_its_share(tmp_path, monkeypatch):
    monkeypatch.setitem(gpu.SECONDS, "sync", 0.01)
    assert gpu.main(["--device", "cpu", "--out", str(tmp_path), "--stages", "sync"]) == 1
    assert json.loads((tmp_path / "cpu.json").read_text())["sync"]["error"] == "took more than 0.01 s"


def test_what_is_killed_takes_its_children_along(tmp_path):
    """Or the tests of a stage that ran out of time would go on beside the next stage's measurements."""
    child = "import os, sys, time; print(os.getpid(), file=open(sys.argv[1], 'w'), flush=True); time.sleep(600)"
    parent = "import subprocess, sys; subprocess.run([sys.executable, '-c', *sys.argv[1:]])"
    with pytest.raises(subprocess.TimeoutExpired):
        gpu.run_limited([sys.executable, "-c", parent, child, str(tmp_path / "pid")], os.environ, 5)
    pid = int((tmp_path / "pid").read_text())
    for _ in range(100):
        if not is_running(pid):
            return
        time.sleep(0.1)  # the kill needs a moment to arrive
    os.kill(pid, signal.SIGKILL)
    pytest.fail("the child is still running")


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_failed_tests_and_contests_without_a_result_are_failures(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "TESTS", ("no_such_test.py",))
    assert "error" in gpu.run_tests("cpu")
    monkeypatch.setattr("benchmark_optimizers.main", lambda arguments: print("not a result: why") or 1)
    assert "error" in gpu.time_steps("cpu", tmp_path)
    assert (tmp_path / "steps.txt").read_text() == "not a result: why\n"


def test_all_stages_together_take_at_most_ten_minutes():
    assert sum(gpu.SECONDS.values()) <= 600
