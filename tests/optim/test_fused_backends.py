"""What fused kernels compute: the same on every backend and with torch's own operators."""

import contextlib
import math

import pytest
import torch
from fused_backends import GPU, kernels
from optim_helpers import (
    BASE_KWARGS,
    CLASSES,
    FUSED_BOUND,
    FUSED_OPTIONS,
    STEP_FORMS,
    Pull,
    assert_same_bits,
    bits,
    changed_default,
    make_fused,
    round_trip,
)
from reference import algorithm1

from nnunet_cpr.optim import fused

# FUSED_OPTIONS has one on the CPU.
RATES = ["a vector on the device"] if GPU == "cpu" else ["a vector on the device", "on the device"]
OPTIONS = [*FUSED_OPTIONS, *[("Adam", {"lr": rate}) for rate in RATES]]
both_optimizers = pytest.mark.parametrize("name", CLASSES)


def shapes(backend):
    """Also tensors of two chunks, of one element and of none; the vector is not regularized."""
    return ((7, 5), (backend.chunk + 100, 1), (4, 3, 3, 3), (7,), (0, 3), (1, 1))


def assert_updated(backend, steps, tensors=1):
    """Kernels have updated this many tensors in this many steps, and torch's own operators in all others."""
    assert [len(some) for some in backend.updated] == ([tensors] * steps if backend.name else [])


