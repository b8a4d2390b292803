"""deepcopy, pickle and add_param_group keep every attribute and go on as the original."""

import copy
import pickle

import pytest
import torch
from optim_helpers import CLASSES, RULES, Pull, assert_same_bits, make, matrix, one_step

from nnunet_cpr.optim import AdamCPR, cpr


def continue_both(pull, opt, params, twin, twins, start=60, stop=120):
    pull.run(opt, params, start, stop)
    pull.run(twin, twins, start, stop)
    assert_same_bits([p.detach() for p in params], [p.detach() for p in twins])
    for p, q in zip(params, twins, strict=True):
        assert set(opt.state[p]) == set(twin.state[q])


@pytest.mark.parametrize("way", ["deepcopy", "pickle"])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", CLASSES)
def test_a_copy_continues_bit_for_bit(name, rule, way):
    pull = Pull(dtype=torch.bfloat16)
    params = pull.params()
    opt = make(name, params, rule, adaptive_bounds=True)
    pull.run(opt, params, 0, 60)
    if way == "deepcopy":
        twins, twin = copy.deepcopy((params, opt))
    else:
        twins, twin = pickle.loads(pickle.dumps((params, opt)))
    assert type(twin) is type(opt)
    continue_both(pull, opt, params, twin, twins)


@pytest.mark.parametrize("base", [torch.optim.RMSprop, torch.optim.NAdam])
def test_classes_made_by_cpr_too(base):
    pull = Pull(dtype=torch.float32)
    params = pull.params()
    opt = cpr(base)(params, lr=0.01, kappa_init_method="dependent", kappa_init_param=0.8)
    pull.run(opt, params, 0, 60)
    for copied in (copy.deepcopy((params, opt)), pickle.loads(pickle.dumps((params, opt)))):
        _, twin = copied
        assert type(twin) is cpr(base)
        assert [tuple(r) for r in twin.constraints()] == [tuple(r) for r in opt.constraints()]


def test_a_copy_is_independent():
    p = matrix(4, 4)
    opt = AdamCPR([p], kappa_init_method="uniform", kappa_init_param=1.0, kappa_update=0.1)
    one_step(opt, [p])
    lam = opt.state[p]["lagmul"].clone()
    twin = copy.deepcopy(opt)
    one_step(twin, [twin.param_groups[0]["params"][0]])
    assert torch.equal(opt.state[p]["lagmul"], lam)


def test_a_copy_accepts_new_groups_with_the_same_defaults():
    opt = AdamCPR([matrix(4, 4)], kappa_init_method="uniform", kappa_init_param=2.0, reg_function="huber")
    for twin in (copy.deepcopy(opt), pickle.loads(pickle.dumps(opt))):
        twin.add_param_group({"params": [matrix(3, 3)]})
        group = twin.param_groups[-1]
        assert (group["kappa_init_method"], group["kappa_init_param"], group["reg_function"]) == (
            "uniform",
            2.0,
            "huber",
        )


class TestAddParamGroup:
    def test_the_new_group_takes_the_defaults_and_counts_its_own_steps(self):
        p, q = matrix(4, 4), matrix(3, 3)
        opt = AdamCPR([p], kappa_init_method="warm_start", kappa_init_param=5)
        for _ in range(10):
            one_step(opt, [p])
        opt.add_param_group({"params": [q]})
        for _ in range(4):
            one_step(opt, [p, q])
        assert [int(opt.state[x]["cpr_step"]) for x in (p, q)] == [14, 4]
        assert opt.state[q]["kappa"] == float("inf")
        one_step(opt, [p, q])
        one_step(opt, [p, q])
        assert float(opt.state[q]["kappa"]) == pytest.approx(float((q.detach() ** 2).sum()), rel=1e-5)

    def test_its_own_settings(self):
        p, q = matrix(4, 4), matrix(3)
        opt = AdamCPR([p])
        opt.add_param_group(
            {"params": [q], "regularize": True, "kappa_init_method": "uniform", "kappa_init_param": 0.1, "lr": 0.5}
        )
        one_step(opt, [p, q])
        assert opt.state[q]["lagmul"] > 0
        assert opt.param_groups[1]["lr"] == 0.5

    def test_a_bad_one_is_refused_and_not_added(self):
        opt = AdamCPR([matrix(4, 4)])
        with pytest.raises(ValueError, match="reg_function"):
            opt.add_param_group({"params": [matrix(2, 2)], "reg_function": "l0"})
        assert len(opt.param_groups) == 1
