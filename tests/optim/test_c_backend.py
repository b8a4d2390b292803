"""The compiled CPU kernel does what the plain path does, and is not missed where it cannot be had."""

import pytest
import torch
from optim_helpers import (
    CLASSES,
    FUSED_BOUND,
    FUSED_OPTIONS,
    Pull,
    assert_same_bits,
    batch_of,
    bits,
    cache_of,
    check_that_autograd_notices,
    make_fused,
    plain_path,
    round_trip,
)

from nnunet_cpr.optim import AdamCPR
from nnunet_cpr.optim.fused import c_backend, c_build
from nnunet_cpr.optim.fused.backend import TensorBatch

needs_kernel = pytest.mark.skipif(c_build.kernels() is None, reason="no C compiler, or not Linux")
SHAPES = ((7, 5), (130, 257), (4, 3, 3, 3), (7,), (0, 3), (1, 1))


@pytest.fixture
def calls(monkeypatch):
    """The number of tensors in each call of the kernel's update."""
    seen = []
    original = c_backend.run_update

    def counted(batch, layout, indices, factors):
        seen.append(len(indices))
        return original(batch, layout, indices, factors)

    monkeypatch.setattr(c_backend, "run_update", counted)
    return seen


@needs_kernel
@pytest.mark.parametrize("form", ["explicit", "proximal"])
@pytest.mark.parametrize("name, options", FUSED_OPTIONS)
def test_equals_the_plain_path(name, options, form, calls, monkeypatch):
    pull = Pull(shapes=SHAPES, dtype=torch.float32)
    sign = -1 if options.get("maximize") else 1
    runs = []
    for kernel in (True, False):
        with monkeypatch.context() as patch:
            if not kernel:
                plain_path(patch)
            params = pull.params()
            opt = make_fused(params, name, step_form=form, **options)
            for step in range(60):
                for p, g in zip(params, pull.grads(params, step), strict=True):
                    p.grad = sign * g
                opt.step()
            runs.append((params, [opt.state[p] for p in params]))
        if kernel:
            assert len(calls) > 30 and max(calls) == 5  # all but the vector
            count = len(calls)
    assert len(calls) == count
    torch.testing.assert_close(runs[0], runs[1], rtol=2e-4, atol=2e-5)


@needs_kernel
def test_square_sums_are_exact_and_do_not_depend_on_threads():
    g = torch.Generator().manual_seed(0)
    tensors = [torch.randn(n, generator=g) + 3 for n in (0, 1, 16383, 16384, 16385, 1_000_003)]
    exact = torch.stack([(t.double() ** 2).sum() for t in tensors])
    threads = torch.get_num_threads()
    try:
        found = []
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            found.append(c_backend.read_squared_norms(tensors))
    finally:
        torch.set_num_threads(threads)
    torch.testing.assert_close(found[0].double(), exact, rtol=1e-7, atol=0)
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


@needs_kernel
@pytest.mark.parametrize("name", CLASSES)
def test_resumes_bit_for_bit(name):
    pull = Pull(shapes=SHAPES, dtype=torch.float32)
    params = pull.params()
    opt = make_fused(params, name)
    pull.run(opt, params, 0, 25)
    resumed = [torch.nn.Parameter(p) for p in bits(params)]
    other = make_fused(resumed, name)
    other.load_state_dict(round_trip(opt.state_dict()))
    pull.run(opt, params, 25, 60)
    pull.run(other, resumed, 25, 60)
    assert_same_bits(bits(params), bits(resumed))


@needs_kernel
def test_an_autograd_graph_notices_the_new_weights(calls):
    check_that_autograd_notices(lambda params: make_fused(params, "Adam"), calls)


class Noted(AdamCPR):
    """A user's own subclass."""


@pytest.mark.parametrize("case", ["not fused", "amsgrad", "found_inf", "bfloat16", "transposed", "l1", "own class"])
def test_what_is_not_covered_does_not_reach_the_kernel(case, calls):
    shape = (4, 3, 3, 3)
    pull = Pull(shapes=(shape,), dtype=torch.bfloat16 if case == "bfloat16" else torch.float32)
    (p,) = pull.params()
    if case == "transposed":
        p = torch.nn.Parameter(p.detach().transpose(0, 3).contiguous().transpose(0, 3))
    options = {
        "fused": case != "not fused",
        "amsgrad": case == "amsgrad",
        "reg_function": "l1" if case == "l1" else "l2",
    }
    opt = (Noted if case == "own class" else AdamCPR)([p], lr=0.02, **FUSED_BOUND, **options)
    if case == "found_inf":
        opt.found_inf, opt.grad_scale = torch.tensor(0.0), torch.tensor(1.0)
    for step in range(20):
        (grad,) = pull.grads([p], step)
        p.grad = grad
        opt.step()
    assert float(opt.state[p]["lagmul"]) > 0
    assert calls == []


@needs_kernel
def test_another_default_device(calls):
    pull = Pull(shapes=((7, 5),), dtype=torch.float32)
    (p,) = pull.params()
    opt = make_fused([p], "Adam")
    pull.run(opt, [p], 0, 2)
    torch.set_default_device("meta")
    try:
        opt.step()
    finally:
        torch.set_default_device(None)
    assert calls


