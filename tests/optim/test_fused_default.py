"""Optimizers are fused where torch can, however their parameters are given, and with the results of torch's loop."""

import copy

import pytest
import torch
from fused_backends import skip_where_missing, watched
from optim_helpers import Pull, make, matrix, round_trip

from nnunet_cpr.optim import SGDCPR, AdamCPR, cpr, fused
from nnunet_cpr.optim.fused import c_build

BOUND = {"kappa_init_method": "dependent", "kappa_init_param": 0.8, "kappa_update": 0.3}
LR = {"lr": 0.01}


def groups_of(params):
    return [{"params": params[:1]}, {"params": params[1:], "lr": 0.1}]


@pytest.mark.parametrize("cls", [AdamCPR, SGDCPR, cpr(torch.optim.AdamW), cpr(torch.optim.Adagrad)])
@pytest.mark.parametrize("given", ["model", "parameters", "names", "groups"])
def test_however_the_parameters_are_given(cls, given):
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))
    params = {
        "model": model,
        "parameters": model.parameters(),
        "names": model.named_parameters(),
        "groups": groups_of(list(model.parameters())),
    }[given]
    opt = cls(params, **LR)
    assert [group["fused"] for group in opt.param_groups] == [True] * len(opt.param_groups)
    opt.add_param_group({"params": [matrix(3, 3)]})
    assert opt.param_groups[-1]["fused"] is True


@pytest.mark.parametrize("flags", [{"fused": False}, {"foreach": True}, {"foreach": False}, {"differentiable": True}])
@pytest.mark.parametrize("in_group", [False, True])
def test_the_user_decides(flags, in_group):
    params = [matrix(3, 3), matrix(2, 2)]
    opt = AdamCPR(groups_of(params), **LR, **flags) if not in_group else AdamCPR([{"params": params, **flags}], **LR)
    assert not any(group["fused"] for group in opt.param_groups)
    opt.add_param_group({"params": [matrix(3, 3)]})
    assert not opt.param_groups[-1]["fused"]


@pytest.mark.parametrize("cls", [AdamCPR, SGDCPR])
def test_contradictory_flags_are_torchs_one_line(cls):
    with pytest.raises(RuntimeError, match="`fused` and `foreach` cannot be `True` together"):
        cls([matrix(3, 3)], lr=0.1, fused=True, foreach=True)


@pytest.mark.parametrize("base", [torch.optim.NAdam, torch.optim.RMSprop])
def test_a_base_without_it(base):
    opt = cpr(base)([matrix(3, 3)], **LR)
    assert "fused" not in opt.param_groups[0]


def test_a_parameter_that_cannot_be_fused_decides_for_all():
    """As torch decides for foreach: one optimizer, one way."""
    wide = torch.nn.Parameter(torch.randn(4, 6)[:, ::2])
    opt = AdamCPR([matrix(3, 3), matrix(2, 2)], **LR)
    assert opt.param_groups[0]["fused"] is True
    opt.add_param_group({"params": [wide]})
    assert [group["fused"] for group in opt.param_groups] == [None, None]


def test_other_libraries_may_clip_gradients():
    """They refuse where an optimizer says that it unscales gradients itself, as torch's fused ones do."""
    assert not getattr(AdamCPR([matrix(3, 3)], **LR), "_step_supports_amp_scaling", False)


@pytest.mark.parametrize("name", ["Adam", "SGD"])
@pytest.mark.parametrize("saved", [None, False, True])
def test_any_checkpoint_goes_on_fused(name, saved):
    """Also one from before this was the default, which says None; equal to the run that was not interrupted."""
    pull = Pull(dtype=torch.float32)
    whole, params = pull.params(), pull.params()
    uninterrupted = make(name, whole, "dependent", kappa_init_param=0.8, fused=False)
    pull.run(uninterrupted, whole, 0, 40)
    first = make(name, params, "dependent", kappa_init_param=0.8, fused=bool(saved))
    pull.run(first, params, 0, 20)
    state = round_trip(first.state_dict())
    for group in state["param_groups"]:
        group["fused"] = saved
    second = make(name, params, "dependent", kappa_init_param=0.8)
    second.load_state_dict(state)
    assert all(group["fused"] is True for group in second.param_groups)
    pull.run(second, params, 20, 40)
    torch.testing.assert_close(params, whole, rtol=1e-5, atol=1e-6)
    assert copy.deepcopy(second).param_groups[0]["fused"] is True


