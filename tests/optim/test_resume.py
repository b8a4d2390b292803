"""Saved, loaded into fresh objects and continued equals uninterrupted, bit for bit."""

import math

import pytest
import torch
from optim_helpers import (
    CLASSES,
    REGULARIZER_NAMES,
    RULES,
    STEP_FORMS,
    Pull,
    assert_same_bits,
    make,
    matrix,
    one_step,
    round_trip,
)

from nnunet_cpr.optim import SGDCPR, AdamCPR

BEFORE, AFTER, END = 20, 200, 260


def everything(opt, params):
    """Weights and all the state there is."""
    values = [p.detach() for p in params]
    for p in params:
        values += [torch.as_tensor(v) for _, v in sorted(opt.state[p].items()) if v is not None]
    return [v.clone() for v in values]


def check(name, dtype, rule, reg, **kwargs):
    pull = Pull(dtype=dtype)
    params = pull.params()
    opt = make(name, params, rule, reg, kappa_update=0.3, **kwargs)
    saved = {}
    for start, stop in ((0, BEFORE), (BEFORE, AFTER), (AFTER, END)):
        pull.run(opt, params, start, stop)
        saved[stop] = ([p.detach().clone() for p in params], round_trip(opt.state_dict()))
    kappas = [float(saved[stop][1]["state"][0]["kappa"]) for stop in (BEFORE, AFTER)]
    if rule in ("warm_start", "inflection_point"):
        assert math.isinf(kappas[0])
    assert math.isfinite(kappas[1]), "the problem must have set the bound"
    for stop in (BEFORE, AFTER):
        weights, state = saved[stop]
        fresh = [torch.nn.Parameter(w.clone()) for w in weights]
        again = CLASSES[name](fresh)  # nothing but the class: all settings come from the file
        again.load_state_dict(state)
        pull.run(again, fresh, stop, END)
        assert_same_bits(everything(again, fresh), everything(opt, params))
        assert again.state_dict()["param_groups"] == opt.state_dict()["param_groups"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("reg", REGULARIZER_NAMES)
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", CLASSES)
def test_every_rule_and_regularizer(name, rule, reg, dtype):
    check(name, dtype, rule, reg)


@pytest.mark.parametrize("form", STEP_FORMS)
@pytest.mark.parametrize("rule", RULES)
def test_adaptive_bounds_and_step_forms(rule, form):
    check("Adam", torch.float32, rule, "l2", step_form=form, adaptive_bounds=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_state_is_float32_or_wider_before_and_after_loading(dtype):
    p = matrix(6, 6, dtype=dtype)
    opt = AdamCPR([p], kappa_init_method="dependent", kappa_init_param=0.7)
    one_step(opt, [p])
    wanted = torch.float64 if dtype == torch.float64 else torch.float32
    q = matrix(6, 6, dtype=dtype)
    fresh = AdamCPR([q])
    fresh.load_state_dict(round_trip(opt.state_dict()))
    for state in (opt.state[p], fresh.state[q]):
        for key in ("lagmul", "kappa"):
            assert state[key].dtype == wanted
            assert state[key].shape == ()
    assert_same_bits(
        [fresh.state[q]["kappa"], fresh.state[q]["lagmul"]], [opt.state[p]["kappa"], opt.state[p]["lagmul"]]
    )


def test_loading_shares_no_memory_with_what_was_loaded():
    p, q = matrix(4, 4), matrix(4, 4)
    opt = AdamCPR([p], kappa_init_method="uniform", kappa_init_param=1.0, kappa_update=0.1)
    one_step(opt, [p])
    state = opt.state_dict()
    before = state["state"][0]["lagmul"].clone()
    fresh = AdamCPR([q])
    fresh.load_state_dict(state)
    one_step(fresh, [q])
    assert torch.equal(state["state"][0]["lagmul"], before)
    assert torch.equal(opt.state[p]["lagmul"], before)


def test_saved_before_the_first_step():
    pull = Pull(dtype=torch.float32)
    params, fresh = pull.params(), pull.params()
    opt = make("Adam", params, "warm_start")
    again = AdamCPR(fresh)
    again.load_state_dict(round_trip(opt.state_dict()))
    pull.run(opt, params, 0, 50)
    pull.run(again, fresh, 0, 50)
    assert_same_bits(everything(again, fresh), everything(opt, params))


def test_groups_keep_their_own_settings_through_a_file():
    a, b = matrix(4, 4), matrix(3, 3)
    groups = [
        {"params": [a], "kappa_init_method": "uniform", "kappa_init_param": 3.0},
        {"params": [b], "reg_function": "std", "regularize": True},
    ]
    opt = AdamCPR(groups, lr=1e-3, kappa_update=0.25)
    fresh = AdamCPR([{"params": [matrix(4, 4)]}, {"params": [matrix(3, 3)]}])
    fresh.load_state_dict(round_trip(opt.state_dict()))
    for ours, theirs in zip(fresh.param_groups, opt.param_groups, strict=True):
        assert {k: v for k, v in ours.items() if k != "params"} == {k: v for k, v in theirs.items() if k != "params"}


def test_a_model_with_named_groups():
    model = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.Linear(5, 3))
    opt = AdamCPR(model, lr=1e-2, kappa_init_method="dependent", kappa_init_param=0.9)
    one_step(opt, list(model.parameters()))
    other = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.Linear(5, 3))
    other.load_state_dict(model.state_dict())
    fresh = AdamCPR(other)
    fresh.load_state_dict(round_trip(opt.state_dict()))
    assert [tuple(row) for row in fresh.constraints()] == [tuple(row) for row in opt.constraints()]


