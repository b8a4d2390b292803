"""scripts/train_gpt2.py end to end: what it writes, exact resume, several processes, what stops it."""

import json
import math
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from script_helpers import ENVIRONMENT, GPT2, gpt2_flags, losses, run_python, stop_after, train_gpt2_here


@pytest.fixture(scope="module")
def finished(text, tmp_path_factory):
    out = tmp_path_factory.mktemp("finished") / "run"
    train_gpt2_here(gpt2_flags(text, out))
    return out


def test_a_run_writes_all_that_is_promised_and_learns(finished):
    names = ["checkpoint.pt", "config.json", "cpr_trace.csv", "curves.png", "metrics.csv"]
    assert sorted(path.name for path in finished.iterdir()) == names
    rows = losses(finished)
    assert [int(row[0]) for row in rows] == list(range(1, 13))
    assert float(rows[0][1]) == pytest.approx(math.log(256), abs=0.1)
    assert float(rows[-1][1]) < float(rows[0][1]) - 0.5
    assert [row[0] for row in rows if row[3]] == ["4", "8", "12"]
    config = json.loads((finished / "config.json").read_text())
    assert config["settings"]["seed"] == 1234
    assert config["starts"][0]["versions"]["torch"] == torch.__version__.split("+")[0]
    trace = (finished / "cpr_trace.csv").read_text().splitlines()
    assert trace[0] == "step,tensor,reg,kappa,lagmul"
    assert len(trace) == 1 + 12 * 16  # 4 blocks of 4 matrices