def sparse_training(**flags):
    torch.manual_seed(0)
    table, layer = torch.nn.Embedding(6, 3, sparse=True), torch.nn.Linear(3, 2)
    groups = [{"params": [layer.weight]}, {"params": [table.weight], "regularize": False}]
    opt = SGDCPR(groups, **LR, **BOUND, **flags)
    for step in range(5):
        opt.zero_grad()
        layer(table(torch.tensor([step, 1]))).square().sum().backward()
        opt.step()
    return opt, [layer.weight, table.weight]


def test_sparse_gradients_of_other_tensors():
    """torch's fused SGD refuses them; its loop takes them."""
    opt, ours = sparse_training()
    assert opt.param_groups[0]["fused"] is None
    torch.testing.assert_close(ours, sparse_training(fused=False)[1])


def transposed(values):
    return values.t().contiguous().t()


@pytest.mark.parametrize("name", ["Adam", "SGD"])
@pytest.mark.parametrize("bounded", [True, False])
@pytest.mark.parametrize("change", ["gradients", "states", "gaps"])
def test_memory_layouts_make_no_difference(name, bounded, change):
    """torch's fused optimizers on a CPU take gradients, states and weights in memory order, whatever the strides."""
    ends = []
    for flags in ({}, {"fused": False}):
        pull = Pull(shapes=((7, 5),), dtype=torch.float32)
        (p,) = pull.params()
        if change == "gaps":
            p = torch.nn.Parameter(torch.cat([p.data, p.data], 1)[:, ::2])
        rule = {"kappa_init_method": "dependent" if bounded else "warm_start", "kappa_init_param": 1}
        opt = make(name, [p], **{"rule": "dependent", **flags, **rule})
        pull.run(opt, [p], 0, 5)
        if change == "states":
            state = opt.state_dict()
            values = state["state"][0]
            values.update({k: transposed(v) for k, v in values.items() if v.ndim == 2})
            opt.load_state_dict(state)
        for step in range(5, 10):
            p.grad = pull.grads([p], step)[0]
            p.grad = transposed(p.grad) if change == "gradients" else p.grad
            opt.step()
        ends.append(p.detach().clone())
    torch.testing.assert_close(*ends, rtol=1e-5, atol=1e-6)


def test_gaps_with_fused_asked_for_are_refused():
    """torch would take the numbers in the gaps for weights."""
    p = torch.nn.Parameter(torch.randn(4, 6)[:, ::2])
    opt = AdamCPR([p], fused=True, **LR)
    p.grad = torch.ones_like(p)
    before = p.detach().clone()
    with pytest.raises(ValueError, match=r"a weight of shape \(4, 3\) has gaps in memory"):
        opt.step()
    assert torch.equal(p.detach(), before)


