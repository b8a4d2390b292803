"""The benchmark of steps: what is a result, what it says about machine and contestants, and what it writes.

All times are made up, or not looked at.
"""

import itertools
import json

import pytest
import torch
from benchmark_optimizers import FAMILIES, MODELS, TRIES, Timings, contestants, main, measure, observe_step, summarize
from benchmarks.agreement import Seconds, find_doubts, read_clocks, share_of_others
from benchmarks.formatting import show_caches, show_span
from benchmarks.machine import file_name, name_processor, read_caches

from nnunet_cpr.optim import fused

SHAPES = [torch.Size(s) for s in [(6, 5), (5,), (4, 3, 2), (7,)]]
INTEL = (
    "processor\t: 0\nvendor_id\t: GenuineIntel\ncpu family\t: 6\nmodel\t\t: {}\nmodel name\t: {}\n\nprocessor\t: 1\n"
)
QUIET = [0.97, 1.01, 1.0, 0.99, 1.02] * 6


# -- what is a result


def test_steady_rounds_are_a_result():
    assert find_doubts(QUIET, others=0.02) == []
    assert find_doubts(QUIET, others=None) == []


def test_one_disturbed_round_does_no_harm():
    assert find_doubts([*QUIET[:-1], 7.0], others=0.0) == []


@pytest.mark.parametrize("factor", [1.4, 0.6])
def test_a_third_of_the_rounds_disturbed(factor):
    (doubt,) = find_doubts([*[factor] * 10, *QUIET[:20]], others=0.0)
    assert "rounds disagree" in doubt


def test_others_were_busy():
    """Load that is the same in every round shows in this alone."""
    (doubt,) = find_doubts(QUIET, others=0.31)
    assert "other processes took 31%" in doubt


def test_too_few_rounds():
    (doubt,) = find_doubts(QUIET[:3], others=0.0)
    assert "3 rounds are too few" in doubt


@pytest.mark.parametrize(
    "before, after, processors, share",
    [
        (Seconds(100, 7, 50), Seconds(110, 22, 65), 2, 0.0),  # all 15 s of work are our own
        (Seconds(100, 7, 50), Seconds(110, 22, 70), 2, 0.25),  # 5 s of 20
        (Seconds(100, 7, 50), Seconds(110, 22, 70), 8, 0.0625),
        (Seconds(100, 7, 50), Seconds(110, 22, 64.9), 2, 0.0),  # the clocks tick apart
        (Seconds(100, 7, 50), Seconds(110, 22, 50), 2, None),  # a count that stands still tells nothing
        (Seconds(100, 7, None), Seconds(110, 22, None), 2, None),
    ],
)
def test_share_of_others(before, after, processors, share):
    assert share_of_others(before, after, processors) == (share if share is None else pytest.approx(share))


def test_busy_time_is_all_but_idle_and_waiting(tmp_path):
    stat = tmp_path / "stat"
    stat.write_text("cpu  100 20 300 99999 88888 4 50 6 7 8\ncpu0 1 2 3 4 5 6 7 8 9 10\n")
    ticks = 100 + 20 + 300 + 4 + 50 + 6  # the last two are in the first two already
    assert read_clocks(stat).all == pytest.approx(ticks / 100, rel=1e-6)
    assert read_clocks(tmp_path / "none").all is None


# -- what the machine is


@pytest.mark.parametrize(
    "cpuinfo, name, file",
    [
        (
            INTEL.format(207, "Intel(R) Xeon(R) Processor"),
            "Intel Xeon (family 6, model 207)",
            "intel-xeon-family-6-model-207.json",
        ),
        (
            INTEL.format(143, "Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz"),
            "Intel Xeon Platinum 8481C",
            "intel-xeon-platinum-8481c.json",
        ),
        (INTEL.format(1, "AMD EPYC 7763 64-Core Processor"), "AMD EPYC 7763", "amd-epyc-7763.json"),
    ],
)
def test_name_of_a_processor(cpuinfo, name, file):
    assert name_processor(cpuinfo) == name
    assert file_name(name) == file


def test_name_of_an_arm_processor():
    cpuinfo = "processor\t: 0\nBogoMIPS\t: 243.75\nCPU implementer\t: 0x41\nCPU part\t: 0xd0c\n"
    assert name_processor(cpuinfo).endswith(" (implementer 0x41, part 0xd0c)")


def test_without_linux_there_is_still_a_name():
    assert name_processor("")


def test_caches(tmp_path):
    for number, (level, kind, size) in enumerate(
        [(1, "Data", "48K"), (1, "Instruction", "32K"), (2, "Unified", "2048K"), (3, "Unified", "266240K")]
    ):
        folder = tmp_path / f"index{number}"
        folder.mkdir()
        for name, value in (("level", level), ("type", kind), ("size", size)):
            (folder / name).write_text(f"{value}\n")
    assert show_caches(read_caches(tmp_path)) == "L1 48 KiB, L2 2 MiB, L3 260 MiB"
    assert read_caches(tmp_path / "none") == {}


def test_span():
    assert show_span((0.811, 0.994), 2) == "0.81 to 0.99"
    assert show_span((0.812, 0.809), 2) == "0.81"


# -- which way each took