def test_a_broken_off_run_continues_to_the_same_losses_bit_for_bit(finished, text, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        stop_after(patch, 8)
        with pytest.raises(KeyboardInterrupt):
            train_gpt2_here(gpt2_flags(text, tmp_path / "run"))
    assert losses(tmp_path / "run") == losses(finished)[:8]
    train_gpt2_here(["--resume", "--out", str(tmp_path / "run"), "--device", "cpu"])
    assert losses(tmp_path / "run") == losses(finished)
    assert (tmp_path / "run" / "cpr_trace.csv").read_text() == (finished / "cpr_trace.csv").read_text()
    starts = json.loads((tmp_path / "run" / "config.json").read_text())["starts"]
    assert [start["step"] for start in starts] == [0, 5]


def test_resume_before_the_first_checkpoint_starts_again(finished, text, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        with pytest.raises(KeyboardInterrupt):
            train_gpt2_here(gpt2_flags(text, tmp_path / "run"))
    train_gpt2_here(gpt2_flags(text, tmp_path / "run", "--resume"))
    assert losses(tmp_path / "run") == losses(finished)


@pytest.mark.slow
def test_a_killed_process_continues_to_the_same_losses(text, tmp_path):
    flags = [*gpt2_flags(text, tmp_path / "killed"), "--max-steps", "60"]
    process = subprocess.Popen([sys.executable, str(GPT2), *flags], env=ENVIRONMENT, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not (tmp_path / "killed" / "checkpoint.pt").exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert len(losses(tmp_path / "killed")) < 60
    train_gpt2_here([*flags, "--resume"])
    train_gpt2_here([*gpt2_flags(text, tmp_path / "whole"), "--max-steps", "60"])
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")


@pytest.mark.slow
def test_two_processes_and_accumulation_do_what_one_does(text, tmp_path):
    plain = ["--dropout", "0", "--kappa-init-method", "warm_start", "--kappa-init-param", "2"]
    train_gpt2_here(gpt2_flags(text, tmp_path / "one", *plain))
    train_gpt2_here(gpt2_flags(text, tmp_path / "accumulated", *plain, "--accumulate", "2"))
    done = run_python(
        "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
        str(GPT2), *gpt2_flags(text, tmp_path / "two", *plain),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    one = losses(tmp_path / "one")
    for other in ("accumulated", "two"):
        rows = losses(tmp_path / other)
        assert [row[0] for row in rows] == [row[0] for row in one]
        for column in (1, 3):
            expected = [float(row[column] or 0) for row in one]
            assert [float(row[column] or 0) for row in rows] == pytest.approx(expected, rel=1e-4), other
    starts = json.loads((tmp_path / "two" / "config.json").read_text())["starts"]
    assert starts[0]["processes"] == 2


def test_adamw_and_adamcpr_see_the_same_weights_and_batches_at_first(finished, text, tmp_path):
    train_gpt2_here(gpt2_flags(text, tmp_path / "run", "--optimizer", "adamw"))
    assert losses(tmp_path / "run")[0] == losses(finished)[0]
    assert losses(tmp_path / "run")[-1] != losses(finished)[-1]
    assert not (tmp_path / "run" / "cpr_trace.csv").exists()


def test_a_loss_that_is_not_finite_stops_at_its_step_and_keeps_the_checkpoint(text, tmp_path, monkeypatch):
    import train_gpt2

    real, calls = train_gpt2.sequence_loss, []

    def breaks_in_step_8(model, sequences):
        if model.training:
            calls.append(0)
        return real(model, sequences) * (math.nan if len(calls) == 8 else 1)

    monkeypatch.setattr(train_gpt2, "sequence_loss", breaks_in_step_8)
    flags = gpt2_flags(text, tmp_path / "run", "--log-every", "100", "--eval-every", "100")
    with pytest.raises(ValueError, match=r"the loss was not finite in step 8; the last good checkpoint is .*run/chec"):
        train_gpt2_here(flags)
    assert torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)["step"] == 5


def test_weights_that_are_not_finite_are_not_saved(text, tmp_path, monkeypatch):
    import train_gpt2

    real = train_gpt2.build_model

    def broken(settings, vocab_size):
        model = real(settings, vocab_size)
        model.gpt_neox.embed_in.weight.data[255] = math.inf  # the text has no such byte, but the softmax does
        return model

    monkeypatch.setattr(train_gpt2, "build_model", broken)
    monkeypatch.setattr(train_gpt2, "sequence_loss", lambda model, _: model.gpt_neox.final_layer_norm.weight.sum())
    with pytest.raises(ValueError, match="a weight was not finite after step 5; no checkpoint was due before"):
        train_gpt2_here(gpt2_flags(text, tmp_path / "run", "--eval-every", "100"))
    assert not (tmp_path / "run" / "checkpoint.pt").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.write_bytes(c.read_bytes()[:5000]), "cannot be read as a checkpoint"),
        (lambda c: c.write_bytes(b"not a checkpoint"), "cannot be read as a checkpoint"),
        (lambda c: c.write_bytes(flipped(c.read_bytes())), "it is damaged .the checksum of its record"),
        (lambda c: c.unlink(), "checkpoint.pt is missing, though the run came to step 12; put it back"),
        (lambda c: torch.save({"model": {}}, c), "cannot be read as a checkpoint"),
        (lambda c: edit(c, script="train_deit"), "is a checkpoint of train_deit, not of train_gpt2"),
        (lambda c: edit(c, settings={"size": "s"}), "is of another run: its"),
        (lambda c: edit(c, model={}), "does not fit this model"),
    ],
)
def test_a_checkpoint_that_does_not_belong_here_is_refused_in_one_line(finished, tmp_path, change, message):
    shutil.copytree(finished, tmp_path / "run")
    before = (tmp_path / "run" / "metrics.csv").read_text()
    change(tmp_path / "run" / "checkpoint.pt")
    with pytest.raises(ValueError, match=message):
        train_gpt2_here(["--resume", "--out", str(tmp_path / "run"), "--device", "cpu"])
    assert (tmp_path / "run" / "metrics.csv").read_text() == before


def flipped(content):
    """One bit of a weight, which torch.load does not notice."""
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 64]) + content[middle + 1 :]


@pytest.mark.parametrize("name", ["metrics.csv", "cpr_trace.csv"])
@pytest.mark.parametrize("cell", ["text", "", "1,2"])
def test_a_damaged_table_is_refused_in_one_line(finished, tmp_path, name, cell):
    shutil.copytree(finished, tmp_path / "run")
    path = tmp_path / "run" / name
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines[:3], cell + lines[3][1:], *lines[4:]]))
    before = {file.name: file.read_bytes() for file in (tmp_path / "run").iterdir()}
    with pytest.raises(ValueError, match=rf"{name}: line 4 is damaged"):
        train_gpt2_here(["--resume", "--out", str(tmp_path / "run"), "--device", "cpu"])
    assert {file.name: file.read_bytes() for file in (tmp_path / "run").iterdir()} == before


