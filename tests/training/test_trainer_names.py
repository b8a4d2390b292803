"""The grammar of the trainers' names against hand-written meanings."""

import itertools
import re
from dataclasses import fields

import pytest

from nnunet_cpr.optim import SGDCPR, AdamCPR
from nnunet_cpr.optim.bounds import RULES
from nnunet_cpr.optim.regularizers import REGULARIZERS
from nnunet_cpr.training.settings import FAMILIES, PARTS, CPRSettings, TrainerSettings, parse

CPR = dict(kappa_init_method="warm_start", kappa_init_param=1000, reg_function="l2", kappa_update=1.0,
           step_form="explicit", adaptive_bounds=False)  # fmt: skip

# name, what differs from TrainerSettings' own defaults, what differs from CPR above (None: no CPR)
MEANINGS = [
    ("nnUNetTrainerCPR", dict(optimizer="SGD", lr=0.01), {}),
    ("nnUNetTrainerAdamCPR", dict(optimizer="Adam", lr=0.001), {}),
    ("nnUNetTrainerSGD", dict(optimizer="SGD", lr=0.01, weight_decay=3e-5), None),
    ("nnUNetTrainerAdamW", dict(optimizer="AdamW", lr=0.001, weight_decay=0.01), None),
    ("nnUNetTrainerAdamCPR_ip", dict(optimizer="Adam", lr=0.001),
     dict(kappa_init_method="inflection_point", kappa_init_param=None)),
    ("nnUNetTrainerCPR_ki0.8_std", dict(optimizer="SGD", lr=0.01),
     dict(kappa_init_method="dependent", kappa_init_param=0.8, reg_function="std")),
    ("nnUNetTrainerCPR_k2.5_huber", dict(optimizer="SGD", lr=0.01),
     dict(kappa_init_method="uniform", kappa_init_param=2.5, reg_function="huber")),
    ("nnUNetTrainerCPR_l1_mu1e-2_proximal_adaptive", dict(optimizer="SGD", lr=0.01),
     dict(reg_function="l1", kappa_update=0.01, step_form="proximal", adaptive_bounds=True)),
    ("nnUNetTrainerAdamW_wd5e-2_lr3e-4", dict(optimizer="AdamW", lr=3e-4, weight_decay=0.05), None),
    ("nnUNetTrainerSGD_wd0", dict(optimizer="SGD", lr=0.01, weight_decay=0.0), None),
    ("nnUNetTrainerSGD_20epochs_100iters_seed7_bf16",
     dict(optimizer="SGD", lr=0.01, weight_decay=3e-5, epochs=20, iterations=100, seed=7, bf16=True), None),
    ("nnUNetTrainerCPR_seed0", dict(optimizer="SGD", lr=0.01, seed=0), {}),
    ("nnUNetTrainerCPR_warmup2000", dict(optimizer="SGD", lr=0.01, warmup_steps=2000), dict(kappa_init_param=2000)),
    ("nnUNetTrainerAdamCPR_ip_warmup50", dict(optimizer="Adam", lr=0.001, warmup_steps=50),
     dict(kappa_init_method="inflection_point", kappa_init_param=None)),
]  # fmt: skip

# On top of another trainer, what the name does not say is None. The longest name that there is, is the base's.
LEFT = dict(lr=None, epochs=None, iterations=None)
MEANINGS += [
    ("nnUNetTrainerCPR_on_nnUNetTrainerDA5", LEFT | dict(optimizer="SGD", base="nnUNetTrainerDA5"), {}),
    ("nnUNetTrainerAdamCPR_on_nnUNetTrainer_5epochs_ws20", LEFT | dict(optimizer="Adam", base="nnUNetTrainer_5epochs"),
     dict(kappa_init_param=20)),
    ("nnUNetTrainerCPR_on_nnUNetTrainer_6epochs_ws20", LEFT | dict(optimizer="SGD", base="nnUNetTrainer", epochs=6),
     dict(kappa_init_param=20)),
    ("nnUNetTrainerSGD_on_nnUNet_Primus_S_Trainer", LEFT | dict(optimizer="SGD", base="nnUNet_Primus_S_Trainer",
                                                               weight_decay=None), None),
    ("nnUNetTrainerAdamW_on_nnUNetTrainer_250epochs_NoMirroring_wd0_lr1e-3_7iters_seed1",
     dict(optimizer="AdamW", base="nnUNetTrainer_250epochs_NoMirroring", lr=1e-3, weight_decay=0.0, epochs=None,
          iterations=7, seed=1), None),
]  # fmt: skip

