"""The prepared GPU command, rehearsed on the CPU with the Triton kernels in Triton's interpreter."""

import json

import pytest
from benchmarks import gpu

pytest.importorskip("triton", reason="no Triton, which comes with torch on Linux")


@pytest.mark.slow
def test_the_rehearsal(tmp_path):
    assert gpu.main(["--device", "cpu", "--out", str(tmp_path), "--stages", "sync", "training", "tests"]) == 0
    results = json.loads((tmp_path / "cpu.json").read_text())
    sync = {key: value for key, value in results["sync"].items() if key != "seconds"}
    assert len(sync) == 4 and set(sync.values()) == {"no synchronization"}
    assert results["training"]["largest difference of weights"] < 1e-5
    assert results["tests"]["passed"]


def test_a_stage_that_fails_or_hangs_costs_only_its_share(tmp_path, monkeypatch):
    monkeypatch.setitem(gpu.SECONDS, "sync", 0.01)
    assert gpu.main(["--device", "cpu", "--out", str(tmp_path), "--stages", "sync"]) == 1
    assert json.loads((tmp_path / "cpu.json").read_text())["sync"]["error"] == "took more than 0.01 s"


def test_all_stages_together_take_at_most_ten_minutes():
    assert sum(gpu.SECONDS.values()) <= 600