def test_a_token_beyond_the_vocabulary_is_one_line(tmp_path):
    for split, tokens in (("train", [3, 99] * 200), ("val", [3] * 100)):
        np.array(tokens, dtype="<u2").tofile(tmp_path / f"{split}.bin")
    (tmp_path / "meta.json").write_text('{"vocab_size": 99, "tokens": {"train": 400, "val": 100}}')
    with pytest.raises(ValueError, match="holds the token 99, but its vocabulary ends at 98; it is damaged"):
        train_gpt2_here(gpt2_flags(tmp_path, tmp_path / "run"))


def edit(path, **changes):
    torch.save(torch.load(path, weights_only=True) | changes, path)


def test_a_folder_with_a_run_is_not_written_over(finished, text):
    before = {path.name: path.read_bytes() for path in finished.iterdir()}
    with pytest.raises(ValueError, match="holds a run already; continue it with --resume, or name another --out"):
        train_gpt2_here(gpt2_flags(text, finished))
    assert {path.name: path.read_bytes() for path in finished.iterdir()} == before


@pytest.mark.parametrize("kept", ["checkpoint.pt", "metrics.csv"])
def test_a_run_that_lost_its_config_is_not_written_over(finished, text, tmp_path, kept):
    (tmp_path / "run").mkdir()
    shutil.copy(finished / kept, tmp_path / "run")
    with pytest.raises(ValueError, match="holds a run already"):
        train_gpt2_here(gpt2_flags(text, tmp_path / "run"))
    assert (tmp_path / "run" / kept).read_bytes() == (finished / kept).read_bytes()


def test_the_norm_of_the_gradient_is_clipped_unless_the_bound_is_0(text, tmp_path):
    for norm in ("0", "1e9", "1e-8"):
        train_gpt2_here(gpt2_flags(text, tmp_path / norm, "--clip-norm", norm))
    assert losses(tmp_path / "0") == losses(tmp_path / "1e9") != losses(tmp_path / "1e-8")
    assert float(losses(tmp_path / "0")[-1][1]) < float(losses(tmp_path / "1e-8")[-1][1])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--context", "5000"], "1000 validation tokens are too few for a context of 5000"),
        (["--batch-size", "3", "--accumulate", "2"], "batch_size 3 cannot be divided into 1 processes x 2 passes"),
        (["--device", "cuda"], "this PyTorch sees no cuda device"),
        (["--precision", "fp16"], "--precision fp16 needs a GPU; on a CPU there are bf16 and fp32"),
    ],
)
def test_what_does_not_fit_is_one_line_and_leaves_no_folder(text, tmp_path, flags, message):
    if flags[-1] == "cuda" and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(ValueError, match=re.escape(message)):
        train_gpt2_here(gpt2_flags(text, tmp_path / "run", *flags))
    assert not (tmp_path / "run").exists()


def test_the_command_line_shows_one_line_and_exit_code_2(tmp_path):
    done = run_python(str(GPT2), "--data", str(tmp_path / "absent.txt"))
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        f"train_gpt2.py: error: --data {tmp_path}/absent.txt: there is no such file or folder"
    ]


@pytest.mark.parametrize("script", ["train_gpt2", "train_grokking", "train_deit", "train_cifar100"])
def test_help_does_not_import_torch(script):
    code = f"""if True:
        import runpy, sys
        path = {str(GPT2.with_name(script + ".py"))!r}
        sys.argv, sys.path[0] = [path, "--help"], {str(GPT2.parent)!r}
        try:
            runpy.run_path(path, run_name="__main__")
        finally:
            print("torch" in sys.modules)"""
    done = run_python("-c", code)
    assert "--kappa-init-method" in done.stdout
    assert done.stdout.splitlines()[-1] == "False"