@pytest.fixture(scope="module")
def ways():
    """What was observed, by contestant."""
    cpu = torch.device("cpu")
    found = {}
    for family in FAMILIES:
        found |= measure(contestants(family, SHAPES, cpu), cpu, rounds=1, buffer_bytes=64).ways
    return found


@pytest.mark.parametrize("name", ["AdamW", "SGD"])
def test_way_of_torch(ways, name):
    assert ways[name] == "torch loop"
    assert ways[f"{name} fused"] == "torch fused"


def test_way_of_foreach():
    params = [torch.nn.Parameter(torch.ones(shape)) for shape in SHAPES]
    for param in params:
        param.grad = torch.ones_like(param)
    for optimizer in (torch.optim.AdamW(params, foreach=True), torch.optim.SGD(params, foreach=True, momentum=0.9)):
        assert observe_step(optimizer) == "torch foreach"


@pytest.mark.parametrize("name", ["AdamCPR", "SGDCPR"])
def test_way_of_cpr(ways, name):
    """By default the kernel, where it runs, takes the bounded tensors."""
    has_kernel = fused.BACKENDS["c"].why_not([torch.nn.Parameter(torch.ones(2, 2))]) is None
    kernel = "C kernel, torch fused" if has_kernel else "torch fused"
    assert ways[f"{name}, bounds active"] == ways[f"{name}, bounds not reached"] == kernel
    assert ways[f"{name}, warm start"] == ways[f"{name}, bounds active, no kernel"] == "torch fused"


def test_observing_leaves_the_backends_as_they_were():
    before = [backend.shrink_and_update for backend in fused.BACKENDS.values()]
    test_way_of_foreach()
    assert [backend.shrink_and_update for backend in fused.BACKENDS.values()] == before


# -- what is printed and written


def made_up(again, others=0.0):
    """Timings of an opponent that takes 10 to 12 ms, and of somebody who always takes nine tenths of that."""
    first = [0.010, 0.011, 0.012] * 10
    last = [a * b for a, b in zip(first, again, strict=True)]
    ours = [0.9 * (a + b) / 2 for a, b in zip(first, last, strict=True)]
    ways = {"AdamW fused": "torch fused", "AdamCPR": "C kernel"}
    return Timings({"AdamW fused": first, "AdamCPR": ours}, last, ways, others)


@pytest.fixture
def run(monkeypatch, tmp_path, capsys):
    """Returns a function that runs the script on made-up timings and says what it returned, printed and wrote."""
    monkeypatch.setitem(MODELS, "nnU-Net", lambda: SHAPES)
    monkeypatch.setattr("benchmark_optimizers.contestants", lambda *_: {})

    def run_once(*timings):
        rest = iter(timings)
        monkeypatch.setattr("benchmark_optimizers.measure", lambda *_: next(rest))
        code = main(["--models", "nnU-Net", "--threads", "1", "--json", str(tmp_path / "out")])
        return code, capsys.readouterr().out, list((tmp_path / "out").glob("*"))

    return run_once


def test_a_result_is_printed_and_written(run):
    code, printed, (file,) = run(made_up(QUIET), made_up(QUIET))
    assert code == 0
    assert "not a result" not in printed
    assert "0.90" in printed and "C kernel" in printed
    written = json.loads(file.read_text())
    assert {"processor", "caches", "compiler", "torch", "code", "rounds"} <= written.keys()
    opponent, ours = written["contests"][0]["rows"]
    assert ours["n"] == 30
    assert ours["way"] == "C kernel"
    assert ours["ratio"] == pytest.approx(0.9)
    assert ours["ratio_quartiles"] == pytest.approx([0.9, 0.9])
    assert opponent["median_ms"] == pytest.approx(11)
    assert opponent["quartiles_ms"] == pytest.approx([10, 12])
    assert opponent["ratio"] == pytest.approx(1.0)
    assert opponent["ratio_quartiles"] == pytest.approx([0.99, 1.01])


@pytest.mark.parametrize("bad", [made_up([1.3, 0.8] * 15), made_up(QUIET, others=0.5)])
@pytest.mark.parametrize("place", [0, 1])
def test_one_disturbed_contest_makes_it_no_result(run, bad, place):
    timings = [[made_up(QUIET)], [made_up(QUIET)]]
    timings[place] = [bad] * TRIES
    code, printed, files = run(*itertools.chain(*timings))
    assert code == 1
    assert files == []
    assert "not a result" in printed
    assert sum(line.startswith("AdamCPR") for line in printed.splitlines()) == 1  # of the other one


def test_a_disturbed_contest_is_held_again(run):
    code, printed, (file,) = run(made_up([1.3, 0.8] * 15), made_up(QUIET), made_up(QUIET))
    assert code == 0
    assert printed.count("not a result") == 1
    assert len(json.loads(file.read_text())["contests"]) == 2


def test_a_round_that_grows_slower_favors_nobody():
    """If all take 10 % longer at the end of a round, who comes in its middle is compared with both ends."""
    even = Timings({"AdamW fused": [1.0] * 10, "x": [1.05] * 10}, [1.1] * 10, {"AdamW fused": "", "x": ""}, None)
    assert summarize(even)[1]["ratio"] == pytest.approx(1.0)
