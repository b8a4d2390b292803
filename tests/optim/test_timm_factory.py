"""timm's optimizer factory by registered name, as timm's train.py uses it."""

import argparse
import math
import pickle
import subprocess
import sys

import pytest
import torch
from optim_helpers import assert_same_bits, bits, documented

from nnunet_cpr.optim import SGDCPR, AdamCPR

timm = pytest.importorskip("timm", reason="needs timm (pip install 'nnunet-cpr[deit]')")
from timm.models import resume_checkpoint  # noqa: E402
from timm.optim import create_optimizer_v2, get_optimizer_class, list_optimizers, optimizer_kwargs  # noqa: E402
from timm.scheduler import create_scheduler_v2  # noqa: E402
from timm.utils import CheckpointSaver, ParseKwargs  # noqa: E402

import nnunet_cpr.optim.timm  # noqa: E402, F401

WARM = {"kappa_init_method": "warm_start", "kappa_init_param": 3}
TOKENS = {"cls_token", "pos_embed"}


def vit():
    torch.manual_seed(0)
    return timm.create_model(
        "vit_tiny_patch16_224", img_size=16, patch_size=8, embed_dim=8, depth=2, num_heads=2, num_classes=3
    )


def regularized(model):
    """The names that timm decays, by its documented rule: neither vectors nor tokens."""
    return {name for name, p in model.named_parameters() if p.ndim > 1 and name not in TOKENS}


def split(optimizer, model):
    """The names in groups that are regularized, and those in the others."""
    names = {p: name for name, p in model.named_parameters()}
    sets = {True: set(), False: set()}
    for group in optimizer.param_groups:
        sets[group["regularize"]] |= {names[p] for p in group["params"]}
    return sets[True], sets[False]


def train(model, optimizer, start, stop, before_epoch=lambda epoch: None):
    """Epochs of three batches."""
    for epoch in range(start, stop):
        before_epoch(epoch)
        for index in range(3):
            g = torch.Generator().manual_seed(3 * epoch + index)
            x, y = torch.randn(4, 3, 16, 16, generator=g), torch.randint(3, (4,), generator=g)
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()


def arguments(line):
    """The flags of timm's train.py that concern the optimizer."""
    parser = argparse.ArgumentParser()
    for flag, kind, default in (
        ("opt", str, "sgd"), ("lr", float, None), ("weight-decay", float, 2e-5), ("momentum", float, 0.9),
        ("opt-eps", float, None), ("layer-decay", float, None),
    ):  # fmt: skip
        parser.add_argument(f"--{flag}", type=kind, default=default)
    parser.add_argument("--opt-betas", nargs="+", type=float)
    parser.add_argument("--opt-kwargs", nargs="*", default={}, action=ParseKwargs)
    return parser.parse_args(line.split())


def from_command_line(model, line):
    args = arguments(line)
    return create_optimizer_v2(model, **optimizer_kwargs(cfg=args), **args.opt_kwargs)


def by_hand(model, cls, **options):
    some = regularized(model)
    parameters = list(model.named_parameters())
    groups = [
        {"params": [p for name, p in parameters if name not in some], "regularize": False},
        {"params": [p for name, p in parameters if name in some], "regularize": True},
    ]
    return cls(groups, **WARM, **options)


@pytest.mark.parametrize(
    "name, cls, options",
    [
        ("adamcpr --lr 0.01", AdamCPR, {"lr": 0.01}),
        ("adamcpr --lr 0.01 --opt-betas 0.8 0.9", AdamCPR, {"lr": 0.01, "betas": (0.8, 0.9)}),
        ("sgdcpr --lr 0.05", SGDCPR, {"lr": 0.05, "momentum": 0.9, "nesterov": True}),
    ],
)
def test_the_command_line_of_the_train_script(name, cls, options):
    ours, plain = vit(), vit()
    line = f"--opt {name} --opt-kwargs kappa_init_method=warm_start kappa_init_param=3 kappa_update=0.5"
    optimizer = from_command_line(ours, line)
    reference = by_hand(plain, cls, kappa_update=0.5, **options)
    assert type(optimizer) is cls
    train(ours, optimizer, 0, 4)
    train(plain, reference, 0, 4)
    assert any(c.active for c in reference.constraints())
    assert_same_bits(bits(ours.parameters()), bits(plain.parameters()))


