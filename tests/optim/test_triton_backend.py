"""The GPU kernels do what the plain path does; without a GPU they run in Triton's interpreter, on the CPU's tensors."""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from optim_helpers import (
    BASE_KWARGS,
    CLASSES,
    FUSED_BOUND,
    FUSED_OPTIONS,
    STEP_FORMS,
    Pull,
    assert_same_bits,
    batch_of,
    bits,
    cache_of,
    check_that_autograd_notices,
    make,
    make_fused,
    plain_path,
    round_trip,
)
from reference import algorithm1
from torch.optim.optimizer import register_optimizer_step_post_hook

from nnunet_cpr.optim import AdamCPR, fused
from nnunet_cpr.optim.fused import triton_backend, triton_selfcheck

kernels = pytest.importorskip(
    "nnunet_cpr.optim.fused.triton_kernels", reason="no Triton, which comes with torch on Linux"
)
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
INTERPRETED = DEVICE.type == "cpu"
CHUNK = 2048 if INTERPRETED else kernels.CHUNK  # the interpreter is slow
SHAPES = ((7, 5), (CHUNK + 100, 1), (4, 3, 3, 3), (7,), (0, 3), (1, 1))
OPTIONS = [*FUSED_OPTIONS, *[("Adam", {"lr": torch.tensor(lr, device=DEVICE)}) for lr in (0.02, [0.02])]]


@pytest.fixture(autouse=True)
def calls(monkeypatch):
    """The tensors of each update by the kernels."""
    monkeypatch.setattr(triton_backend, "DEVICE_TYPE", DEVICE.type)
    monkeypatch.setattr(kernels, "CHUNK", CHUNK)
    seen = []
    original = triton_backend.ChunkTable.shrink_and_update

    def noted(self, work, keep):
        if "kappa" in work.states[0]:  # not the trial of the kernels
            seen.append(list(work.params))
        return original(self, work, keep)

    monkeypatch.setattr(triton_backend.ChunkTable, "shrink_and_update", noted)
    with fused.use("triton"):
        yield seen


@pytest.fixture
def launches(monkeypatch):
    """The kernels launched: name, number of programs, positional arguments."""
    seen = []
    original = triton_backend.ChunkTable._launch

    def noted(self, name, programs, *arguments, **constants):
        seen.append((name, programs, arguments))
        return original(self, name, programs, *arguments, **constants)

    monkeypatch.setattr(triton_backend.ChunkTable, "_launch", noted)
    return seen


@pytest.fixture
def first_use():
    """The kernels are tried again."""
    try_again()
    yield
    try_again()


def try_again():
    for function in (triton_selfcheck.works, triton_backend._import_error):
        function.cache_clear()
    triton_selfcheck._refused.clear()


def on_device(pull):
    return [torch.nn.Parameter(p.detach().to(DEVICE)) for p in pull.params()]


def run(pull, opt, params, start, stop, sign=1, scale=1.0):
    for step in range(start, stop):
        weights = [p.detach().cpu() for p in params]
        for p, g in zip(params, pull.grads(weights, step), strict=True):
            p.grad = sign * scale * g.to(DEVICE)
        opt.step()


