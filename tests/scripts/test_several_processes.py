"""Several processes of torchrun: they work together on any device, or say why not."""

import json
import sys
from types import SimpleNamespace

import harness.command
import harness.run
import pytest
import torch
from harness.parsing import parse, run_script
from script_helpers import ROOT, losses, run_python
from train_grokking import GrokkingSettings, train

SMALL = "--modulus 7 --width 16 --hidden 32 --train-share 0.9 --max-steps 9 --log-every 1"


def grokking(out, *flags):
    train(parse(GrokkingSettings, "", [*SMALL.split(), "--out", str(out), *flags]))


def test_without_a_gpu_they_share_the_batches_of_one_training(tmp_path):
    # 44 pairs: an epoch is a batch of 30 and one of 14. No --device: a CPU is found, not named.
    flags = [*SMALL.split(), "--batch-size", "30"]
    grokking(tmp_path / "one", "--batch-size", "30", "--device", "cpu")
    done = run_python(
        "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
        str(ROOT / "scripts" / "train_grokking.py"), *flags, "--out", str(tmp_path / "two"),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("steps done") == 1
    config = json.loads((tmp_path / "two" / "config.json").read_text())
    assert [start["processes"] for start in config["starts"]] == [2]
    one, two = ([float(row[1]) for row in losses(tmp_path / name)] for name in ("one", "two"))
    assert len(one) == 9
    assert two == pytest.approx(one, rel=1e-4)


def test_processes_that_would_each_train_alone_are_stopped(tmp_path, monkeypatch):
    alone = SimpleNamespace(num_processes=1, device=torch.device("mps"), is_main_process=True)
    monkeypatch.setattr(harness.run, "Accelerator", lambda **_: alone)
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(ValueError, match="4 processes were started, but on mps they do not work together; start one,"):
        grokking(tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("batch", "wrong"), [("15", "15"), ("41", "41"), ("42", None), ("43", "43"), ("4", None)])
def test_a_batch_that_cannot_be_shared_is_noticed_before_the_first_step(tmp_path, monkeypatch, batch, wrong):
    class Reached(Exception):
        pass

    def prepared(*_):
        raise Reached

    two = SimpleNamespace(num_processes=2, device=torch.device("cpu"), is_main_process=True)
    monkeypatch.setattr(harness.run, "Accelerator", lambda **_: two)
    monkeypatch.setattr(harness.run.Run, "prepare", prepared)
    monkeypatch.setenv("WORLD_SIZE", "2")
    expected = pytest.raises(ValueError, match=f"a batch of {wrong} .* shared equally among 2 processes")
    with expected if wrong else pytest.raises(Reached):
        grokking(tmp_path / "run", "--batch-size", batch)


def test_what_is_left_at_the_end_of_an_epoch_must_be_shared_too(tmp_path, monkeypatch):
    four = SimpleNamespace(num_processes=4, device=torch.device("cpu"), is_main_process=True)
    monkeypatch.setattr(harness.run, "Accelerator", lambda **_: four)
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(ValueError, match=r"a batch of 246 .*what is left of 3830 pairs"):  # 3830 - 7 x 512
        train(parse(GrokkingSettings, "", ["--out", str(tmp_path / "run")]))


@pytest.mark.parametrize(("local_rank", "where"), [(None, ""), ("0", ""), ("1", "process 5: ")])
def test_a_process_that_fails_alone_says_so(monkeypatch, capsys, local_rank, where):
    def fails(_):
        raise ValueError("cat.png cannot be read\nas an image")

    monkeypatch.setattr(harness.command, "PATIENCE", 0)
    monkeypatch.setattr(sys, "argv", ["scripts/train_grokking.py"])
    monkeypatch.setenv("RANK", "5")
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    if local_rank:
        monkeypatch.setenv("LOCAL_RANK", local_rank)
    assert run_script(GrokkingSettings, fails, "", []) == 2
    assert capsys.readouterr().err == f"train_grokking.py: error: {where}cat.png cannot be read as an image\n"