@pytest.mark.parametrize("weight_decay", [1e-6, 0.05, 10.0])
def test_only_what_timm_would_decay_is_regularized_and_nothing_is_decayed(weight_decay):
    model = vit()
    optimizer = create_optimizer_v2(model, "adamcpr", lr=1e-3, weight_decay=weight_decay)
    every = {name for name, _ in model.named_parameters()}
    assert split(optimizer, model) == (regularized(model), every - regularized(model))
    assert all(group["weight_decay"] == 0 for group in optimizer.param_groups)


def test_without_the_filter_everything_is_regularized_as_it_would_be_decayed():
    model = vit()
    optimizer = create_optimizer_v2(model, "adamcpr", lr=1e-3, weight_decay=0.05, filter_bias_and_bn=False)
    assert split(optimizer, model) == ({name for name, _ in model.named_parameters()}, set())


def test_layer_decay():
    ours, plain = vit(), vit()
    optimizer = from_command_line(ours, "--opt adamcpr --lr 0.01 --layer-decay 0.5")
    every = {name for name, _ in ours.named_parameters()}
    assert split(optimizer, ours) == (regularized(ours), every - regularized(ours))
    create_scheduler_v2(optimizer, sched="cosine", num_epochs=10)  # writes the scaled learning rates
    rate = {p: group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert rate[ours.head.weight] == 0.01
    assert rate[ours.blocks[1].mlp.fc1.weight] == pytest.approx(0.01 * 0.5)
    assert rate[ours.blocks[0].mlp.fc1.bias] == pytest.approx(0.01 * 0.5**2)
    rates = [rate[p] for p in ours.parameters()]
    groups = [
        {"params": [p], "regularize": name in regularized(plain), "lr": lr}
        for (name, p), lr in zip(plain.named_parameters(), rates, strict=True)
    ]
    for group in optimizer.param_groups:
        group.update(WARM)
    train(ours, optimizer, 0, 3)
    reference = AdamCPR(groups, **WARM)
    train(plain, reference, 0, 3)
    assert any(c.active for c in reference.constraints())
    assert_same_bits(bits(ours.parameters()), bits(plain.parameters()))


def test_schedule_checkpoint_and_resume(tmp_path):
    def start():
        model = vit()
        optimizer = create_optimizer_v2(model, "adamcpr", lr=0.01, weight_decay=0.05, **WARM)
        return model, optimizer, create_scheduler_v2(optimizer, sched="cosine", num_epochs=6)[0]

    ours, optimizer, scheduler = start()
    train(ours, optimizer, 0, 3, scheduler.step)
    args = argparse.Namespace(model="vit")
    CheckpointSaver(ours, optimizer, args=args, checkpoint_dir=tmp_path).save_checkpoint(epoch=2)
    train(ours, optimizer, 3, 6, scheduler.step)

    again, other, its_scheduler = start()
    assert resume_checkpoint(again, str(tmp_path / "last.pth.tar"), optimizer=other) == 3
    train(again, other, 3, 6, its_scheduler.step)
    assert_same_bits(bits(again.parameters()), bits(ours.parameters()))

    def cosine(epoch):
        for group in reference.param_groups:
            group["lr"] = 0.5 * 0.01 * (1 + math.cos(math.pi * epoch / 6))

    plain = vit()
    reference = by_hand(plain, AdamCPR)
    train(plain, reference, 0, 6, cosine)
    assert any(c.active for c in reference.constraints())
    assert_same_bits(bits(ours.parameters()), bits(plain.parameters()))


def test_lookahead():
    """Every sixth step ends with weights moved outside of the optimizer: halfway back to where they last were."""
    ours, plain = vit(), vit()
    optimizer = create_optimizer_v2(ours, "lookahead_adamcpr", lr=0.01, weight_decay=0.05, **WARM)
    reference = by_hand(plain, AdamCPR, lr=0.01)
    train(ours, optimizer, 0, 6)
    slow = None
    for epoch in range(0, 6, 2):
        train(plain, reference, epoch, epoch + 2)
        with torch.no_grad():
            slow = slow or bits(plain.parameters())
            for fast, back in zip(plain.parameters(), slow, strict=True):
                fast.copy_(back.add_(fast - back, alpha=0.5))
    assert_same_bits(bits(ours.parameters()), bits(plain.parameters()))


@pytest.mark.parametrize("options", [{}, {"weight_decay": 0.0}, {"layer_decay": 0.7}])
def test_nothing_to_decay_is_refused_with_what_to_do(options):
    with pytest.raises(ValueError, match=r"AdamCPR regularizes what timm would decay.*weight_decay above 0"):
        create_optimizer_v2(vit(), "adamcpr", lr=1e-3, **options)


def test_groups_of_the_users_own():
    model = vit()
    groups = [
        {"params": [model.head.weight], "weight_decay": 0.1},
        {"params": [model.head.bias], "weight_decay": 0.1, "regularize": False},
        {"params": [model.cls_token]},
    ]
    optimizer = create_optimizer_v2(groups, "adamcpr", lr=1e-3)
    assert split(optimizer, model) == ({"head.weight"}, {"head.bias", "cls_token"})
    assert all(group["weight_decay"] == 0 for group in optimizer.param_groups)


def test_the_examples_of_the_documentation():
    code, flags, own_groups = documented("how-to/training-libraries.md", "## timm")
    space = {"model": vit()}
    exec(code, space)
    optimizer = space["optimizer"]
    assert split(optimizer, space["model"])[0] == regularized(space["model"])
    assert {group["kappa_init_param"] for group in optimizer.param_groups} == {2000}
    again = from_command_line(space["model"], flags + " --lr 1e-3")
    for group, other in zip(again.param_groups, optimizer.param_groups, strict=True):
        assert {k: v for k, v in group.items() if k != "params"} == {k: v for k, v in other.items() if k != "params"}
    exec(own_groups, space)
    assert "blocks.0.attn.qkv.weight" in [c.name for c in space["optimizer"].constraints()]


def test_the_core_does_without_timm():
    code = "import sys; sys.modules['timm'] = None; import nnunet_cpr.optim"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_both_names_are_listed():
    assert list_optimizers("*cpr") == ["adamcpr", "sgdcpr"]


@pytest.mark.parametrize("name, cls", [("adamcpr", AdamCPR), ("sgdcpr", SGDCPR)])
class TestClassLookedUp:
    def test_it_is_a_class(self, name, cls):
        found = get_optimizer_class(name, bind_defaults=False)
        assert isinstance(found, type)
        assert issubclass(found, cls)
        assert pickle.loads(pickle.dumps(found)) is found

    def test_it_makes_what_the_class_of_ours_would(self, name, cls):
        ours, plain = vit(), vit()
        optimizer = get_optimizer_class(name, bind_defaults=False)(ours, 0.01, **WARM)
        reference = cls(plain, 0.01, **WARM)
        assert type(optimizer) is cls
        train(ours, optimizer, 0, 3)
        train(plain, reference, 0, 3)
        assert optimizer.constraints() == reference.constraints()
        assert_same_bits(bits(ours.parameters()), bits(plain.parameters()))

    def test_a_weight_decay_means_what_it_does_in_the_factory(self, name, cls):
        model = vit()
        optimizer = get_optimizer_class(name, bind_defaults=False)(model.parameters(), lr=0.01, weight_decay=0.1)
        assert all(group["regularize"] and group["weight_decay"] == 0 for group in optimizer.param_groups)
        with pytest.raises(ValueError, match="weight_decay above 0"):
            get_optimizer_class(name, bind_defaults=False)(model.parameters(), lr=0.01, weight_decay=0.0)

    def test_defaults_are_bound_if_asked_for(self, name, cls):
        momentum = {"momentum": 0.9} if cls is SGDCPR else {}
        optimizer = get_optimizer_class(name)(vit().parameters(), lr=0.01, **momentum)
        assert type(optimizer) is cls
        assert optimizer.defaults.get("nesterov") is (True if cls is SGDCPR else None)
