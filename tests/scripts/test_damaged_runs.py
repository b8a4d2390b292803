"""Whatever is damaged of what scripts/train_gpt2.py reads: one line, and the run as it was.

INPUTS says how many damaged versions of each file are tried (default: 3, and 60 by the slow test), SEED which.
"""

import json
import sys

import numpy as np
import pytest
from damaging import Fuzz, contents, inputs, one_line
from script_helpers import gpt2_flags, train_gpt2_here

CONFIG = "optimizer: adamcpr\nlr: 1e-3\nmax_steps: 500\nbetas: [0.8, 0.9]\nkappa_init_method: warm_start\nsize: tiny\n"
TOKENS = ["tokens/meta.json", "tokens/train.bin", "tokens/val.bin"]
RUN = ["run/config.json", "run/checkpoint.pt", "run/metrics.csv", "run/cpr_trace.csv"]


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A YAML file, a folder of tokens, and a finished run on them."""
    folder = tmp_path_factory.mktemp("good")
    (folder / "config.yaml").write_text(CONFIG)
    (folder / "tokens").mkdir()
    for split, count in (("train", 2000), ("val", 500)):
        np.random.default_rng(0).integers(0, 90, count).astype("<u2").tofile(folder / "tokens" / f"{split}.bin")
    meta = {"vocab_size": 100, "tokens": {"train": 2000, "val": 500}, "dataset": "x", "sha256": {}}
    (folder / "tokens" / "meta.json").write_text(json.dumps(meta))
    train_gpt2_here([*gpt2_flags(folder / "tokens", folder / "run"), "--max-steps", "6"])
    return folder


@pytest.fixture
def fuzz(good, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train_gpt2.py"])
    return Fuzz(good, tmp_path)


def script(capsys, train, argv):
    from harness.parsing import run_script
    from train_gpt2 import GPT2Settings

    return one_line(capsys, run_script(GPT2Settings, train, "", argv))


def run(fuzz, capsys, count):
    import train_gpt2

    def read_config(folder):
        before = contents(folder)
        refused = script(
            capsys, train_gpt2.load_data, ["--config", str(folder / "config.yaml"), "--data", str(folder / "tokens")]
        )
        assert contents(folder) == before
        return refused

    def begin(folder):
        before = contents(folder)
        flags = [*gpt2_flags(folder / "tokens", folder / "new"), "--max-steps", "6"]
        refused = script(capsys, train_gpt2.train, flags)
        assert contents(folder, folder / "new") == before, "the tokens changed"
        return refused

    def resume(folder):
        before, others = contents(folder), contents(folder, folder / "run")
        refused = script(capsys, train_gpt2.train, ["--resume", "--out", str(folder / "run"), "--device", "cpu"])
        assert not refused or contents(folder) == before, "the run changed"
        assert contents(folder, folder / "run") == others, "something else changed"
        return refused

    fuzz.spoil("config.yaml", 4 * count, read_config)
    for name in TOKENS:
        fuzz.spoil(name, count, begin)
    for name in RUN:
        fuzz.spoil(name, count, resume)
    fuzz.end()


def test_a_few_damaged_files(fuzz, capsys):
    run(fuzz, capsys, inputs(3))


@pytest.mark.slow
def test_many_damaged_files(fuzz, capsys):
    run(fuzz, capsys, inputs(20))