# The paper's Table J.1 with Table J.2's protocol: 125k steps for BTCV, 25k for Heart and BraTS, 2000 steps of warmup.
for epochs in (500, 100):
    protocol = dict(optimizer="SGD", lr=0.01, warmup_steps=2000, epochs=epochs, iterations=250)
    MEANINGS += [
        (f"nnUNetTrainerSGD_wd{text}_warmup2000_{epochs}epochs", protocol | dict(weight_decay=decay), None)
        for text, decay in [("1e-5", 0.00001), ("1e-4", 0.0001), ("1e-3", 0.001), ("1e-2", 0.01), ("1e-1", 0.1)]
    ] + [
        (f"nnUNetTrainerCPR_ws{steps}_warmup2000_{epochs}epochs", protocol, dict(kappa_init_param=steps))
        for steps in (1000, 2000, 3000, 4000)
    ]


DEFAULTS = dict(weight_decay=0.0, warmup_steps=0, epochs=1000, iterations=250, seed=None, bf16=False, base=None)


@pytest.mark.parametrize(("name", "changes", "cpr"), MEANINGS, ids=[m[0] for m in MEANINGS])
def test_meaning(name, changes, cpr):
    expected = DEFAULTS | {"name": name} | changes | {"cpr": None if cpr is None else CPRSettings(**(CPR | cpr))}
    settings = parse(name)
    assert {f.name: getattr(settings, f.name) for f in fields(settings)} == expected


def test_the_papers_step_counts():
    assert parse("nnUNetTrainerCPR_warmup2000_500epochs").total_steps == 125_000
    assert parse("nnUNetTrainerCPR_warmup2000_100epochs").total_steps == 25_000


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("nnUNetTrainerCPR_ws0", "at least 1"),
        ("nnUNetTrainerCPR_ws", "cannot read"),
        ("nnUNetTrainerCPR_ws-5", "cannot read"),
        ("nnUNetTrainerCPR_ws1.5", "cannot read"),
        ("nnUNetTrainerCPR_ws١٠", "cannot read"),
        ("nnUNetTrainerCPR_0epochs", "at least 1"),
        ("nnUNetTrainerCPR_0iters", "at least 1"),
        ("nnUNetTrainerCPR_warmup0", "at least 1"),
        ("nnUNetTrainerCPR_k0", "must be positive"),
        ("nnUNetTrainerCPR_ki0.0", "must be positive"),
        ("nnUNetTrainerCPR_k1e999", "not a finite number"),
        ("nnUNetTrainerCPR_kinf", "cannot read"),
        ("nnUNetTrainerCPR_munan", "cannot read"),
        ("nnUNetTrainerCPR_mu0", "must be positive"),
        ("nnUNetTrainerCPR_lr0", "must be positive"),
        ("nnUNetTrainerCPR_lr-1", "cannot read"),
        ("nnUNetTrainerCPR_seed4294967296", "below 2**32"),
        ("nnUNetTrainerCPR_l3", "cannot read"),
        ("nnUNetTrainerCPR_", "cannot read"),
        ("nnUNetTrainerCPR__ip", "cannot read"),
        ("nnUNetTrainerCPR_IP", "cannot read"),
        ("nnUNetTrainerCPR_ws10_ws10", "a second time"),
        ("nnUNetTrainerCPR_ws10_ip", "bound rule a second time"),
        ("nnUNetTrainerCPR_k1_ki1", "bound rule a second time"),
        ("nnUNetTrainerCPR_l1_std", "regularizer a second time"),
        ("nnUNetTrainerCPR_proximal_proximal", "a second time"),
        ("nnUNetTrainerCPR_wd1e-2", "for trainers with weight decay"),
        ("nnUNetTrainerSGD_ip", "for trainers with CPR"),
        ("nnUNetTrainerAdamW_mu1", "for trainers with CPR"),
        ("nnUNetTrainerSGD_proximal", "for trainers with CPR"),
        ("nnUNetTrainerCPR_on_", "no trainer"),
        ("nnUNetTrainerCPR_on", "cannot read"),
        ("nnUNetTrainerCPR_on_nnUNetTrainerXY_ws2", "no trainer nnUNetTrainerXY_ws2"),
        ("nnUNetTrainerCPR_on_nnUNetTrainerDA5ws2", "no trainer nnUNetTrainerDA5ws2"),
        ("nnUNetTrainerCPR_on_nnUNetTrainerDA5_ws2_ip", "bound rule a second time"),
        ("nnUNetTrainerCPR_on_nnUNetTrainerDA5_wd1", "for trainers with weight decay"),
        ("nnUNetTrainerCPR_on_nnUNetTrainerAdamW", "own"),
        ("nnUNetTrainerCPR_ws2_on_nnUNetTrainerDA5", "cannot read"),
        ("nnUNetTrainerCPRws10", "underscore"),
        ("nnUNetTrainerCPR.ws10", "underscore"),
        ("nnUNetTrainer", "does not begin"),
        ("nnUNetTrainerAdam", "does not begin"),
        ("nnUNetTrainer_100epochs", "does not begin"),
        ("", "does not begin"),
    ],
)
def test_not_a_trainer(name, reason):
    with pytest.raises(ValueError, match=reason.replace("*", r"\*")) as error:
        parse(name)
    assert "\n" not in str(error.value)