HALF = [torch.bfloat16, torch.float16]


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("later", [False, True])
@pytest.mark.parametrize("name", ["Adam", "SGD"])
def test_half_precision_weights_are_updated_whole(name, dtype, later):
    """Before torch 2.14, its fused SGD on a CPU leaves out all whole SIMD blocks of such weights."""
    start = torch.linspace(-1, 1, 11 * 13).view(11, 13)
    ends = []
    for flags in ({}, {"fused": False}):
        p = torch.nn.Parameter(start.clone() if later else start.to(dtype))
        opt = make(name, [p], rule="dependent", lr=0.25, **flags)
        if later:
            p.data = p.data.to(dtype)
        for step in range(4):
            p.grad = torch.cos(start + step).to(dtype)
            opt.step()
        ends.append(p.detach().double())
    assert (ends[1] - start).abs().min() > 0
    torch.testing.assert_close(*ends, rtol=0, atol=8 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", HALF)
def test_where_torch_leaves_out_half_precision(monkeypatch, dtype):
    monkeypatch.setattr("nnunet_cpr.optim.fused.default._SGD_LEAVES_OUT_HALF", True)
    half, single = torch.nn.Parameter(torch.ones(4, 8, dtype=dtype)), matrix(4, 8)
    fused = [
        opt.param_groups[0]["fused"] for opt in (SGDCPR([half], **LR), AdamCPR([half], **LR), SGDCPR([single], **LR))
    ]
    assert fused == [None, True, True]
    opt = SGDCPR([half], fused=True, **LR)
    half.grad = torch.ones_like(half)
    with pytest.raises(ValueError, match=rf"a weight is {str(dtype)[6:]}, and torch .* does not update such weights"):
        opt.step()
    assert torch.equal(half.detach(), torch.ones(4, 8, dtype=dtype))
    opt = SGDCPR([single], **LR)
    single.data, single.grad = single.data.to(dtype), None
    single.grad = torch.ones_like(single)
    opt.step()
    assert opt.param_groups[0]["fused"] is None


def test_a_weight_that_gets_gaps_later():
    (p,), (twin,) = ([matrix(4, 6)] for _ in range(2))
    opts = [AdamCPR([w], **LR, **BOUND, **flags) for w, flags in ((p, {}), (twin, {"fused": False}))]
    for step in range(6):
        for w, opt in zip((p, twin), opts, strict=True):
            if step == 3:
                w.data = torch.cat([w.data, w.data], 1)[:, ::2].clone(memory_format=torch.preserve_format)
                w.data = torch.stack([w.data, w.data], -1)[..., 0]
            w.grad = torch.cos(w.detach() + step)
            opt.step()
    assert opts[0].param_groups[0]["fused"] is None
    torch.testing.assert_close(p.detach(), twin.detach())


def test_groups_that_the_user_changes_stay_as_they_are():
    params = [matrix(3, 3), matrix(2, 2)]
    opt = AdamCPR([{"params": [p]} for p in params], **LR)
    opt.param_groups[0]["fused"] = False
    for p in params:
        p.grad = torch.ones_like(p)
    opt.step()
    assert [group["fused"] for group in opt.param_groups] == [False, True]


class TestSwitch:
    """The environment variable NNUNET_CPR_KERNELS."""

    def train(self):
        pull = Pull(shapes=((7, 5),), dtype=torch.float32)
        params = pull.params()
        with watched("c") as kernels:
            pull.run(AdamCPR(params, **LR, **BOUND), params, 0, 4)
        return len(kernels.updated)

    @pytest.mark.parametrize("value, steps", [(None, 3), ("auto", 3), ("c", 3), ("none", 0)])
    def test_chooses(self, value, steps, monkeypatch):
        """The C kernels by default, from the second step on."""
        skip_where_missing("c")
        if value is not None:
            monkeypatch.setenv(fused.SWITCH, value)
        assert self.train() == steps

    def test_a_wrong_value(self, monkeypatch):
        monkeypatch.setenv(fused.SWITCH, "trition")
        with pytest.raises(
            ValueError, match="NNUNET_CPR_KERNELS is 'trition', but must be one of auto, c, triton, none"
        ):
            AdamCPR([matrix(3, 3)], **LR)

    def test_kernels_that_cannot_run_here(self, monkeypatch):
        monkeypatch.setenv(fused.SWITCH, "triton")
        with pytest.raises(ValueError, match="cannot run: the parameters are on cpu; unset it"):
            AdamCPR([matrix(3, 3)], **LR)
        monkeypatch.setenv(fused.SWITCH, "c")
        monkeypatch.setattr(c_build, "why_not", lambda: "no C compiler found: cc")
        with pytest.raises(ValueError, match="cannot run: no C compiler found: cc; unset it"):
            AdamCPR([matrix(3, 3)], **LR)

    def test_an_unknown_backend(self):
        with pytest.raises(ValueError, match="no backend 'C'"), fused.use("C"):
            pass


def nnunet_step(scaler, opt, params):
    """As nnU-Net's trainer steps."""
    scaler.unscale_(opt)
    torch.nn.utils.clip_grad_norm_(params, 12)
    scaler.step(opt)
    scaler.update()


@pytest.mark.parametrize("cls", [AdamCPR, SGDCPR])
def test_nnunets_grad_scaler_flow(cls):
    """Equal to the loop; a step whose gradients overflow moves nothing."""
    ends = []
    for flags in ({}, {"fused": False}, {"fused": True}):
        pull = Pull(dtype=torch.float32)
        params = pull.params()
        opt, scaler = cls(params, **LR, **BOUND, **flags), torch.amp.GradScaler("cpu", init_scale=8.0)
        for step in range(20):
            scale = scaler.scale(torch.ones(()))
            for p, g in zip(params, pull.grads(params, step), strict=True):
                p.grad = g * scale * (float("inf") if step == 10 else 1)
            before = [p.detach().clone() for p in params]
            nnunet_step(scaler, opt, params)
            moved = not all(torch.equal(a, b) for a, b in zip(before, params, strict=True))
            assert moved == (step != 10)
        assert int(opt.state[params[0]]["cpr_step"]) == 19
        ends.append(params)
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ends[0], ends[2], rtol=1e-5, atol=1e-6)
