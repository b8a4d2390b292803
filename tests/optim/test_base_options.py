"""The base class's own options keep their meaning: while unbounded ours equals the base bit for bit, bounded it agrees
with the plain path."""

from inspect import signature

import pytest
import torch
from optim_helpers import REGULARIZER_NAMES, STEP_FORMS, Pull, as_ours, assert_same_bits, matrix, one_step

from nnunet_cpr.optim import SGDCPR, AdamCPR

ADAM = [
    {"amsgrad": True},
    {"maximize": True},
    {"foreach": True},
    {"foreach": False},
    {"fused": True},
    {"fused": True, "amsgrad": True, "maximize": True},
    {"eps": 1e-3, "betas": (0.5, 0.6)},
    *(
        [{"decoupled_weight_decay": False}]
        if "decoupled_weight_decay" in signature(torch.optim.Adam).parameters
        else []
    ),
    {"lr": torch.tensor(0.02)},
    {"lr": torch.tensor(0.02), "fused": True},
]
SGD = [
    {"momentum": 0.9, "nesterov": True},
    {"momentum": 0.9, "dampening": 0.5},
    {"momentum": 0.9, "maximize": True},
    {"foreach": True},
    {"foreach": False},
    {"fused": True, "momentum": 0.9},
    {"lr": torch.tensor(0.01)},
]
CASES = [(AdamCPR, torch.optim.Adam, o) for o in ADAM] + [(SGDCPR, torch.optim.SGD, o) for o in SGD]
IDS = [f"{cls.__name__}-{'-'.join(f'{k}={v}' for k, v in o.items())}" for cls, _, o in CASES]


@pytest.mark.parametrize("ours, base, options", CASES, ids=IDS)
def test_unbounded_equals_the_base(ours, base, options):
    pull = Pull(dtype=torch.float32)
    params, twins = pull.params(), pull.params()
    options = {"lr": 0.01, **options}
    opt = ours(params, kappa_init_method="warm_start", kappa_init_param=1000, **options)
    plain = base(twins, **as_ours(base, options))
    pull.run(opt, params, 0, 40)
    pull.run(plain, twins, 0, 40)
    assert_same_bits([p.detach() for p in params], [p.detach() for p in twins])


@pytest.mark.parametrize("ours, base, options", CASES, ids=IDS)
def test_bounded_is_the_same_constraint_whatever_the_path(ours, base, options):
    """Constraint by hand on a twin, then the base's step with the same options."""
    pull = Pull(shapes=((7, 5),), dtype=torch.float64)
    (p,), (twin,) = pull.params(), pull.params()
    options = {"lr": 0.01, **options}
    bound = {"kappa_init_method": "dependent", "kappa_init_param": 0.8, "kappa_update": 0.3}
    opt, plain = ours([p], **bound, **options), base([twin], **as_ours(base, options))
    lam, kappa = 0.0, 0.8 * float((twin.detach() ** 2).sum())
    for step in range(60):
        (p.grad,), (twin.grad,) = pull.grads([p], step), pull.grads([twin], step)
        opt.step()
        lam = max(0.0, lam + 0.3 / 35 * (float((twin.detach() ** 2).sum()) - kappa))
        with torch.no_grad():
            twin.mul_(1 - 2 * lam)
        plain.step()
    assert lam > 0
    torch.testing.assert_close(p.detach(), twin.detach(), rtol=1e-10, atol=1e-12)


def test_capturable_is_refused_on_cpu_as_by_the_base():
    """torch allows capturable on accelerators only; the same error must come through, whatever it is."""
    outcomes = []
    for cls in (torch.optim.Adam, AdamCPR):
        p = matrix(3, 3)
        opt = cls([p], capturable=True, fused=False)
        try:
            one_step(opt, [p])
            outcomes.append(None)
        except Exception as e:
            outcomes.append(type(e))
    assert outcomes[0] == outcomes[1]


def test_foreach_and_fused_together_are_torchs_error():
    with pytest.raises(RuntimeError, match="fused"):
        AdamCPR([matrix(2, 2)], foreach=True, fused=True)


