"""scripts/train_deit.py end to end: digits and a folder, exact resume, the averaged weights, what stops it."""

import json
import math
import re
import shutil
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from harness.images import Split
from harness.parsing import make, parse
from PIL import Image
from script_helpers import ROOT, losses, run_python, stop_after
from train_deit import DeiTSettings, build_model, datasets, load_data, train

CONFIGS = sorted((ROOT / "configs" / "deit").glob("*.yaml"))
ALL_AUGMENTATION = [
    "--mixup", "0.8", "--cutmix", "1", "--auto-augment", "rand-m9-mstd0.5", "--random-erase", "0.25", "--hflip", "0.5",
    "--drop-path", "0.2", "--ema-decay", "0.5",
]  # fmt: skip


def flags(out: Path, *more: str) -> list[str]:
    """Flags of a training of 9 steps, with everything written at every step and checkpoints every 5."""
    small = (
        f"--out {out} --device cpu --max-steps 9 --warmup-steps 3 --batch-size 8 --image-size 8 --val-share 0.05 "
        "--eval-every 4 --log-every 1 --trace-every 1 --checkpoint-every 5"
    )
    return [*small.split(), *more]


def train_here(given: list[str]) -> None:
    train(parse(DeiTSettings, "", given))


def checkpoint(out: Path) -> dict:
    return torch.load(out / "checkpoint.pt", weights_only=True)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("finished") / "run"
    train_here(flags(out, *ALL_AUGMENTATION))
    return out


def test_a_run_writes_all_that_is_promised(finished):
    names = ["checkpoint.pt", "config.json", "cpr_trace.csv", "curves.png", "metrics.csv"]
    assert sorted(path.name for path in finished.iterdir()) == names
    rows = losses(finished)
    assert [int(row[0]) for row in rows] == list(range(1, 10))
    assert float(rows[0][1]) == pytest.approx(math.log(10), abs=0.3)
    assert [row[0] for row in rows if row[3]] == ["4", "8", "9"]
    header = (finished / "metrics.csv").read_text().splitlines()[0]
    assert header == (
        "step,train_loss,lr,val_loss,val_accuracy,ema_val_loss,ema_val_accuracy,images_per_second,memory_mb"
    )
    data = json.loads((finished / "config.json").read_text())["starts"][0]["data"]
    assert data == {"classes": 10, "training images": 1707, "validation images": 90}


def test_the_learning_rate_is_timms(finished):
    rates = [float(row[2]) for row in losses(finished)]
    warmup = [1e-6 + step / 3 * (2e-3 - 1e-6) for step in range(3)]
    cosine = [1e-3 * (1 + math.cos(math.pi * step / 9)) for step in range(3, 9)]
    assert rates == pytest.approx([*warmup, *cosine], rel=1e-6)


def test_a_broken_off_run_continues_to_the_same_losses_bit_for_bit(finished, tmp_path, monkeypatch):
    given = flags(tmp_path / "run", *ALL_AUGMENTATION, "--workers", "1")
    with monkeypatch.context() as patch:
        stop_after(patch, 7)
        with pytest.raises(KeyboardInterrupt):
            train_here(given)
    train_here(["--resume", "--out", str(tmp_path / "run"), "--device", "cpu"])
    assert losses(tmp_path / "run") == losses(finished)
    assert (tmp_path / "run" / "cpr_trace.csv").read_text() == (finished / "cpr_trace.csv").read_text()
    for part in ("model", "average"):
        for (name, mine), theirs in zip(
            checkpoint(tmp_path / "run")[part].items(), checkpoint(finished)[part].values(), strict=True
        ):
            assert torch.equal(mine, theirs), name


@pytest.fixture
def fresh_accelerator():
    """accelerate keeps a process's first precision."""
    AcceleratorState._reset_state()
    yield
    AcceleratorState._reset_state()


