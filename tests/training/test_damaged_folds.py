"""Whatever is damaged of what a resumed training (--c) reads of ours: it goes on with what is whole; nothing is lost.

INPUTS says how many damaged versions of each file are tried (default: 20), SEED which.
"""

import csv

import pytest
import torch
from damaging import Fuzz, contents, inputs

from nnunet_cpr.training.checkpoints import LATEST, PREVIOUS, newest_intact
from nnunet_cpr.training.trace import Trace, read_trace


def state(number):
    return {"network_weights": {"w": torch.full((50, 3), float(number))}, "current_epoch": number, "name": "n"}


def test_damaged_checkpoints(tmp_path):
    good = tmp_path / "good"
    good.mkdir()
    for number, name in enumerate((LATEST, PREVIOUS)):
        torch.save(state(number), good / name)
    fuzz = Fuzz(good, tmp_path)

    def resume(folder):
        before = contents(folder)
        chosen, warnings = newest_intact(folder)
        assert chosen is not None
        number = (LATEST, PREVIOUS).index(chosen.name)
        loaded = torch.load(chosen, weights_only=False)
        assert torch.equal(loaded["network_weights"]["w"], state(number)["network_weights"]["w"])
        assert {**loaded, "network_weights": 0} == {**state(number), "network_weights": 0}
        after = {name.removesuffix(".broken"): content for name, content in contents(folder).items()}
        assert after == before, "something is lost"
        assert bool(warnings) == any(name.endswith(".broken") for name in contents(folder))
        return warnings[0] if warnings else None

    for name in (LATEST, PREVIOUS):
        fuzz.spoil(name, inputs(20), resume)
    fuzz.end()


def test_damaged_traces(tmp_path):
    good = tmp_path / "good"
    good.mkdir()
    with (good / "cpr_trace.csv").open("w", newline="") as file:
        rows = [(e, 5 * e + 5, name, 1.5 + e, 1.25, 0.001) for e in range(4) for name in ("a.weight", "b.weight")]
        csv.writer(file).writerows([("epoch", "step", "tensor", "reg", "kappa", "lagmul"), *rows])
    assert len(read_trace(good / "cpr_trace.csv")) == 8
    fuzz = Fuzz(good, tmp_path)

    def take_up(folder):
        before = contents(folder)
        try:
            trace = Trace(folder, 3)
        except (ValueError, OSError) as error:
            assert str(folder / "cpr_trace.csv") in str(error)
            assert contents(folder) == before
            return str(error)
        if (folder / "cpr_trace.csv").is_file():
            trace.save()  # the figure must take whatever was read
        return None

    fuzz.spoil("cpr_trace.csv", inputs(20), take_up)
    fuzz.end()


@pytest.mark.parametrize("content", ["epoch,step\n1,2\n", "epoch,step,tensor,reg,kappa,lagmul\n0,5,a,x,1,0\n"])
def test_a_damaged_trace_is_named(tmp_path, content):
    (tmp_path / "cpr_trace.csv").write_text(content)
    with pytest.raises(ValueError, match=r"cpr_trace\.csv is damaged"):
        read_trace(tmp_path / "cpr_trace.csv")