class TestDifferentiable:
    """The base then steps without no_grad, so that a meta-objective can look through the step."""

    def step(self, differentiable, kappa=None):
        leaf = matrix(4, 4, dtype=torch.float64)
        rate = torch.ones(4, 4, dtype=torch.float64, requires_grad=differentiable)
        w = leaf * rate  # not a leaf, as differentiable=True allows
        rule = ("warm_start", 100) if kappa is None else ("uniform", kappa)
        p = w if differentiable else torch.nn.Parameter(w.detach())
        opt = SGDCPR([p], lr=0.1, differentiable=differentiable, kappa_init_method=rule[0], kappa_init_param=rule[1])
        p.grad = torch.ones_like(p).detach()
        opt.step()
        return p, rate, leaf, opt

    @pytest.mark.parametrize("kappa", [None, 1.0])
    def test_values_are_those_of_the_ordinary_step(self, kappa):
        a, b = self.step(True, kappa)[0], self.step(False, kappa)[0]
        torch.testing.assert_close(a.detach(), b.detach(), rtol=1e-12, atol=0)

    def test_gradients_pass_through_the_unbounded_step(self):
        p, rate, leaf, _ = self.step(True)
        p.sum().backward()
        torch.testing.assert_close(rate.grad, leaf.detach())

    def test_gradients_pass_through_the_bounded_step(self):
        p, rate, leaf, opt = self.step(True, 1.0)
        p.sum().backward()
        lam = float(opt.state[p]["lagmul"])
        assert lam > 0
        torch.testing.assert_close(rate.grad, leaf.detach() * (1 - 2 * lam))  # lambda itself is held constant

    @pytest.mark.parametrize("reg", REGULARIZER_NAMES)
    @pytest.mark.parametrize("form", STEP_FORMS)
    def test_adam_runs_with_every_regularizer(self, reg, form):
        leaf = matrix(4, 4)
        p = leaf.clone()
        opt = AdamCPR(
            [p],
            lr=0.1,
            differentiable=True,
            reg_function=reg,
            step_form=form,
            kappa_init_method="uniform",
            kappa_init_param=0.1,
            kappa_update=0.1,
        )
        p.grad = torch.ones_like(p).detach()
        opt.step()
        p.sum().backward()
        assert opt.state[p]["lagmul"] > 0
        assert torch.isfinite(leaf.grad).all()


class TestSchedulers:
    def test_lambda_lr(self):
        pull = Pull(dtype=torch.float32)
        params, twins = pull.params(), pull.params()
        opt = AdamCPR(params, lr=0.02, kappa_init_method="warm_start", kappa_init_param=500)
        plain = torch.optim.Adam(twins, lr=0.02, fused=True)
        schedules = [
            torch.optim.lr_scheduler.LambdaLR(o, lambda t: min(1, (t + 1) / 10) * 0.97**t) for o in (opt, plain)
        ]
        for step in range(40):
            pull.run(opt, params, step, step + 1)
            pull.run(plain, twins, step, step + 1)
            for s in schedules:
                s.step()
        assert opt.param_groups[0]["lr"] == plain.param_groups[0]["lr"]
        assert_same_bits([p.detach() for p in params], [p.detach() for p in twins])

    def test_no_warning_about_the_order_of_calls(self, recwarn):
        p = matrix(3, 3)
        opt = AdamCPR([p])
        scheduler = torch.optim.lr_scheduler.LambdaLR(opt, lambda t: 1.0)
        one_step(opt, [p])
        scheduler.step()
        assert not [w for w in recwarn.list if "lr_scheduler" in str(w.message)]

    def test_a_schedule_does_not_touch_the_constraint(self):
        ends = []
        for decay in (1.0, 0.5):
            p = matrix(4, 4)
            opt = AdamCPR([p], kappa_init_method="uniform", kappa_init_param=1.0, kappa_update=0.1)
            scheduler = torch.optim.lr_scheduler.ExponentialLR(opt, decay)
            for _ in range(6):
                one_step(opt, [p])
                scheduler.step()
            ends.append(p.detach().clone())
        assert torch.equal(*ends)
