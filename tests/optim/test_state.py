"""What loading a state and adding a group do besides resuming."""

import copy

import pytest
import torch
from optim_helpers import Pull, one_step
from torch._subclasses import FakeTensorMode

from nnunet_cpr.optim import SGDCPR, AdamCPR


def test_a_checkpoint_of_plain_adam_loads_and_cpr_starts_afresh():
    pull = Pull(shapes=((7, 5),), dtype=torch.float32)
    params = pull.params()
    plain = torch.optim.Adam(params, lr=0.02)
    pull.run(plain, params, 0, 20)
    opt = AdamCPR(params, lr=0.5, kappa_init_method="warm_start", kappa_init_param=5)
    opt.load_state_dict(plain.state_dict())
    assert opt.param_groups[0]["lr"] == 0.02
    assert opt.param_groups[0]["kappa_init_param"] == 5
    pull.run(opt, params, 20, 26)
    assert opt.state[params[0]]["step"] == 26
    assert opt.state[params[0]]["cpr_step"] == 6
    assert opt.state[params[0]]["kappa"].isfinite()


def test_loading_respects_a_hook_that_changes_the_state_and_leaves_the_argument_alone():
    pull = Pull(shapes=((7, 5),), dtype=torch.bfloat16)
    params = pull.params()
    opt = AdamCPR(params, kappa_init_method="dependent", kappa_init_param=0.5)
    pull.run(opt, params, 0, 3)
    saved = opt.state_dict()
    before = copy.deepcopy(saved)

    def double(_, state):
        state = copy.deepcopy(state)
        state["state"][0]["kappa"] *= 2
        return state

    opt.register_load_state_dict_pre_hook(double)
    opt.load_state_dict(saved)
    assert opt.state[params[0]]["kappa"] == 2 * before["state"][0]["kappa"]
    assert saved["state"][0]["kappa"] == before["state"][0]["kappa"]
    assert saved["param_groups"] == before["param_groups"]


def test_a_refused_group_is_not_added():
    opt = AdamCPR([torch.nn.Parameter(torch.ones(2, 2))])
    with pytest.raises(ValueError, match="reg_function"):
        opt.add_param_group({"params": [torch.nn.Parameter(torch.ones(2, 2))], "reg_function": "l3"})
    assert len(opt.param_groups) == 1
    opt.add_param_group({"params": [torch.nn.Parameter(torch.ones(2, 2))], "reg_function": "std"})
    assert [g["reg_function"] for g in opt.param_groups] == ["l2", "std"]


@pytest.mark.skipif(
    torch.__version__ < "2.14" and not torch.cuda.is_available(),
    reason="fake tensors of torch 2.6 and 2.8 ask for a CUDA driver",
)
def test_scalars_on_another_device_follow_their_weights():
    """ZeroRedundancyOptimizer loads them to the CPU. Fake tensors know devices that are not there."""
    with FakeTensorMode():
        p = torch.nn.Parameter(torch.empty(3, 3, device="cuda"))
        opt = SGDCPR([p], lr=0.1, foreach=False)
        one_step(opt, [p])
        opt.state[p] = {key: value.cpu() for key, value in opt.state[p].items()}
        one_step(opt, [p])
        assert {value.device.type for value in opt.state[p].values()} == {"cuda"}


def test_a_scalar_of_a_state_dict_is_saved_alone(tmp_path):
    """In the state it is one element of a vector with those of the other tensors."""
    params = [torch.nn.Parameter(torch.randn(2, 2)) for _ in range(500)]
    opt = AdamCPR(params)
    one_step(opt, params)
    assert opt.state[params[0]]["kappa"].untyped_storage().nbytes() == 500 * 4
    saved = opt.state_dict()
    for key, value in saved["state"][0].items():
        assert value.untyped_storage().nbytes() == value.nbytes, key
        torch.save(value, tmp_path / key)
        loaded = torch.load(tmp_path / key, weights_only=True)
        torch.testing.assert_close(loaded, opt.state[params[0]][key], rtol=0, atol=0, equal_nan=True)


def test_a_state_dict_is_that_of_its_moment_and_hooks_see_it():
    p = torch.nn.Parameter(torch.randn(3, 3))
    opt = AdamCPR([p], kappa_init_method="dependent", kappa_init_param=0.5)
    one_step(opt, [p])
    seen = []
    opt.register_state_dict_post_hook(lambda _, state: seen.append(state["state"][0]["lagmul"]))
    saved = opt.state_dict()
    lagmul = saved["state"][0]["lagmul"].clone()
    assert seen[0] is saved["state"][0]["lagmul"]
    one_step(opt, [p])
    assert saved["state"][0]["lagmul"] == lagmul != opt.state[p]["lagmul"]
    assert len(opt._optimizer_state_dict_post_hooks) == 1
