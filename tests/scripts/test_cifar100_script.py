"""scripts/train_cifar100.py: the model against torchvision's, every optimizer and rule, exact resume, downloads."""

import math
import re
from pathlib import Path

import pytest
import torch
import torchvision
from harness.parsing import make, parse
from script_helpers import ROOT, losses, stop_after
from train_cifar100 import CIFAR100Settings, build_model, train

from nnunet_cpr.optim.bounds import RULES

CONFIGS = sorted((ROOT / "configs" / "cifar100").glob("*.yaml"))


def flags(out: Path, *more: str) -> list[str]:
    small = (
        f"--out {out} --device cpu --width 2 --max-steps 7 --warmup-steps 2 --batch-size 4 --val-share 0.01 "
        "--eval-every 3 --log-every 1 --trace-every 1 --checkpoint-every 3"
    )
    return [*small.split(), *more]


def train_here(given: list[str]) -> None:
    train(parse(CIFAR100Settings, "", given))


@pytest.fixture
def fake_cifar100(monkeypatch):
    """torchvision's FakeData in the place of CIFAR100."""

    class Fake(torchvision.datasets.FakeData):
        def __init__(self, root, train, transform, download):
            assert download
            self.classes = [str(number) for number in range(100)]
            super().__init__(20 if train else 10, (3, 32, 32), 100, transform)

    monkeypatch.setattr(torchvision.datasets, "CIFAR100", Fake)


def test_the_model_is_torchvisions_but_for_its_stem():
    torch.manual_seed(0)
    model = build_model(make(CIFAR100Settings, {"width": 64}), 100)
    reference = torchvision.models.resnet18(num_classes=100)
    reference.conv1 = torch.nn.Conv2d(3, 64, 3, padding=1, bias=False)
    reference.maxpool = torch.nn.Identity()
    reference.load_state_dict(model.state_dict())
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(model(images), reference(images))
    assert sum(p.numel() for p in model.parameters()) == 11_220_132


def test_a_run_on_cifar100s_shapes(tmp_path, fake_cifar100):
    train_here(flags(tmp_path / "run", "--data", str(tmp_path), "--hflip", "0.5"))
    rows = losses(tmp_path / "run")
    assert float(rows[0][1]) == pytest.approx(math.log(100), abs=0.6)
    assert [row[0] for row in rows if row[3]] == ["3", "6", "7"]


def test_the_digits_are_learned(tmp_path, capsys):
    given = "--width 4 --max-steps 40 --batch-size 32 --lr 1e-2 --val-share 0.05 --eval-every 40 --log-every 40"
    train_here(flags(tmp_path / "run", *given.split(), "--checkpoint-every", "40"))
    assert float(re.findall(r"val_accuracy ([\d.]+)", capsys.readouterr().out)[-1]) > 0.25  # guessing gets 0.1


@pytest.mark.parametrize("optimizer", ["adamcpr", "sgdcpr"])
@pytest.mark.parametrize("function", ["l2", "std"])
@pytest.mark.parametrize("rule", RULES)
def test_every_rule_bounds_the_weights_it_says(tmp_path, fake_cifar100, monkeypatch, optimizer, function, rule):
    import harness.run

    monkeypatch.setattr(harness.run, "draw_curves", lambda *_: None)  # slow, and tested elsewhere
    parameter = "2" if RULES[rule].counts_steps else {"uniform": "100"}.get(rule, "0.5")
    given = [
        "--data",
        "fake",
        "--optimizer",
        optimizer,
        "--reg-function",
        function,
        "--kappa-init-method",
        rule,
        *(["--kappa-init-param", parameter] if RULES[rule].parameter else []),
        *(["--reg-step-size", "1"] if "reg_step_size" in RULES[rule].settings else []),
    ]
    train_here(flags(tmp_path / "run", *given, "--eval-every", "7", "--checkpoint-every", "7"))
    trace = [row.split(",") for row in (tmp_path / "run" / "cpr_trace.csv").read_text().splitlines()[1:]]
    assert {row[0] for row in trace} == {str(step) for step in range(1, 8)}
    conv1 = [row for row in trace if row[1] == "conv1.weight"]
    bounded = [int(row[0]) for row in conv1 if row[3] and math.isfinite(float(row[3]))]
    if rule == "uniform":
        assert {row[3] for row in conv1} == {"100"}
    elif rule == "warm_start":
        assert min(bounded) in (2, 3)
        assert bounded[-1] == 7
    elif rule == "dependent":
        assert bounded == list(range(1, 8))


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_the_optimizers_without_a_bound(tmp_path, optimizer):
    train_here(flags(tmp_path / "run", "--optimizer", optimizer, "--eval-every", "7", "--checkpoint-every", "7"))
    assert len(losses(tmp_path / "run")) == 7
    assert not (tmp_path / "run" / "cpr_trace.csv").exists()


def test_a_resumed_run_has_the_same_losses(tmp_path, monkeypatch):
    train_here(flags(tmp_path / "whole"))
    with monkeypatch.context() as patch:
        stop_after(patch, 5)
        with pytest.raises(KeyboardInterrupt):
            train_here(flags(tmp_path / "broken"))
    train_here(flags(tmp_path / "broken", "--resume"))
    assert losses(tmp_path / "broken") == losses(tmp_path / "whole")  # evaluations see the buffers, too


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    with pytest.raises(ValueError, match=r"not finite in step \d; .*checkpoint"):
        train_here(flags(tmp_path / "run", "--optimizer", "sgd", "--lr", "1e30"))


def test_a_download_that_fails_is_one_line_and_leaves_no_folder(tmp_path, monkeypatch):
    def fails(*_, **__):
        raise RuntimeError("File not found or corrupted.")

    monkeypatch.setattr(torchvision.datasets, "CIFAR100", fails)
    message = "CIFAR100 can neither be read from data nor downloaded: File not found or corrupted."
    with pytest.raises(ValueError, match=message):
        train_here(flags(tmp_path / "run", "--data", "data"))
    assert not (tmp_path / "run").exists()


def test_too_few_images_and_a_run_of_another_script_are_one_line(tmp_path, fake_cifar100):
    with pytest.raises(ValueError, match="20 training images are too few for a batch of 21"):
        train_here(flags(tmp_path / "run", "--data", "x", "--batch-size", "21"))
    (tmp_path / "config.json").write_text('{"settings": {"size": "s"}}')
    with pytest.raises(ValueError, match="is of another script or version"):
        train_here(["--resume", "--out", str(tmp_path)])


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_is_the_papers_setup(path):
    s = parse(CIFAR100Settings, "", ["--config", str(path)])
    assert (s.width, s.batch_size, s.max_steps, s.warmup_steps) == (64, 128, 20000, 500)
    optimizer, *rest = path.stem.split("_")
    assert s.optimizer == optimizer
    if optimizer.startswith("adam"):
        assert (s.lr, s.betas) == (1e-3, (0.9, 0.98))
    assert s.reg_function == ("std" if "std" in rest else "l2" if optimizer.endswith("cpr") else None)
    steps = {"ws500": 500, "ws1k": 1000, "ws2k": 2000}
    if rest and rest[-1] in steps:
        assert (s.kappa_init_method, s.kappa_init_param) == ("warm_start", steps[rest[-1]])
    elif rest and rest[-1] == "ip":
        assert (s.kappa_init_method, s.reg_step_size) == ("inflection_point", 50)
    elif rest and rest[-1].startswith("wd"):
        assert s.weight_decay == float(rest[-1][2:])
