"""Without the C kernel torch's own operators go from piece to piece: as the plain path and a reference."""

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
    bits,
    check_that_autograd_notices,
    make,
    make_fused,
    plain_path,
    round_trip,
)
from reference import algorithm1

from nnunet_cpr.optim import AdamCPR
from nnunet_cpr.optim.fused import c_backend, torch_backend
from nnunet_cpr.optim.reductions import ROW

SHAPES = ((7, 5), (130, 257), (4, 3, 3, 3), (7,), (0, 3), (1, 1))


@pytest.fixture(autouse=True)
def calls(monkeypatch):
    """No C kernel, and small pieces; the tensors of each call of what is tested here."""
    monkeypatch.setattr(c_backend, "library", lambda: None)
    monkeypatch.setattr(torch_backend, "PIECE", 4 * ROW)
    seen = []
    original = torch_backend.shrink_and_update

    def noted(work, places, numbers, keep):
        seen.append([work.params[number] for number in numbers])
        return original(work, places, numbers, keep)

    monkeypatch.setattr(torch_backend, "shrink_and_update", noted)
    return seen


@pytest.mark.parametrize("form", STEP_FORMS)
@pytest.mark.parametrize("name, options", FUSED_OPTIONS)
def test_equals_the_plain_path(name, options, form, calls, monkeypatch):
    pull = Pull(shapes=SHAPES, dtype=torch.float32)
    sign = -1 if options.get("maximize") else 1
    runs = []
    for plain in (False, True):
        with monkeypatch.context() as patch:
            if plain:
                plain_path(patch)
            params = pull.params()
            opt = make_fused(params, name, step_form=form, **options)
            for step in range(60):
                for p, g in zip(params, pull.grads(params, step), strict=True):
                    p.grad = sign * g
                opt.step()
            runs.append((params, [opt.state[p] for p in params]))
        if not plain:
            count = len(calls)
            assert count > 30 and max(len(some) for some in calls) == 5  # all but the vector
    assert len(calls) == count
    torch.testing.assert_close(runs[0], runs[1], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("form", STEP_FORMS)
def test_equals_algorithm_1_step_by_step(form, calls):
    pull = Pull(shapes=((130, 257),), dtype=torch.float32)
    (p,) = pull.params()
    opt = make_fused([p], step_form=form)
    constraint = algorithm1.Constraint(algorithm1.Settings(reg_function="l2", step_form=form, **FUSED_BOUND))
    adam = algorithm1.Adam(**BASE_KWARGS["Adam"])
    for step in range(40):
        (p.grad,) = pull.grads([p], step)
        expected = adam.step(constraint.step(p.detach().double()), p.grad.double())
        opt.step()
        torch.testing.assert_close(p.detach().double(), expected, rtol=1e-6, atol=1e-6)
        constraint.lam = float(opt.state[p]["lagmul"])  # float32's own, so that rounding does not add up
    assert len(calls) > 20 and constraint.lam > 0


@pytest.mark.parametrize("lagmul", [1e-7, 0.4, 0.5, 0.8, 1e6, float("inf"), float("nan")])
@pytest.mark.parametrize("form", STEP_FORMS)
def test_any_multiplier(lagmul, form, calls, monkeypatch):
    """Also where the explicit step clears the weights, flips their signs or has diverged."""
    ends = []
    for plain in (False, True):
        pull = Pull(shapes=((7, 5),), dtype=torch.float32)
        (p,) = pull.params()
        opt = make_fused([p], step_form=form, kappa_update=1e-9)
        with monkeypatch.context() as patch:
            if plain:
                plain_path(patch)
            pull.run(opt, [p], 0, 3)
            opt.state[p]["lagmul"].fill_(lagmul)
            before = len(calls)
            pull.run(opt, [p], 3, 4)
            assert len(calls) == before + (not plain)
        ends.append(p)
    torch.testing.assert_close(*ends, rtol=1e-6, atol=1e-6, equal_nan=True)


def test_tensors_without_a_bound_keep_torchs_step_bit_for_bit(calls):
    """The second tensor's bound is never set; the third has none."""
    pull = Pull(shapes=((7, 5), (130, 257), (7,)), dtype=torch.float32)
    params, twins = pull.params(), pull.params()
    late = {"kappa_init_method": "warm_start", "kappa_init_param": 1000}
    opt = make_fused([{"params": [params[0], params[2]]}, {"params": [params[1]], **late}])
    plain = torch.optim.Adam(twins, **BASE_KWARGS["Adam"], fused=True)
    pull.run(opt, params, 0, 40)
    pull.run(plain, twins, 0, 40)
    assert {id(p) for some in calls for p in some} == {id(params[0])}
    assert_same_bits(bits(params[1:]), bits(twins[1:]))
    for p, twin in zip(params, twins, strict=True):
        assert_same_bits([opt.state[p]["step"]], [plain.state[twin]["step"]])


@pytest.mark.parametrize("name", CLASSES)
def test_a_bound_that_is_never_reached_changes_no_bit(name, calls):
    pull = Pull(shapes=SHAPES, dtype=torch.float32)
    params, twins = pull.params(), pull.params()
    opt = make_fused(params, name, kappa_init_method="uniform", kappa_init_param=1e30)
    plain = CLASSES[name].__mro__[2](twins, **BASE_KWARGS[name], fused=True)
    pull.run(opt, params, 0, 40)
    pull.run(plain, twins, 0, 40)
    assert calls
    assert_same_bits(bits(params), bits(twins))


@pytest.mark.parametrize("plain_first", [True, False])
def test_a_checkpoint_of_one_path_goes_on_with_the_other(plain_first, calls, monkeypatch):
    pull = Pull(shapes=SHAPES, dtype=torch.float32)
    whole = pull.params()
    uninterrupted = make_fused(whole)
    pull.run(uninterrupted, whole, 0, 60)
    calls.clear()
    weights, state = pull.params(), None
    for plain, start, stop in ((plain_first, 0, 25), (not plain_first, 25, 60)):
        with monkeypatch.context() as patch:
            if plain:
                plain_path(patch)
            params = [torch.nn.Parameter(p) for p in bits(weights)]
            opt = make_fused(params)
            if state is not None:
                opt.load_state_dict(state)
            pull.run(opt, params, start, stop)
        weights, state = params, round_trip(opt.state_dict())
    assert 20 < len(calls) < 40
    ends = [(params, [opt.state[p] for p in params]), (whole, [uninterrupted.state[p] for p in whole])]
    torch.testing.assert_close(*ends, rtol=1e-6, atol=1e-6)


class Noted(AdamCPR):
    """A user's own subclass."""


CASES = ["not fused", "amsgrad", "found_inf", "bfloat16", "float64", "l1", "own class", "no momentum", "first step"]


@pytest.mark.parametrize("case", CASES)
def test_what_is_not_covered_takes_the_plain_path(case, calls):
    dtype = {"bfloat16": torch.bfloat16, "float64": torch.float64}.get(case, torch.float32)
    pull = Pull(shapes=((4, 3, 3, 3),), dtype=dtype)
    (p,) = pull.params()
    options = {
        "fused": case != "not fused",
        "reg_function": "l1" if case == "l1" else "l2",
        **({"amsgrad": True} if case == "amsgrad" else {}),
        **({"kappa_init_method": "uniform", "kappa_init_param": 0.1} if case == "first step" else {}),
    }
    if case == "own class":
        opt = Noted([p], lr=0.02, **{**FUSED_BOUND, **options})
    elif case == "no momentum":
        opt = make_fused([p], "SGD", kappa_init_param=0.1, momentum=0.0, **options)
    else:
        opt = make_fused([p], **{**options, "kappa_init_param": 0.1})
    if case == "found_inf":
        opt.found_inf, opt.grad_scale = torch.tensor(0.0), torch.tensor(1.0)
    pull.run(opt, [p], 0, 1 if case == "first step" else 20)
    assert float(opt.state[p]["lagmul"]) > 0
    assert bool(p.isfinite().all())
    assert calls == []


def test_lr_0_still_shrinks(calls):
    """A schedule that ends at 0: only the constraint moves the weights, as on the plain path."""
    pull = Pull(shapes=((7, 5),), dtype=torch.float32)
    (p,) = pull.params()
    opt = make_fused([p], kappa_init_param=0.1)
    pull.run(opt, [p], 0, 10)
    opt.param_groups[0]["lr"] = 0.0
    before, count = p.detach().clone(), len(calls)
    pull.run(opt, [p], 10, 11)
    assert len(calls) == count + 1
    torch.testing.assert_close(p.detach(), before * (1 - 2 * opt.state[p]["lagmul"]), rtol=1e-6, atol=0)


@pytest.mark.parametrize("lr", [1e-30, 1e-90])
def test_a_tiny_lr_shrinks_as_much(lr, calls):
    pull = Pull(shapes=((7, 5),), dtype=torch.float32)
    (p,) = pull.params()
    opt = make_fused([p], kappa_init_param=0.1)
    pull.run(opt, [p], 0, 10)
    opt.param_groups[0]["lr"] = lr
    before, count = p.detach().clone(), len(calls)
    pull.run(opt, [p], 10, 11)
    assert len(calls) == count + 1
    torch.testing.assert_close(p.detach(), before * (1 - 2 * opt.state[p]["lagmul"]), rtol=1e-6, atol=0)


def test_channels_last_and_gradients_alike():
    ends = []
    for layout in (torch.channels_last, torch.contiguous_format):
        pull = Pull(shapes=((4, 3, 3, 3),), dtype=torch.float32)
        p = torch.nn.Parameter(pull.params()[0].detach().to(memory_format=layout))
        opt = make_fused([p])
        pull.run(opt, [p], 0, 30)
        ends.append(p.detach().contiguous())
    torch.testing.assert_close(*ends, rtol=1e-5, atol=1e-6)


def test_an_autograd_graph_notices_the_new_weights(calls):
    check_that_autograd_notices(make_fused, calls)


@pytest.mark.parametrize("name", CLASSES)
def test_bounds_that_are_set_one_after_the_other(name, calls, monkeypatch):
    ends = []
    for plain in (False, True):
        pull = Pull(shapes=SHAPES[:3], dtype=torch.float32)
        params = pull.params()
        with monkeypatch.context() as patch:
            if plain:
                plain_path(patch)
            opt = make_fused(params, name, kappa_init_method="warm_start", kappa_init_param=1000)
            for number, p in enumerate(params):
                pull.run(opt, params, 5 * number, 5 * number + 5)
                opt.state[p]["kappa"].fill_(0.1)
            pull.run(opt, params, 15, 20)
        ends.append((params, [opt.state[p] for p in params]))
    assert [len(some) for some in calls] == [1] * 5 + [2] * 5 + [3] * 5
    torch.testing.assert_close(*ends, rtol=1e-6, atol=1e-6)


def test_a_kappa_rule_that_sets_its_bound_on_the_way(calls):
    """Before that torch's step, after it this one, with Kappa-IP's own state."""
    pull = Pull(dtype=torch.float32)
    params = pull.params()
    opt = make("Adam", params, "inflection_point", fused=True)
    pull.run(opt, params, 0, 180)
    assert calls and all(c.bounded for c in opt.constraints())