@pytest.mark.usefixtures("fresh_accelerator")
def test_the_average_is_the_moving_average_of_the_weights_and_is_evaluated(tmp_path, monkeypatch):
    from harness.run import Run

    seen = []
    real = Run.end_step

    def end_step(self, step, *rest):
        seen.append(self._model.head.weight.detach().clone())
        real(self, step, *rest)

    monkeypatch.setattr(Run, "end_step", end_step)
    train_here(flags(tmp_path / "run", "--ema-decay", "0.75", "--precision", "bf16", "--warmup-lr", "1e-2"))
    expected = seen[0]
    for weight in seen[1:]:
        expected = 0.75 * expected + 0.25 * weight
    torch.testing.assert_close(checkpoint(tmp_path / "run")["average"]["module.head.weight"], expected)
    last = (tmp_path / "run" / "metrics.csv").read_text().splitlines()[-1].split(",")
    assert last[3] != last[5]


def test_the_digits_are_learned(tmp_path, capsys):
    given = "--max-steps 80 --batch-size 64 --lr 5e-3 --crop-scale 0.9 --eval-every 80 --checkpoint-every 80"
    train_here(flags(tmp_path / "run", *given.split(), "--log-every", "50", "--warmup-steps", "10"))
    assert float(re.findall(r"val_accuracy ([\d.]+)", capsys.readouterr().out)[-1]) > 0.25  # guessing gets 0.1


@pytest.mark.slow
def test_two_processes_do_what_one_does(tmp_path):
    train_here(flags(tmp_path / "one", "--ema-decay", "0.5"))
    done = run_python(
        "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
        str(ROOT / "scripts" / "train_deit.py"), *flags(tmp_path / "two", "--ema-decay", "0.5"),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    columns = [[row.split(",")[:7] for row in (tmp_path / name / "metrics.csv").read_text().splitlines()[1:]]
               for name in ("one", "two")]  # fmt: skip
    for one, two in zip(*columns, strict=True):
        assert [float(v or 0) for v in two] == pytest.approx([float(v or 0) for v in one], rel=1e-4)


def test_a_loss_that_is_not_finite_stops_at_its_step_and_keeps_the_checkpoint(tmp_path, monkeypatch):
    import timm.loss

    real = timm.loss.LabelSmoothingCrossEntropy.forward
    calls = []

    def breaks_in_step_7(self, logits, labels):
        calls.append(0)
        return real(self, logits, labels) * (math.nan if len(calls) == 7 else 1)

    monkeypatch.setattr(timm.loss.LabelSmoothingCrossEntropy, "forward", breaks_in_step_7)
    with pytest.raises(ValueError, match=r"the loss was not finite in step 7; the last good checkpoint is .*run/chec"):
        train_here(flags(tmp_path / "run"))
    assert checkpoint(tmp_path / "run")["step"] == 5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"script": "train_gpt2"}, "is a checkpoint of train_gpt2, not of train_deit"),
        ({"settings": {"size": "small"}}, "is of another run: its"),
        ({"model": {}}, "does not fit this model"),
        ({"average": {}}, "does not fit this model"),
        ({"average": None}, "does not fit this model"),
    ],
)
def test_a_checkpoint_that_does_not_belong_here_is_refused_in_one_line(finished, tmp_path, changes, message):
    shutil.copytree(finished, tmp_path / "run")
    torch.save(checkpoint(finished) | changes, tmp_path / "run" / "checkpoint.pt")
    with pytest.raises(ValueError, match=message):
        train_here(["--resume", "--out", str(tmp_path / "run"), "--device", "cpu"])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--resume", "--mixup", "0.5"], "mixup is 0.8 in the run"),
        (["--resume", "--data", "elsewhere"], "data is None in the run"),
        ([], "holds a run already"),
    ],
)
def test_a_run_is_neither_changed_nor_written_over(finished, given, message):
    with pytest.raises(ValueError, match=message):
        train_here(["--out", str(finished), "--device", "cpu", *given])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--batch-size", "2000"], "1707 training images are too few for a batch of 2000"),
        (["--image-size", "10"], "image_size 10 is no multiple of 4, the patches of size digits"),
        (["--batch-size", "7", "--mixup", "0.8"], "batch_size 7 cannot be divided into 1 processes, each with an even"),
        (["--auto-augment", "rnd-m9"], "auto_augment is 'rnd-m9', which timm does not know"),
        (["--random-erase", "1.5"], "random_erase is 1.5, but must be at most 1"),
        (["--kappa-init-method", "warm_start", "--kappa-init-param", "9"], "warm start of 9 steps"),
        (["--data", "absent"], "absent: there is no such folder"),
        (["--val-share", "0"], "cannot be divided with val_share = 0"),
    ],
)
def test_settings_without_a_training_are_one_line_and_leave_no_folder(tmp_path, given, message):
    with pytest.raises(ValueError, match=message):
        train_here(flags(tmp_path / "run", *given))
    assert not (tmp_path / "run").exists()