@pytest.mark.parametrize("form", STEP_FORMS)
@pytest.mark.parametrize("name, options", OPTIONS)
def test_equals_the_plain_path(name, options, form, calls, monkeypatch):
    pull = Pull(shapes=SHAPES, dtype=torch.float32)
    runs = []
    for plain in (False, True):
        with monkeypatch.context() as patch:
            if plain:
                plain_path(patch)
            params = on_device(pull)
            opt = make_fused(params, name, step_form=form, **options)
            run(pull, opt, params, 0, 25, sign=-1 if options.get("maximize") else 1)
            runs.append((params, [p.grad for p in params], [opt.state[p] for p in params]))
        assert [len(some) for some in calls] == [5] * 24  # from the second step on, all but the vector
    assert any(float(opt.state[p]["lagmul"]) > 0 for p in params if p.ndim >= 2)
    torch.testing.assert_close(*runs, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("form", STEP_FORMS)
def test_equals_algorithm_1_step_by_step(form, calls):
    pull = Pull(shapes=((3 * CHUNK - 1, 1),), dtype=torch.float32)
    (p,) = params = on_device(pull)
    opt = make_fused(params, step_form=form)
    constraint = algorithm1.Constraint(algorithm1.Settings(reg_function="l2", step_form=form, **FUSED_BOUND))
    adam = algorithm1.Adam(**BASE_KWARGS["Adam"])
    for step in range(30):
        (grad,) = pull.grads([p.detach().cpu()], step)
        expected = adam.step(constraint.step(p.detach().double().cpu()), grad.double())
        p.grad = grad.to(DEVICE)
        opt.step()
        torch.testing.assert_close(p.detach().double().cpu(), expected, rtol=1e-6, atol=1e-6)
        constraint.lam = float(opt.state[p]["lagmul"])  # float32's own, so that rounding does not add up
    assert len(calls) == 29 and constraint.lam > 0


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("step", [1, 2, 1000, 1_000_000])
def test_a_step_after_many(name, step):
    """1 - beta ** step keeps its digits: 1e-3 in the first step, and 1 in the end."""
    pull = Pull(shapes=((7, 5),), dtype=torch.float32)
    ends, betas = [], {"betas": (0.9, 0.999)} if name == "Adam" else {}
    for base in (CLASSES[name], CLASSES[name].__mro__[2]):
        (p,) = on_device(pull)
        bound = {"kappa_init_method": "uniform", "kappa_init_param": 1e30} if base is CLASSES[name] else {}
        opt = base([p], **{**BASE_KWARGS[name], **betas}, fused=True, **bound)
        run(pull, opt, [p], 0, 1)
        if name == "Adam":
            opt.state[p]["step"].fill_(step - 1)
        before = p.detach().clone()
        run(pull, opt, [p], 1, 2)
        ends.append(p.detach() - before)
    torch.testing.assert_close(*ends, rtol=2e-6, atol=1e-9)


@pytest.mark.parametrize("numel", [1, 1023, 1024, 1025, CHUNK - 1, CHUNK, CHUNK + 1, 5 * CHUNK + 77])
def test_the_sum_of_squares_is_exact_and_the_one_of_the_written_weights(numel, launches):
    pull = Pull(shapes=((numel, 1),), dtype=torch.float32)
    (p,) = params = on_device(pull)
    opt = make_fused(params)
    run(pull, opt, params, 0, 4)
    exact = p.detach().double().square().sum()
    cache = cache_of(opt, "triton")
    torch.testing.assert_close(cache.squared_norms(batch_of(opt, params))[0].double(), exact, rtol=3e-7, atol=0)
    carried = cache._sums.clone()
    cache._sums.zero_()
    with torch.no_grad():
        p.mul_(1)  # so it is read again
    cache.squared_norms(batch_of(opt, params))
    assert [name for name, _, _ in launches[-2:]] == ["read_chunks", "add_chunks"]
    assert_same_bits([cache._sums], [carried])


def sums_are_of_the_weights(opt, params):
    """Whether the sums with which the next step begins are those of the weights, whatever was done to them."""
    cache = cache_of(opt, "triton")
    assert cache.bind(batch_of(opt, params))
    exact = torch.stack([p.detach().double().square().sum() for p in params])
    return torch.allclose(cache.squared_norms(batch_of(opt, params)).double(), exact, rtol=1e-6)


def in_place(param):
    with torch.no_grad():
        param.view(-1)[5] = 3.0


def replaced(param):
    other = param.data.clone()
    other.view(-1)[5] = 3.0
    param.data = other


def loaded(param):
    torch.nn.ParameterList([param]).load_state_dict({"0": 0.9 * param.detach()})


def ema_swap(param):
    param.data.copy_(0.9 * param.data)


def one_chunk(param):
    param.data.view(-1)[CHUNK : CHUNK + 50] *= 2


def optimizers_step(param):
    param.grad = torch.ones_like(param)
    torch.optim.SGD([param], lr=0.1, fused=True).step()


@pytest.mark.parametrize("edit", [in_place, replaced, loaded, ema_swap, one_chunk, optimizers_step])
def test_weights_changed_between_steps_are_read_again(edit):
    pull = Pull(shapes=SHAPES[:3], dtype=torch.float32)
    params = on_device(pull)
    opt = make_fused(params)
    run(pull, opt, params, 0, 5)
    assert sums_are_of_the_weights(opt, params)
    edit(params[1])
    assert sums_are_of_the_weights(opt, params)


def test_without_a_change_nothing_is_read_again():
    pull = Pull(shapes=SHAPES[:3], dtype=torch.float32)
    params = on_device(pull)
    opt = make_fused(params)
    run(pull, opt, params, 0, 5)
    params[1].data.view(-1)[5] = 300.0  # the one kind of edit that nothing notices
    assert not sums_are_of_the_weights(opt, params)
    run(pull, opt, params, 5, 6)
    assert sums_are_of_the_weights(opt, params)


def test_a_step_that_leaves_a_tensor_out(launches):
    """Only this one is read again, once it is back."""
    pull = Pull(shapes=(*SHAPES[:3], (2 * CHUNK, 1)), dtype=torch.float32)
    params = on_device(pull)
    opt = make_fused(params)

    def changed():
        return next(arguments[-1].tolist() for name, _, arguments in reversed(launches) if name == "read_chunks")

    run(pull, opt, params, 0, 5)
    params[1].grad = None
    opt.step()
    assert changed() == [0, 0, 0]
    assert sums_are_of_the_weights(opt, [params[0], *params[2:]])
    run(pull, opt, params, 6, 7)
    assert changed() == [0, 1, 0, 0]
    assert sums_are_of_the_weights(opt, params)
    in_place(params[2])
    run(pull, opt, params, 7, 8)
    assert changed() == [0, 0, 1, 0]
    assert sums_are_of_the_weights(opt, params)
    params[3].data.view(-1)[CHUNK + 5] = 300.0  # nothing notices
    assert not sums_are_of_the_weights(opt, params[1:])  # nor is it read where others are left out


@pytest.mark.parametrize("name", CLASSES)
def test_resumes_bit_for_bit(name):
    pull = Pull(shapes=SHAPES, dtype=torch.float32)
    params = on_device(pull)
    opt = make_fused(params, name)
    run(pull, opt, params, 0, 15)
    resumed = [torch.nn.Parameter(p) for p in bits(params)]
    other = make_fused(resumed, name)
    other.load_state_dict(round_trip(opt.state_dict()))
    run(pull, opt, params, 15, 30)
    run(pull, other, resumed, 15, 30)
    assert_same_bits(bits(params), bits(resumed))


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("unscaled", [False, True])
def test_grad_scaler_skips_and_scales(name, unscaled, calls):
    """As without it, but for the skipped steps. Unscaled: the user has called `scaler.unscale_`."""
    pull = Pull(shapes=SHAPES, dtype=torch.float32)
    runs, scale = [], 1.0 if unscaled else 4.0
    for scaled in (True, False):
        params = on_device(pull)
        opt = make_fused(params, name)
        for step in range(25):
            bad = step % 5 == 2
            if scaled:
                opt.found_inf = torch.tensor(float(bad), device=DEVICE)
                opt.grad_scale = None if unscaled else torch.tensor(scale, device=DEVICE)
                before = bits(params) + [v.clone() for p in params for v in opt.state[p].values()]
                run(pull, opt, params, step, step + 1, scale=float("inf") if bad else scale)
                if bad:
                    after = bits(params) + [v for p in params for v in opt.state[p].values()]
                    assert_same_bits(before, after)
            elif not bad:
                run(pull, opt, params, step, step + 1)
        runs.append((params, [opt.state[p] for p in params], [p.grad for p in params]))
    assert len(calls) > 40
    torch.testing.assert_close(*runs, rtol=1e-5, atol=1e-6)


def test_an_autograd_graph_notices_the_new_weights(calls, monkeypatch):
    if DEVICE.type == "cuda":
        pytest.skip("the helper makes its tensors on the CPU")
    check_that_autograd_notices(make_fused, calls)


def test_a_changing_lr_is_followed():
    pull = Pull(shapes=((7, 5),), dtype=torch.float32)
    ends = []
    for by_kernel in (True, False):
        (p,) = params = on_device(pull)
        opt = make_fused(params, fused=by_kernel)
        for step in range(20):
            opt.param_groups[0]["lr"] = 0.02 * (20 - step) / 20
            opt.param_groups[0]["betas"] = (0.8 + 0.01 * (step % 10), 0.99)
            run(pull, opt, params, step, step + 1)
        ends.append(p.detach())
    torch.testing.assert_close(*ends, rtol=1e-5, atol=1e-6)


def test_weights_that_are_not_finite(calls):
    """NaN equals itself as a mark, and R is what it should be."""
    pull = Pull(shapes=((7, 5),), dtype=torch.float32)
    (p,) = params = on_device(pull)
    opt = make_fused(params)
    run(pull, opt, params, 0, 3)
    with torch.no_grad():
        p[0, 0] = float("nan")
    run(pull, opt, params, 3, 5)
    assert p.isnan().any() and opt.state[p]["lagmul"].isnan()


def test_compiles_for_gpus_that_are_not_here(tmp_path):
    """Three generations; loads and stores of four elements, one a tensor and 512 elements; nothing spilled."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path)
    script = Path(__file__).with_name("compile_triton_kernels.py")
    done = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert {row["capability"] for row in found} == {75, 80, 90}
    assert all(row["binary"] > 1000 and not row["spilled"] for row in found)
    times = kernels.BLOCK // (4 * 128)
    for row in found:
        if row["align"] == 4:
            assert row["wide_loads"] == row["wide_stores"] == 0
        elif row["kernel"] in ("adam", "sgd"):
            loaded = 4 if row["kernel"] == "adam" else 3
            assert row["wide_loads"] == loaded * times
            assert row["wide_stores"] in ((loaded - 1) * times, loaded * times)  # GradScaler's gradients are written


def unaligned(x):
    return torch.cat([x.new_zeros(1), x.reshape(-1)])[1:].view(x.shape)


def channels_last(x):
    return x.to(memory_format=torch.channels_last)


@pytest.mark.parametrize("laid_out", [unaligned, channels_last])
@pytest.mark.parametrize("name", CLASSES)
def test_other_places_in_memory(name, laid_out, calls):
    """Views that begin anywhere, and a dense layout that weights, gradients and states share."""
    ends = []
    for change in (laid_out, torch.clone):
        pull = Pull(shapes=((4, 3, 3, 3), (2, 5, CHUNK // 8, 1)), dtype=torch.float32)
        params = [torch.nn.Parameter(change(p.detach())) for p in on_device(pull)]
        opt = make_fused(params, name)
        for step in range(12):
            for p, g in zip(params, pull.grads([p.detach().cpu() for p in params], step), strict=True):
                p.grad = change(g.to(DEVICE))
            opt.step()
        cache = cache_of(opt, "triton")
        assert cache.variant.align == (4 if change is unaligned else 16)
        ends.append([p.detach().contiguous() for p in params])
    assert len(calls) == 2 * 11
    torch.testing.assert_close(*ends, rtol=1e-5, atol=1e-6)


def test_another_default_device(first_use, calls):
    pull = Pull(shapes=((7, 5),), dtype=torch.float32)
    params = on_device(pull)
    opt = make_fused(params)
    gradients = [g.to(DEVICE) for g in pull.grads([p.detach().cpu() for p in params], 0)]
    torch.set_default_device("meta")
    try:
        for _ in range(3):
            for p, g in zip(params, gradients, strict=True):
                p.grad = g
            opt.step()
    finally:
        torch.set_default_device(None)
    assert len(calls) == 2  # the first step has no state


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_another_default_dtype(dtype, first_use, calls):
    pull = Pull(shapes=((7, 5),), dtype=torch.float32)
    params = on_device(pull)
    opt = make_fused(params)
    torch.set_default_dtype(dtype)
    try:
        run(pull, opt, params, 0, 3)
    finally:
        torch.set_default_dtype(torch.float32)
    assert len(calls) == 2


def test_the_trial_is_no_step_of_an_optimizer(first_use):
    seen = []
    handle = register_optimizer_step_post_hook(lambda opt, *_: seen.append(type(opt).__name__))
    try:
        pull = Pull(shapes=((7, 5),), dtype=torch.float32)
        params = on_device(pull)
        run(pull, make_fused(params), params, 0, 2)
    finally:
        handle.remove()
    assert seen == ["AdamCPR", "AdamCPR"]


def smaller(p, state):
    smaller_with_the_old_gradient(p, state)
    p.grad = p.grad[: CHUNK // 2].clone()


def smaller_with_the_old_gradient(p, state):
    p.data = p.data[: CHUNK // 2]
    for name in ("exp_avg", "exp_avg_sq"):
        state[name] = state[name][: CHUNK // 2]


def foreign_state(p, state):
    state["exp_avg"] = torch.zeros(2, 2, device=DEVICE)


@pytest.mark.parametrize("change", [smaller, smaller_with_the_old_gradient, foreign_state])
def test_sizes_that_change_are_noticed(change):
    """Or the kernels would read and write past the end of a tensor."""
    pull = Pull(shapes=((CHUNK + 100, 1), (7, 5)), dtype=torch.float32)
    params = on_device(pull)
    opt = make_fused(params)
    run(pull, opt, params, 0, 3)
    cache = cache_of(opt, "triton")
    change(params[0], opt.state[params[0]])
    taken = cache.bind(batch_of(opt, params))
    assert taken == (change is smaller)
    if taken:
        torch.testing.assert_close(cache.squared_norms(batch_of(opt, params))[0], params[0].detach().square().sum())


class Noted(AdamCPR):
    """A user's own subclass."""


CASES = ["not fused", "amsgrad", "bfloat16", "transposed", "l1", "own class"]


@pytest.mark.parametrize("case", CASES)
def test_what_is_not_covered_does_not_reach_the_kernels(case, calls):
    shape = (4, 3, 3, 3)
    pull = Pull(shapes=(shape,), dtype=torch.bfloat16 if case == "bfloat16" else torch.float32)
    (p,) = on_device(pull)
    if case == "transposed":
        p = torch.nn.Parameter(p.detach().transpose(0, 3).contiguous().transpose(0, 3))
    options = {
        "fused": case != "not fused",
        "amsgrad": case == "amsgrad",
        "reg_function": "l1" if case == "l1" else "l2",
    }
    opt = (Noted if case == "own class" else AdamCPR)([p], lr=0.02, **FUSED_BOUND, **options)
    for step in range(20):
        (grad,) = (g.to(DEVICE) for g in pull.grads([p.detach().cpu()], step))
        p.grad = grad
        opt.step()
    assert float(opt.state[p]["lagmul"]) > 0
    assert calls == []


def train(opt_calls, caplog):
    pull = Pull(dtype=torch.float32)
    params = on_device(pull)
    opt = make("Adam", params, "dependent", fused=True)
    with caplog.at_level(logging.INFO):
        run(pull, opt, params, 0, 40)
    assert float(opt.state[params[0]]["lagmul"]) > 0 and opt_calls == []


def test_kernels_that_do_not_compile_are_done_without(first_use, calls, monkeypatch, caplog, recwarn):
    monkeypatch.setattr(
        triton_backend.ChunkTable, "_launch", lambda *_, **__: (_ for _ in ()).throw(RuntimeError("no ptxas"))
    )
    uploads = []
    original = triton_backend._upload
    monkeypatch.setattr(triton_backend, "_upload", lambda *args: (uploads.append(args), original(*args))[1])
    train(calls, caplog)
    assert "no ptxas" in caplog.text and not recwarn.list
    assert 0 < len(uploads) < 10  # not in each of the 40 steps


def test_no_triton_is_silent(first_use, calls, monkeypatch, caplog, recwarn):
    def missing():
        raise ModuleNotFoundError("No module named 'triton'")

    monkeypatch.setattr(triton_backend, "kernels", missing)
    train(calls, caplog)
    assert "No module named 'triton'" in caplog.text and not recwarn.list


def test_kernels_that_are_wrong_are_not_used(first_use, calls, monkeypatch, caplog):
    original = triton_backend.ChunkTable._launch

    def wrong(self, name, programs, *arguments, **constants):
        original(self, name, programs, *arguments, **constants)
        if name == "adam":
            self._layout.owners[0].data += 1e-3

    monkeypatch.setattr(triton_backend.ChunkTable, "_launch", wrong)
    train(calls, caplog)
    assert "disagrees with torch" in caplog.text


@pytest.mark.parametrize("keep", [float("inf"), float("-inf")])
@pytest.mark.parametrize("name", CLASSES)
def test_the_end_of_a_tensor_adds_nothing_to_a_diverged_one(name, keep):
    """There the update computes 0 * inf; a resumed training, which reads R, must find what the update has added up."""
    pull = Pull(shapes=((CHUNK // 2 + 3, 1),), dtype=torch.float32)
    (p,) = params = on_device(pull)
    opt = make_fused(params, name)
    run(pull, opt, params, 0, 2)
    cache = cache_of(opt, "triton")
    work = batch_of(opt, params)
    assert cache.bind(work)
    cache.shrink_and_update(work, torch.full((1,), keep, device=DEVICE))
    assert float(cache.squared_norms(batch_of(opt, params))) == float("inf") == float(p.detach().square().sum())
