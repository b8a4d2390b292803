"""R and lambda are taken at theta_t, before the update, and the constraint step does not know the learning rate."""

import pytest
import torch
from optim_helpers import RULES, make, matrix, one_step

from nnunet_cpr.optim import SGDCPR, AdamCPR, cpr


def test_first_lambda_comes_from_the_weights_before_the_update():
    p = matrix(4, 4, dtype=torch.float64)
    r = float((p.detach() ** 2).sum())
    opt = SGDCPR([p], lr=10.0, kappa_init_method="uniform", kappa_init_param=1.0)
    p.grad = torch.ones_like(p)
    opt.step()
    assert float(opt.state[p]["lagmul"]) == pytest.approx((r - 1.0) / 16, rel=1e-12)


def test_weights_are_shrunk_first_and_updated_second():
    p = matrix(4, 4, dtype=torch.float64)
    theta, g = p.detach().clone(), torch.randn(4, 4, dtype=torch.float64)
    opt = SGDCPR([p], lr=0.5, kappa_init_method="uniform", kappa_init_param=1.0)
    p.grad = g.clone()
    opt.step()
    lam = float(opt.state[p]["lagmul"])
    assert lam > 0.05
    torch.testing.assert_close(p.detach(), theta * (1 - 2 * lam) - 0.5 * g, rtol=1e-12, atol=1e-14)


def test_constraint_step_does_not_depend_on_the_learning_rate():
    ends = []
    for lr in (0.0, 1e-4, 1.0):
        p = matrix(4, 4)
        opt = AdamCPR([p], lr=lr, kappa_init_method="uniform", kappa_init_param=1.0)
        for _ in range(5):
            one_step(opt, [p])
        ends.append(p.detach().clone())
    assert torch.equal(ends[0], ends[1]) and torch.equal(ends[0], ends[2])


@pytest.mark.parametrize("base", [torch.optim.Adam, torch.optim.SGD, torch.optim.RMSprop, torch.optim.Adagrad])
def test_step_is_the_constraint_by_hand_then_the_untouched_base_step(base):
    ours, hand = matrix(6, 6, dtype=torch.float64), matrix(6, 6, dtype=torch.float64)
    opt = cpr(base)([ours], lr=0.01, kappa_init_method="dependent", kappa_init_param=0.7)
    plain = base([hand], lr=0.01)
    lam, kappa = 0.0, 0.7 * float((hand.detach() ** 2).sum())
    for step in range(50):
        ours.grad = torch.cos(ours.detach() * 3 + step)
        hand.grad = torch.cos(hand.detach() * 3 + step)
        opt.step()
        lam = max(0.0, lam + (float((hand.detach() ** 2).sum()) - kappa) / 36)
        with torch.no_grad():
            hand.mul_(1 - 2 * lam)
        plain.step()
    torch.testing.assert_close(ours.detach(), hand.detach(), rtol=1e-10, atol=1e-12)


def test_stored_weights_settle_at_the_bound():
    """With the authors' order they settle at kappa (1 - 2 lambda)^2."""
    p = matrix(20, 20, scale=0.1)
    target = matrix(20, 20, seed=5).detach()
    opt = AdamCPR([p], lr=1e-3, kappa_init_method="uniform", kappa_init_param=40.0)
    for _ in range(3000):
        p.grad = p.detach() - target
        opt.step()
    (row,) = opt.constraints()
    assert row.active
    assert float((p.detach() ** 2).sum()) == pytest.approx(40.0, rel=0.01)


@pytest.mark.parametrize("name", ["Adam", "SGD"])
@pytest.mark.parametrize("rule", ["warm_start", "inflection_point"])
def test_zero_gradients_and_no_active_bound_move_nothing(rule, name):
    assert rule in RULES
    p = matrix(16, 16)
    before = p.detach().clone()
    opt = make(name, [p], rule)
    for group in opt.param_groups:
        group["lr"] = 0.0
    for _ in range(100):
        one_step(opt, [p])
    assert torch.equal(p.detach(), before)
