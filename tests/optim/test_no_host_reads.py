"""A step never waits for the device: nothing of a tensor is read by the host, also in the step that sets a bound."""

import sys

import pytest
import torch
from optim_helpers import (
    CLASSES,
    FUSED_SGD_LEAVES_OUT_HALF,
    REGULARIZER_NAMES,
    RULES,
    STEP_FORMS,
    Pull,
    cpr_settings,
    make,
)
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from nnunet_cpr.optim import CPR, fused
from nnunet_cpr.optim.warm_start import in_warm_start

aten = torch.ops.aten
READS = {
    aten._local_scalar_dense,
    aten.is_nonzero,
    aten.equal,
    aten.nonzero,
    aten.masked_select,
    aten.unique_dim,
    aten._unique2,
}


class Reads(TorchDispatchMode):
    """Lists the operators that would make an accelerator's host wait."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket in READS:
            self.seen.append(str(func))
        if func.overloadpacket in (aten.index, aten.index_put_) and any(
            isinstance(i, torch.Tensor) and i.dtype == torch.bool for i in args[1]
        ):
            self.seen.append(f"{func} by a mask")
        return func(*args, **(kwargs or {}))


@pytest.fixture
def reads(monkeypatch):
    """`Reads`, plus the ways past the dispatcher. What is for the CPU alone, whose host is the device, stays out."""
    # Not nnunet_cpr.optim.optimizer, which is the function.
    monkeypatch.setattr(sys.modules[CPR.__module__], "in_warm_start", lambda *_: False)
    mode = Reads()
    for name in ("tolist", "numpy", "__array__", "cpu"):
        original = getattr(torch.Tensor, name)

        def noted(self, *args, _original=original, _name=name, **kwargs):
            mode.seen.append(_name)
            return _original(self, *args, **kwargs)

        monkeypatch.setattr(torch.Tensor, name, noted)
    with fused.use(None):
        yield mode


def run(opt, params, pull, mode, steps, start=0):
    for step in range(start, start + steps):
        for p, g in zip(params, pull.grads(params, step), strict=True):
            p.grad = g
        with mode:
            opt.step()


@pytest.mark.parametrize("form", STEP_FORMS)
@pytest.mark.parametrize("reg", REGULARIZER_NAMES)
@pytest.mark.parametrize("rule", RULES)
def test_every_rule_and_regularizer(reads, rule, reg, form):
    pull = Pull(dtype=torch.float32)
    params = pull.params()
    settings = {"step_form": form, "adaptive_bounds": True, "kappa_update": 0.3}
    opt = make("Adam", params, rule, reg, fused=True, **settings)
    for start in range(0, 320, 40):
        if start < 120 or not torch.isfinite(opt.state[params[0]]["kappa"]):  # how long it takes depends on R
            run(opt, params, pull, reads, 40, start)
    assert torch.isfinite(opt.state[params[0]]["kappa"])
    assert reads.seen == []


@pytest.mark.parametrize("fuse", [True, False])
@pytest.mark.parametrize("name", CLASSES)
def test_no_more_than_the_base(reads, name, fuse):
    counts = []
    dtype = torch.float32 if name == "SGD" and FUSED_SGD_LEAVES_OUT_HALF else torch.bfloat16
    for base in (CLASSES[name], CLASSES[name].__mro__[2]):
        pull = Pull(dtype=dtype)
        params = pull.params()
        settings = cpr_settings("dependent") if base is CLASSES[name] else {}
        reads.seen.clear()
        run(base(params, lr=0.01, fused=fuse, **settings), params, pull, reads, 5)
        counts.append(len(reads.seen))
    assert counts[0] == counts[1]


def test_whether_a_warm_start_lasts_is_not_asked_elsewhere():
    values = {name: torch.empty(2, device="meta") for name in ("cpr_step", "kappa", "lagmul")}
    assert not in_warm_start(values, {"kappa_init_method": "warm_start", "kappa_init_param": 10})


@pytest.mark.parametrize("fuse", [True, False])
@pytest.mark.parametrize("name", CLASSES)
def test_steps_without_data(name, fuse):
    """As of torch's estimators of memory: a CPU's fake tensors have no values to read."""
    with FakeTensorMode():
        p = torch.nn.Parameter(torch.ones(4, 3))
        opt = make(name, [p], "warm_start", fused=fuse)
        for _ in range(3):
            p.grad = torch.ones(4, 3)
            opt.step()
    assert opt.state[p]["cpr_step"].shape == ()


def test_skipped_steps_of_grad_scaler(reads):
    pull = Pull(dtype=torch.float32)
    params = pull.params()
    opt = make("Adam", params, "dependent", fused=True)
    opt.found_inf, opt.grad_scale = torch.tensor(1.0), torch.tensor(4.0)  # what GradScaler hands over
    run(opt, params, pull, reads, 3)
    assert reads.seen == []


def test_the_watch_sees_reads(reads):
    x = torch.ones(3)
    with reads:
        x.sum().item()
        bool(x[0])
        float(x[1])
        x.tolist()
        x[x > 0]
    assert len(reads.seen) >= 5


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("reg", REGULARIZER_NAMES)
@pytest.mark.parametrize("rule", RULES)
def test_on_a_gpu_torch_itself_sees_no_synchronization(rule, reg):
    pull = Pull(dtype=torch.float32)
    params = [torch.nn.Parameter(p.detach().cuda()) for p in pull.params()]
    opt = make("Adam", params, rule, reg, fused=True)
    for p in params:
        p.grad = torch.zeros_like(p)
    opt.step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(40):
            opt.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
