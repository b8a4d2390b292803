"""scripts/benchmark_training_steps.py: the arithmetic, by a clock that only the steps move; every contestant steps."""

import json
from types import SimpleNamespace

import benchmark_training_steps as benchmark
import pytest
import torch
from benchmarks.formatting import largest_noise, show_overhead
from benchmarks.networks import Network
from benchmarks.paper import paper_overhead
from harness.settings import OPTIMIZERS


@pytest.fixture
def args():
    return SimpleNamespace(threads=1, device="cpu", rounds=5, precision="fp32")


def tiny(device):
    model = torch.nn.Linear(3, 2)
    return Network(model, lambda batch: model(torch.ones(batch, 3)).sum())


def test_the_difference_is_a_share_of_the_whole_step_with_adamw(tmp_path, monkeypatch, args):
    now = 0.0

    def wait(seconds):
        nonlocal now
        now += seconds

    # AdamW takes 1 s, but 1.5 s in its second turn; the other 3 s; a pass 98.75 s.
    turns = {"adamw": 0}

    def step(name):
        if name != "adamw":
            return wait(3)
        turns["adamw"] += 1
        return wait(1 if (turns["adamw"] - 1) // 5 % 2 == 0 else 1.5)

    monkeypatch.setitem(benchmark.NETWORKS, "tiny", tiny)
    monkeypatch.setattr(benchmark, "clock", lambda _: now)
    monkeypatch.setattr(benchmark, "forward_backward", lambda *_: wait(98.75))
    monkeypatch.setattr(benchmark, "build", lambda name, _: SimpleNamespace(step=lambda: step(name)))
    benchmark.measure("tiny", "awd", args, 1, tmp_path / "row.json")
    row = json.loads((tmp_path / "row.json").read_text())
    assert (row["pass_ms"], row["adamw_ms"], row["optimizer_ms"]) == pytest.approx((98750, 1250, 3000))
    assert row["percent_over_adamw"] == pytest.approx([1.75] * 3)  # 3 - 1.25 of 100
    assert row["percent_adamw_over_itself"] == pytest.approx([0.5] * 3)
    assert show_overhead(row) == "+1.75 % (+1.75 to +1.75)"
    assert largest_noise([row], "tiny") == pytest.approx(0.5)


@pytest.mark.parametrize("name", benchmark.CONTESTANTS)
def test_every_contestant_is_measured(tmp_path, monkeypatch, args, name):
    if name == "amos":
        pytest.importorskip("pytorch_optimizer")
    monkeypatch.setitem(benchmark.NETWORKS, "tiny", tiny)
    benchmark.measure("tiny", name, args, 2, tmp_path / "row.json")
    row = json.loads((tmp_path / "row.json").read_text())
    assert (row["network"], row["optimizer"], row["batch"], row["parameters"]) == ("tiny", name, 2, 8)


def test_all_that_competes_with_adamw_is_measured():
    assert {*benchmark.CONTESTANTS, "adamw", "sgd", "sgdcpr"} == set(OPTIMIZERS)


def test_the_largest_batch_is_the_last_that_fitted(tmp_path, monkeypatch, args):
    def passes(network, precision, device, batch):
        if batch > 8:
            raise torch.OutOfMemoryError

    monkeypatch.setitem(benchmark.NETWORKS, "tiny", tiny)
    monkeypatch.setattr(benchmark, "forward_backward", passes)
    benchmark.find_largest_batch("tiny", "awd", args, tmp_path / "batch.json")
    assert json.loads((tmp_path / "batch.json").read_text()) == 8

    def too_large(device):
        raise torch.OutOfMemoryError

    monkeypatch.setitem(benchmark.NETWORKS, "tiny", too_large)
    benchmark.find_largest_batch("tiny", "awd", args, tmp_path / "batch.json")
    assert json.loads((tmp_path / "batch.json").read_text()) == 0


def test_the_papers_figure_is_that_of_the_network_and_batch():
    row = {"network": "GPT2m", "batch": 1}
    assert paper_overhead(row) == "+6.45 %"
    assert paper_overhead(row | {"batch": 48, "largest": True}) == "+2.44 %"
    assert paper_overhead(row | {"batch": 48}) == ""
    assert paper_overhead(row | {"network": "nnU-Net"}) == ""