@kernels
@pytest.mark.parametrize("form", STEP_FORMS)
@pytest.mark.parametrize("name, options", OPTIONS)
def test_equals_the_plain_path(name, options, form, backend):
    rates = {
        "on the device": torch.tensor(0.02, device=backend.device),
        "a vector on the device": torch.tensor([0.02], device=backend.device),
    }
    options = {key: rates.get(value, value) if key == "lr" else value for key, value in options.items()}
    pull = Pull(shapes(backend), dtype=torch.float32)
    runs = []
    for choice in (backend.name, None):
        with fused.use(choice):
            params = pull.params(backend.device)
            opt = make_fused(params, name, step_form=form, **options)
            sign = -1 if options.get("maximize") else 1
            pull.run(opt, params, 0, 3, scale=sign)
            assert any(constraint.active for constraint in opt.constraints())
            pull.run(opt, params, 3, 16, scale=sign)
            runs.append((params, [p.grad for p in params], [opt.state[p] for p in params]))
        assert_updated(backend, steps=15, tensors=5)  # the first step has no states, and the vector takes torch's own
    torch.testing.assert_close(*runs, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("form", STEP_FORMS)
def test_equals_algorithm_1_step_by_step(form, backend):
    pull = Pull(((3 * backend.chunk - 1, 1),), dtype=torch.float32)
    (p,) = params = pull.params(backend.device)
    opt = make_fused(params, step_form=form)
    constraint = algorithm1.Constraint(algorithm1.Settings(reg_function="l2", step_form=form, **FUSED_BOUND))
    adam = algorithm1.Adam(**BASE_KWARGS["Adam"])
    for step in range(20):
        (grad,) = pull.grads(params, step)
        expected = adam.step(constraint.step(p.detach().double().cpu()), grad.double().cpu())
        p.grad = grad
        opt.step()
        torch.testing.assert_close(p.detach().double().cpu(), expected, rtol=1e-6, atol=1e-6)
        constraint.lam = float(opt.state[p]["lagmul"])  # float32's own, so that rounding does not add up
    assert constraint.lam > 0
    assert_updated(backend, steps=19)


@both_optimizers
@pytest.mark.parametrize("step", [1, 2, 1000, 1_000_000])
def test_a_step_after_many(name, step, backend):
    """1 - beta ** step keeps its digits: 1e-3 in the first step, and 1 in the end."""
    pull = Pull(((7, 5),), dtype=torch.float32)
    ends, betas = [], {"betas": (0.9, 0.999)} if name == "Adam" else {}
    bound = {"kappa_init_method": "uniform", "kappa_init_param": 1e30}
    for cls, settings in ((CLASSES[name], bound), (getattr(torch.optim, name), {})):
        (p,) = params = pull.params(backend.device)
        opt = cls(params, **{**BASE_KWARGS[name], **betas}, fused=True, **settings)
        pull.run(opt, params, 0, 1)
        if name == "Adam":
            opt.state[p]["step"].fill_(step - 1)
        before = p.detach().clone()
        pull.run(opt, params, 1, 2)
        ends.append(p.detach() - before)
    assert_updated(backend, steps=1)
    torch.testing.assert_close(*ends, rtol=2e-6, atol=1.2e-7)  # one rounding of a weight below 2


@both_optimizers
def test_resumes_bit_for_bit(name, backend):
    pull = Pull(shapes(backend), dtype=torch.float32)
    params = pull.params(backend.device)
    opt = make_fused(params, name)
    pull.run(opt, params, 0, 8)
    resumed = [torch.nn.Parameter(p) for p in bits(params)]
    other = make_fused(resumed, name)
    other.load_state_dict(round_trip(opt.state_dict()))
    pull.run(opt, params, 8, 16)
    pull.run(other, resumed, 8, 16)
    assert_same_bits(bits(params), bits(resumed))
    assert_updated(backend, steps=7 + 8 + 8, tensors=5)


@both_optimizers
@pytest.mark.parametrize("unscaled", [False, True])
def test_grad_scaler_skips_and_scales(name, unscaled, backend):
    """As without it, but for the skipped steps. Unscaled: the user has called `scaler.unscale_`."""
    pull = Pull(shapes(backend)[:2], dtype=torch.float32)
    runs, scale = [], 1.0 if unscaled else 4.0
    for scaled in (True, False):
        params = pull.params(backend.device)
        opt = make_fused(params, name)
        for step in range(14):
            bad = step % 5 == 2
            assert step != 3 or any(constraint.active for constraint in opt.constraints())
            if scaled:
                opt.found_inf = torch.tensor(float(bad), device=backend.device)
                opt.grad_scale = None if unscaled else torch.tensor(scale, device=backend.device)
                before = bits(params) + [v.clone() for p in params for v in opt.state[p].values()]
                pull.run(opt, params, step, step + 1, scale=math.inf if bad else scale)
                if bad:
                    after = bits(params) + [v for p in params for v in opt.state[p].values()]
                    assert_same_bits(before, after)
            elif not bad:
                pull.run(opt, params, step, step + 1)
        runs.append((params, [opt.state[p] for p in params], [p.grad for p in params]))
        if backend.name == "c" and scaled:
            assert backend.updated == []  # these kernels leave it to torch
    # 13 steps with GradScaler, of which the skipped ones count, too, and 10 without.
    assert_updated(backend, steps=10 if backend.name == "c" else 13 + 10, tensors=2)
    torch.testing.assert_close(*runs, rtol=1e-5, atol=1e-6)


@kernels
def test_an_autograd_graph_notices_the_new_weights(backend):
    pull = Pull(((7, 5),), dtype=torch.float32)
    (p,) = params = pull.params(backend.device)
    opt = make_fused(params)
    pull.run(opt, params, 0, 3)
    loss = (p**2).sum()
    pull.run(opt, params, 3, 4)
    assert_updated(backend, steps=3)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_a_changing_lr_is_followed(backend):
    pull = Pull(((7, 5),), dtype=torch.float32)
    ends = []
    for fuse in (True, False):
        (p,) = params = pull.params(backend.device)
        opt = make_fused(params, fused=fuse)
        for step in range(20):
            opt.param_groups[0]["lr"] = 0.02 * (20 - step) / 20
            opt.param_groups[0]["betas"] = (0.8 + 0.01 * (step % 10), 0.99)
            pull.run(opt, params, step, step + 1)
        ends.append(p.detach())
    assert_updated(backend, steps=19)
    torch.testing.assert_close(*ends, rtol=1e-5, atol=1e-6)


def test_momentum_switched_off_is_torchs_own(backend):
    ends = []
    for fuse in (True, False):
        pull = Pull(((7, 5),), dtype=torch.float32)
        (p,) = params = pull.params(backend.device)
        opt = make_fused(params, "SGD", fused=fuse, dampening=0.5)
        pull.run(opt, params, 0, 5)
        opt.param_groups[0]["momentum"] = 0
        pull.run(opt, params, 5, 10)
        ends.append(p.detach())
    assert_updated(backend, steps=4)
    torch.testing.assert_close(*ends)


@both_optimizers
def test_two_of_three_tensors_are_bounded_in_turn(name, backend):
    """As many as in the step before, but others: their weights and states change, not those of the first two."""
    pull = Pull(((7, 5), (13, 7), (4, 3, 3, 3)), dtype=torch.float32)
    runs = []
    for choice in (None, backend.name):
        with fused.use(choice):
            params = pull.params(backend.device)
            opt = make_fused(params, name)
            pull.run(opt, params, 0, 2)
            for step in range(2, 12):
                for index, param in enumerate(params):
                    free = index == step % 3
                    opt.state[param]["kappa"].fill_(math.inf if free else 1.0)
                    if free:
                        opt.state[param]["lagmul"].zero_()
                pull.run(opt, params, step, step + 1)
            runs.append((params, [opt.state[p] for p in params]))
    updated = [[index for index, p in enumerate(params) if any(p is q for q in some)] for some in backend.updated]
    # Only the GPU knows which tensors are bounded, so its kernels take all of them.
    assert updated[-3:] == {"c": [[1, 2], [0, 2], [0, 1]], "triton": [[0, 1, 2]] * 3, None: []}[backend.name]
    torch.testing.assert_close(*runs, rtol=1e-5, atol=1e-6)


@both_optimizers
def test_kernels_can_be_switched_off_and_on(name, backend):
    pull = Pull(((7, 5), (13, 7)), dtype=torch.float32)
    runs = []
    for switch in (False, True):
        params = pull.params(backend.device)
        opt = make_fused(params, name)
        for start in range(0, 12, 4):
            with fused.use(None if switch and start == 4 else backend.name):
                pull.run(opt, params, start, start + 4)
        runs.append((params, [opt.state[p] for p in params]))
    assert_updated(backend, steps=11 + 7, tensors=2)
    torch.testing.assert_close(*runs, rtol=1e-5, atol=1e-6)


def unaligned(x):
    return torch.cat([x.new_zeros(1), x.reshape(-1)])[1:].view(x.shape)


def channels_last(x):
    return x.to(memory_format=torch.channels_last)


@pytest.mark.parametrize("layout", [unaligned, channels_last])
@both_optimizers
def test_memory_layouts(name, layout, backend):
    """Views that begin anywhere, and a dense layout that weights, gradients and states share."""
    ends = []
    for change in (layout, torch.clone):
        pull = Pull(((4, 3, 3, 3), (2, 5, backend.chunk // 8, 1)), dtype=torch.float32)
        params = [torch.nn.Parameter(change(p.detach())) for p in pull.params(backend.device)]
        opt = make_fused(params, name)
        for step in range(10):
            for p, g in zip(params, pull.grads(params, step), strict=True):
                p.grad = change(g)
            opt.step()
        if backend.name == "triton":
            assert backend.cache.variant.align == (4 if change is unaligned else 16)
        ends.append([p.detach().contiguous() for p in params])
    assert_updated(backend, steps=2 * 9, tensors=2)
    torch.testing.assert_close(*ends, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("value", [torch.bfloat16, torch.float64, "meta"])
def test_other_defaults(value, backend):
    """A default dtype or device that the user has set makes no difference."""
    ends = []
    for context in (changed_default(value), contextlib.nullcontext()):
        pull = Pull(((7, 5),), dtype=torch.float32)
        params = pull.params(backend.device)
        opt = make_fused(params)
        gradients = [pull.grads(params, step) for step in range(4)]
        with context:
            for step in range(4):
                for p, g in zip(params, gradients[step], strict=True):
                    p.grad = g
                opt.step()
        ends.append(bits(params))
    assert_same_bits(*ends)
    assert_updated(backend, steps=3 + 3)


def test_weights_that_are_not_finite(backend):
    pull = Pull(((7, 5),), dtype=torch.float32)
    (p,) = params = pull.params(backend.device)
    opt = make_fused(params)
    pull.run(opt, params, 0, 3)
    with torch.no_grad():
        p[0, 0] = math.nan
    pull.run(opt, params, 3, 5)
    assert p.isnan().any() and opt.state[p]["lagmul"].isnan()
    assert_updated(backend, steps=4)