def test_a_folder_of_images_is_trained_on_until_a_broken_one(tmp_path, monkeypatch):
    for name, color in (("red", (255, 0, 0)), ("blue", (0, 0, 255))):
        (tmp_path / "data" / name).mkdir(parents=True)
        for i in range(10):
            Image.new("RGB", (12 + i, 12), color).save(tmp_path / "data" / name / f"{i}.png")
    given = ["--data", str(tmp_path / "data"), "--val-share", "0.2", "--lr", "1e-2"]
    train_here(flags(tmp_path / "run", *given))
    assert float((tmp_path / "run" / "metrics.csv").read_text().splitlines()[-1].split(",")[4]) == 1
    for path in (tmp_path / "data" / "red").iterdir():
        path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(ValueError, match=r"data/red/\d\.png cannot be read as an image"):
        train_here(flags(tmp_path / "broken", *given))


def test_the_digits_keep_their_values_on_the_way_to_the_model():
    from sklearn.datasets import load_digits

    settings = make(DeiTSettings, {"image_size": 8, "val_share": 0.05})
    _, val = datasets(settings, load_data(settings))
    image, label = val[3]
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    gray = image * std[:, None, None] + mean[:, None, None]
    digits = load_digits()
    expected = torch.tensor((16 * digits.images).clip(0, 255) / 255, dtype=torch.float32)
    distances = (expected - gray[0]).abs().amax(dim=(1, 2))
    assert distances.min() < 1e-6
    assert digits.target[distances.argmin()] == label


def test_photographs_are_evaluated_as_timm_evaluates_a_deit(tmp_path):
    from timm.data import create_transform, resolve_model_data_config

    photo = Image.effect_noise((400, 300), 90).convert("RGB")
    settings = make(DeiTSettings, {"size": "small", "image_size": 224, "data": "photos", "interpolation": "random"})
    _, val = datasets(settings, Split([], [(photo, 0)], ["cat"]))
    expected = create_transform(**resolve_model_data_config(build_model(settings, 2)))(photo)
    torch.testing.assert_close(val[0][0], expected)


@pytest.mark.parametrize(("size", "millions"), [("tiny", 5.7), ("small", 22.1), ("base", 86.6)])
def test_the_models_have_their_papers_sizes(size, millions):
    with torch.device("meta"):
        model = build_model(make(DeiTSettings, {"size": size, "image_size": 224}), 1000)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.05)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_is_the_papers_setup(path):
    s = parse(DeiTSettings, "", ["--config", str(path)])
    assert (s.image_size, s.batch_size, s.lr, s.mixup, s.cutmix, s.random_erase) == (224, 1024, 1e-3, 0.8, 1.0, 0.25)
    assert (s.auto_augment, s.precision) == ("rand-m9-mstd0.5", "fp16")
    assert s.max_steps == 300 * (1_281_167 // s.batch_size)
    assert s.warmup_steps == 6280
    size, optimizer, rule = path.stem.split("_")
    assert (s.size, s.optimizer) == ({"s": "small", "b": "base"}[size], optimizer)
    if size == "b":
        assert (s.warmup_lr, s.min_lr, s.drop_path, s.color_jitter, s.interpolation) == (
            1e-6,
            1e-5,
            0.1,
            0.3,
            "bicubic",
        )
    if rule.startswith("wd"):
        assert s.weight_decay == float(rule[2:])
    elif rule.startswith("ws"):
        assert (s.kappa_init_method, s.kappa_init_param) == ("warm_start", 6280 * int(rule[2]))
    else:
        assert (s.kappa_init_method, s.reg_step_size) == ("inflection_point", 628)


def test_there_is_a_config_for_each_column_of_the_papers_table():
    assert len(CONFIGS) == 13  # 7 of DeiT-S, 6 of DeiT-B
