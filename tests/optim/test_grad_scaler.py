"""GradScaler: a skipped step moves nothing, lambda, kappa and the step count included, fused or not."""

import pytest
import torch
from optim_helpers import CLASSES, REGULARIZER_NAMES, RULES, Pull, assert_same_bits, cpr_settings, make, matrix
from torch.amp import GradScaler


def scaled_step(scaler, opt, params, grads):
    for p, g in zip(params, grads, strict=True):
        p.grad = g * scaler.get_scale()
    scaler.scale(torch.zeros(()))  # what a training loop does; it also makes the scale
    scaler.step(opt)
    scaler.update()


def snapshot(opt, params):
    values = [p.detach().clone() for p in params]
    for p in params:
        values += [torch.as_tensor(v).clone() for k, v in sorted(opt.state[p].items()) if v is not None]
    return values


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", CLASSES)
def test_infinite_gradients_move_nothing_at_any_step(name, rule, fused):
    pull = Pull(dtype=torch.float32)
    params = pull.params()
    opt = make(name, params, rule, kappa_update=0.3, fused=fused, adaptive_bounds=True)
    scaler = GradScaler("cpu", init_scale=8.0, growth_interval=10_000)
    done = 0
    for step in range(260):
        bad = step in (7, 30, 31, 100, 161, 200)
        grads = pull.grads(params, done)
        if bad:
            grads[-1][0] = float("inf")  # in the last tensor only: the others must be skipped as well
        before = snapshot(opt, params)
        scaled_step(scaler, opt, params, grads)
        if bad:
            assert_same_bits(snapshot(opt, params), before)
        done += not bad
    assert int(opt.state[params[0]]["cpr_step"]) == done
    assert torch.isfinite(opt.state[params[0]]["kappa"])

    # and the whole run is the one that never saw the bad batches
    twins = pull.params()
    plain = make(name, twins, rule, kappa_update=0.3, fused=fused, adaptive_bounds=True)
    pull.run(plain, twins, 0, done)
    for p, q in zip(params, twins, strict=True):
        torch.testing.assert_close(p.detach(), q.detach(), rtol=1e-3, atol=1e-4)
        for key in ("kappa", "lagmul"):
            if key in opt.state[p]:
                torch.testing.assert_close(opt.state[p][key], plain.state[q][key], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("reg", REGULARIZER_NAMES)
@pytest.mark.parametrize("rule", RULES)
def test_the_very_first_step_skipped(rule, reg):
    """GradScaler starts with a scale that is too large, so this is the usual beginning of a run."""
    pull = Pull(dtype=torch.float32)
    params = pull.params()
    start = [p.detach().clone() for p in params]
    opt = make("Adam", params, rule, reg, fused=True)
    scaler = GradScaler("cpu", init_scale=8.0)
    for _ in range(2):
        grads = [torch.full_like(g, float("nan")) for g in pull.grads(params, 0)]
        scaled_step(scaler, opt, params, grads)
    assert_same_bits([p.detach() for p in params], start)
    for p in params[:2]:
        state = opt.state[p]
        assert float(state.get("lagmul", 0)) == 0
        assert float(state.get("kappa", float("inf"))) == float("inf")
        assert int(state.get("cpr_step", 0)) == 0
    for step in range(40):
        scaled_step(scaler, opt, params, pull.grads(params, step))
    twins = pull.params()
    plain = make("Adam", twins, rule, reg, fused=True)
    unskipped = GradScaler("cpu", init_scale=8.0)  # the step forms under a scaler and without differ by rounding
    for step in range(40):
        scaled_step(unskipped, plain, twins, pull.grads(twins, step))
    assert_same_bits(snapshot(opt, params), snapshot(plain, twins))


def test_warm_start_counts_only_steps_that_were_taken():
    p = matrix(4, 4)
    opt = CLASSES["Adam"]([p], lr=0.01, fused=True, kappa_init_method="warm_start", kappa_init_param=3)
    scaler = GradScaler("cpu", init_scale=4.0)
    for good in (True, False, True, False, True):
        scaled_step(scaler, opt, [p], [torch.full_like(p, 1.0 if good else float("inf")).detach()])
    assert opt.state[p]["kappa"] == float("inf")
    r = float((p.detach() ** 2).sum())
    scaled_step(scaler, opt, [p], [torch.full_like(p, float("inf")).detach()])
    assert opt.state[p]["kappa"] == float("inf")
    scaled_step(scaler, opt, [p], [torch.ones_like(p).detach()])
    assert float(opt.state[p]["kappa"]) == pytest.approx(r)


def test_a_scale_does_not_enter_the_constraint():
    ends = []
    for scale in (1.0, 1024.0):
        pull = Pull(dtype=torch.float32)
        params = pull.params()
        opt = make("SGD", params, "dependent", fused=True)
        scaler = GradScaler("cpu", init_scale=scale, growth_interval=10_000)
        for step in range(30):
            scaled_step(scaler, opt, params, pull.grads(params, step))
        ends.append(snapshot(opt, params))
    assert_same_bits(*ends)


def test_found_inf_does_not_stay_after_the_scaler_is_gone():
    p = matrix(4, 4)
    opt = CLASSES["Adam"]([p], lr=0.01, fused=True, **cpr_settings("dependent"))
    scaled_step(GradScaler("cpu", init_scale=2.0), opt, [p], [torch.full_like(p, float("inf")).detach()])
    p.grad = torch.ones_like(p)
    opt.step()
    assert int(opt.state[p]["cpr_step"]) == 1