class TestPlainCheckpoints:
    """A run with the base optimizer goes on with CPR."""

    def test_adam_into_adamcpr(self):
        pull = Pull(shapes=((5, 4), (4,)), dtype=torch.float32)
        params = pull.params()
        adam = torch.optim.Adam(params, lr=0.02, betas=(0.8, 0.95))
        pull.run(adam, params, 0, 30)
        opt = AdamCPR(params, lr=0.5, kappa_init_method="warm_start", kappa_init_param=7, reg_function="l1")
        opt.load_state_dict(round_trip(adam.state_dict()))
        group = opt.param_groups[0]
        assert (group["lr"], group["betas"]) == (0.02, (0.8, 0.95))
        assert (group["kappa_init_method"], group["kappa_init_param"], group["reg_function"]) == ("warm_start", 7, "l1")
        twins = [torch.nn.Parameter(p.detach().clone()) for p in params]
        plain = torch.optim.Adam(twins)
        plain.load_state_dict(round_trip(adam.state_dict()))
        plain.param_groups[0]["fused"] = True
        for step in range(30, 38):
            assert math.isinf(opt.state[params[0]].get("kappa", math.inf))
            pull.run(opt, params, step, step + 1)
            pull.run(plain, twins, step, step + 1)
        assert_same_bits([p.detach() for p in params], [p.detach() for p in twins])
        assert math.isfinite(opt.state[params[0]]["kappa"])
        assert int(opt.state[params[0]]["cpr_step"]) == 8
        assert int(opt.state[params[0]]["step"]) == 38

    def test_sgd_into_sgdcpr(self):
        pull = Pull(shapes=((5, 4),), dtype=torch.float32)
        params = pull.params()
        sgd = torch.optim.SGD(params, lr=0.01, momentum=0.9, nesterov=True)
        pull.run(sgd, params, 0, 5)
        opt = SGDCPR(params, lr=0.5)
        opt.load_state_dict(round_trip(sgd.state_dict()))
        assert opt.param_groups[0]["momentum"] == 0.9
        pull.run(opt, params, 5, 10)
        assert "momentum_buffer" in opt.state[params[0]]

    def test_weight_decay_in_the_checkpoint_is_refused_not_applied(self):
        p = matrix(4, 4)
        adamw = torch.optim.AdamW([p], weight_decay=0.1)
        one_step(adamw, [p])
        opt = AdamCPR([p])
        before = p.detach().clone()
        with pytest.raises(ValueError, match="weight_decay"):
            opt.load_state_dict(adamw.state_dict())
            one_step(opt, [p])
        assert torch.equal(p.detach(), before)

    def test_another_number_of_groups_is_torchs_error(self):
        opt = AdamCPR([{"params": [matrix(2, 2)]}, {"params": [matrix(2, 2)]}])
        with pytest.raises(ValueError, match="group"):
            opt.load_state_dict(torch.optim.Adam([matrix(2, 2)]).state_dict())


def test_load_hooks_of_the_user_still_run():
    p = matrix(4, 4)
    opt = AdamCPR([p], kappa_init_method="uniform", kappa_init_param=5.0)
    one_step(opt, [p])
    fresh = AdamCPR([matrix(4, 4)])
    seen = []
    fresh.register_load_state_dict_pre_hook(lambda o, s: seen.append("pre"))
    fresh.register_load_state_dict_post_hook(lambda o: seen.append("post"))
    fresh.load_state_dict(opt.state_dict())
    fresh.load_state_dict(opt.state_dict())
    assert seen == ["pre", "post"] * 2


def test_loading_from_the_other_precision():
    """A bf16 run goes on in fp32: kappa is a number of its own, not a weight."""
    p = matrix(6, 6, dtype=torch.bfloat16)
    opt = AdamCPR([p], kappa_init_method="dependent", kappa_init_param=0.7)
    one_step(opt, [p])
    q = torch.nn.Parameter(p.detach().float())
    fresh = AdamCPR([q])
    fresh.load_state_dict(round_trip(opt.state_dict()))
    assert float(fresh.state[q]["kappa"]) == float(opt.state[p]["kappa"])