def test_momentum_switched_off_is_torchs_own(calls):
    runs = []
    for fused in (True, False):
        pull = Pull(shapes=((7, 5),), dtype=torch.float32)
        (p,) = pull.params()
        opt = make_fused([p], "SGD", fused=fused, dampening=0.5)
        pull.run(opt, [p], 0, 5)
        opt.param_groups[0]["momentum"] = 0
        before = len(calls)
        pull.run(opt, [p], 5, 10)
        assert len(calls) == before
        runs.append(p.detach())
    torch.testing.assert_close(*runs)


@needs_kernel
def test_a_state_of_another_size_is_not_covered():
    """As after loading another layer's checkpoint: the kernel would read past the end."""
    pull = Pull(shapes=((7, 5),), dtype=torch.float32)
    (p,) = pull.params()
    opt = make_fused([p], "Adam")
    pull.run(opt, [p], 0, 2)
    group, state = opt.param_groups[0], opt.state[p]
    cache = cache_of(opt, "c")
    assert c_backend.covers(TensorBatch("adam", group, [p], [p.grad], [state]), cache)
    assert not c_backend.covers(
        TensorBatch("adam", group, [p], [p.grad], [{**state, "exp_avg": torch.zeros(2, 2)}]), cache
    )
    shorter = {**state, "exp_avg": state["exp_avg"][:3]}  # of the same address
    assert not c_backend.covers(TensorBatch("adam", group, [p], [p.grad], [shorter]), cache)
    p.data = p.data[:3]
    state = {**state, "exp_avg": torch.zeros(3, 5), "exp_avg_sq": torch.zeros(3, 5)}
    assert not c_backend.covers(TensorBatch("adam", group, [p], [p.grad], [state]), cache)


@needs_kernel
def test_weights_that_overlap_are_not_covered(calls):
    pull = Pull(shapes=((5, 4),), dtype=torch.float32)
    whole = pull.params()[0].data.view(-1)
    params = [torch.nn.Parameter(whole[start : start + 12].view(3, 4)) for start in (0, 8)]
    opt = make_fused(params)
    for _ in range(3):
        for p in params:
            p.grad = torch.ones(3, 4)
        opt.step()
    assert calls == []


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_nothing_is_compiled_for_tensors_that_it_cannot_take(dtype, monkeypatch):
    monkeypatch.setattr(c_build, "kernels", lambda: pytest.fail("the kernel was asked for"))
    pull = Pull(shapes=((7, 5),), dtype=dtype)
    params = pull.params()
    pull.run(make_fused(params), params, 0, 4)


def gradient_of_another_dtype(p):
    p.grad.data = p.grad.data.bfloat16()  # torch refuses one only when it is assigned


def transposed_weights(p):
    p.data = p.data.t()  # their gradient is not: in memory order it belongs to other elements


@needs_kernel
@pytest.mark.parametrize("change", [gradient_of_another_dtype, transposed_weights])
def test_tensors_that_change_are_not_covered(change):
    pull = Pull(shapes=((5, 5),), dtype=torch.float32)
    (p,) = pull.params()
    opt = make_fused([p])
    pull.run(opt, [p], 0, 2)
    cache = cache_of(opt, "c")
    assert c_backend.covers(batch_of(opt, [p]), cache)
    change(p)
    assert not c_backend.covers(batch_of(opt, [p]), cache)


@needs_kernel
def test_weights_that_share_memory_are_not_covered():
    """They would be written twice, and the R of the first would be that of neither."""
    pull = Pull(shapes=((7, 5),), dtype=torch.float32)
    (p,) = pull.params()
    params = [p, torch.nn.Parameter(p.data)]
    opt = make_fused(params, "Adam")
    for step in range(20):
        for param, grad in zip(params, pull.grads([p, p][:1], step) * 2, strict=True):
            param.grad = grad
        opt.step()
        if step:
            before = [float(opt.state[q]["lagmul"]) for q in params]
    true = float((p.detach().double() ** 2).sum())
    for q in params:
        p.grad = q.grad = torch.zeros_like(p)
    opt.step()
    for q, lagmul in zip(params, before, strict=True):
        expected = max(0.0, lagmul + 0.3 / 35 * (true - float(opt.state[q]["kappa"])))
        assert float(opt.state[q]["lagmul"]) == pytest.approx(expected, rel=1e-5)


@needs_kernel
def test_channels_last_goes_in_memory_order(calls):
    ends = []
    for layout in (torch.channels_last, torch.contiguous_format):
        pull = Pull(shapes=((4, 3, 3, 3),), dtype=torch.float32)
        p = torch.nn.Parameter(pull.params()[0].detach().to(memory_format=layout))
        opt = make_fused([p], "Adam")
        pull.run(opt, [p], 0, 30)
        ends.append(p.detach().contiguous())
    assert len(calls) == 2 * 29
    torch.testing.assert_close(*ends, rtol=1e-5, atol=1e-6)