def test_parts_in_any_order_mean_the_same():
    parts = ["ws2000", "std", "mu0.5", "warmup500", "10epochs"]
    meanings = {parse("_".join(["nnUNetTrainerCPR", *order])) for order in itertools.permutations(parts)}
    names = {settings.name for settings in meanings}
    assert len(names) == len(meanings) == 120
    without_name = {tuple(getattr(s, f.name) for f in fields(s) if f.name != "name") for s in meanings}
    assert len(without_name) == 1


def test_every_part_changes_a_setting():
    bounds = [re.sub("<.*>", "7", rule.spelling) for rule in RULES.values()]
    regularizers = [name for name in REGULARIZERS if name != CPR["reg_function"]]
    examples = [*bounds, *regularizers, "mu2", "proximal", "adaptive", "wd1", "warmup7", "7epochs", "7iters", "lr7",
                "seed7", "bf16"]  # fmt: skip
    used = set()
    for example in examples:
        family = "nnUNetTrainerSGD" if example == "wd1" else "nnUNetTrainerCPR"
        changed = parse(f"{family}_{example}")
        assert changed != TrainerSettings(**{**vars(FAMILIES[family]), "name": changed.name})
        (part,) = [part for part in PARTS if part.read(example) is not None]
        used.add(part)
    assert used == set(PARTS)


@pytest.mark.parametrize(
    ("name", "steps", "reason"),
    [
        ("nnUNetTrainerCPR", 1000, "warm start takes 1000"),
        ("nnUNetTrainerCPR_warmup500_ip", 500, "warmup takes 500"),
        ("nnUNetTrainerSGD_warmup500", 400, "warmup takes 500"),
    ],
)
def test_too_short_a_training(name, steps, reason):
    with pytest.raises(ValueError, match=reason):
        parse(name).check_length(steps)
    parse(name).check_length(1001)


def test_other_rules_have_no_warm_start_to_fit():
    for name in ("nnUNetTrainerCPR_k1", "nnUNetTrainerCPR_ki1", "nnUNetTrainerCPR_ip", "nnUNetTrainerSGD"):
        parse(name).check_length(1)


def test_inflection_point_is_sampled_ten_times_in_a_warmup():
    """The paper's rule; without warmup the optimizer's own 200 steps hold."""
    assert parse("nnUNetTrainerAdamCPR_ip_warmup5000").optimizer_arguments()["reg_step_size"] == 500
    assert parse("nnUNetTrainerAdamCPR_ip_warmup5").optimizer_arguments()["reg_step_size"] == 1
    assert "reg_step_size" not in parse("nnUNetTrainerAdamCPR_ip").optimizer_arguments()
    assert "reg_step_size" not in parse("nnUNetTrainerAdamCPR_warmup5000").optimizer_arguments()


def test_the_optimizers_take_every_setting():
    import torch

    for name, _, cpr in MEANINGS:
        if cpr is not None:
            settings = parse(name)
            optimizer_class = SGDCPR if settings.optimizer == "SGD" else AdamCPR
            optimizer = optimizer_class(torch.nn.Linear(3, 2), lr=settings.lr or 0.1, **settings.optimizer_arguments())
            assert optimizer.param_groups[0]["kappa_init_method"] == settings.cpr.kappa_init_method


def test_a_name_that_no_folder_could_have_is_refused_in_a_short_line():
    with pytest.raises(ValueError, match=r"has 316 characters, but may have 200$"):
        parse("nnUNetTrainerCPR_lr0." + "0" * 294 + "1")
