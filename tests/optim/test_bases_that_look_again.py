"""Optimizers that use the closure's loss, evaluate it several times or differentiate gradients run as without CPR.

The reference is written out: the plain optimizer steps from theta_t, then lambda grad R(theta_t) is subtracted.
"""

import pytest
import torch
from optim_helpers import REGULARIZER_NAMES, STEP_FORMS, assert_same_bits, bits, matrix
from reference import algorithm1

from nnunet_cpr.optim import CPR, cpr

FREE = {"kappa_init_method": "warm_start", "kappa_init_param": 10**6}
BOUND = {"kappa_init_method": "dependent", "kappa_init_param": 0.8, "kappa_update": 0.03}


class Plain(torch.optim.Optimizer):
    def __init__(self, params, lr=0.05, **defaults):
        super().__init__(params, {"lr": lr, **defaults})

    def update(self, lr):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.sub_(p.grad.detach(), alpha=lr or group["lr"])

    def gradients(self):
        return [(p, p.grad) for group in self.param_groups for p in group["params"] if p.grad is not None]


class Polyak(Plain):
    """The length of the step comes from the loss."""

    @torch.no_grad()
    def step(self, closure=None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        length = (
            None
            if loss is None
            else 0.1 * float(loss.detach()) / sum(float(g.square().sum()) for _, g in self.gradients())
        )
        self.update(length)
        return loss


class SharpnessAware(Plain):
    """Gradients are there before the step; the closure makes others further up the slope."""

    @torch.no_grad()
    def step(self, closure):
        old = [(p, p.clone()) for p, _ in self.gradients()]
        for p, gradient in self.gradients():
            p.add_(gradient, alpha=0.02)
        with torch.enable_grad():
            loss = closure()
        for p, value in old:
            p.copy_(value)
        self.update(None)
        return loss


class LineSearch(Plain):
    """Halves the step until the loss falls. Calls the closure with an argument, and without enabling gradients."""

    @torch.no_grad()
    def step(self, closure):
        loss = closure()
        old = [(p, p.clone(), p.grad) for p, _ in self.gradients()]
        lr = 3.0
        while True:
            for p, value, gradient in old:
                p.copy_(value - lr * gradient)
            if closure(backward=False) < loss:
                return loss
            lr /= 2


class Hutchinson(Plain):
    """Divides by an estimate of the Hessian's diagonal, which it gets by differentiating the gradients."""

    @torch.no_grad()
    def step(self, closure=None, scale=1.0):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        params, gradients = zip(*self.gradients(), strict=True)
        signs = [torch.ones_like(p) for p in params]
        diagonals = torch.autograd.grad(gradients, params, signs, retain_graph=True)
        for p, gradient, sign, diagonal in zip(params, gradients, signs, diagonals, strict=True):
            p.sub_(0.1 * scale * gradient.detach() / (diagonal * sign).abs().clamp(min=0.1))
        return loss


BASES = [Polyak, SharpnessAware, LineSearch, Hutchinson]


def problem(dtype=torch.float64):
    """A weight and a bias, and a loss that is not quadratic in them."""
    weight, bias = matrix(4, 3, dtype=dtype, seed=1), torch.nn.Parameter(torch.zeros(4, dtype=dtype))
    x = torch.randn(20, 3, dtype=dtype, generator=torch.Generator().manual_seed(2))

    def loss():
        return (
            (torch.nn.functional.linear(x, weight, bias) - 3 * x.sum(1, keepdim=True)).square().mul(0.1).tanh().mean()
        )

    return [weight, bias], loss


def train(cls, steps=12, with_closure=True, after=lambda theta, weight: None, dtype=torch.float64, **options):
    """Return the parameters, the losses that the steps returned and how often the loss was evaluated."""
    params, loss = problem(dtype)
    opt = cls(params, **options)
    calls, losses = [], []

    def closure(backward=True):
        calls.append(backward)
        assert torch.is_grad_enabled() or cls in BASES
        with torch.enable_grad():
            value = loss()
            if backward:
                opt.zero_grad()
                value.backward(create_graph=issubclass(cls, Hutchinson))
        return value.detach()

    for _ in range(steps):
        if issubclass(cls, SharpnessAware) or not with_closure:
            closure()
        theta = params[0].detach().clone()
        losses.append(opt.step(closure) if with_closure else opt.step())
        with torch.no_grad():
            after(theta, params[0])
    return params, losses, calls, opt


class ByHand:
    """Lines 4 to 6 of Algorithm 1 for one tensor in float64."""

    def __init__(self, reg_function, step_form):
        self.reg_function, self.step_form = reg_function, step_form
        self.lam, self.kappa, self.acted = 0.0, None, 0

    def change(self, x):
        """Return what is subtracted at x."""
        if self.step_form == "explicit":
            return self.lam * algorithm1.gradient(self.reg_function, x)
        return x - algorithm1.proximal(self.reg_function, x, self.lam)

    def __call__(self, theta, weight):
        reg = float(algorithm1.regularizer(self.reg_function, theta))
        self.kappa = 0.8 * reg if self.kappa is None else self.kappa
        self.lam = max(0.0, self.lam + 0.03 / algorithm1.divisor(self.reg_function, theta) * (reg - self.kappa))
        self.acted += self.lam > 0
        weight.sub_(self.change(theta))


@pytest.mark.parametrize("base", BASES)
def test_unbounded_equals_the_base_bit_for_bit(base):
    expected, losses, calls, _ = train(base)
    found, our_losses, our_calls, _ = train(cpr(base), **FREE)
    assert_same_bits(bits(found), bits(expected))
    assert our_calls == calls
    assert torch.equal(torch.stack(our_losses), torch.stack(losses))


@pytest.mark.parametrize("reg_function", REGULARIZER_NAMES)
@pytest.mark.parametrize("step_form", STEP_FORMS)
@pytest.mark.parametrize("base", BASES)
def test_bounded_is_the_base_step_and_then_the_constraint_step_at_theta_t(base, reg_function, step_form):
    settings = {**BOUND, "reg_function": reg_function, "step_form": step_form}
    by_hand = ByHand(reg_function, step_form)
    expected, losses, calls, _ = train(base, after=by_hand)
    found, our_losses, our_calls, opt = train(cpr(base), **settings)
    assert by_hand.acted > 2
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(our_losses, losses, rtol=1e-9, atol=1e-11)
    assert our_calls == calls
    assert float(opt.state[found[0]]["lagmul"]) == pytest.approx(by_hand.lam, rel=1e-9, abs=1e-12)
    assert int(opt.state[found[0]]["cpr_step"]) == 12  # once a step, however often the loss is evaluated


@pytest.mark.parametrize("with_closure", [True, False])
def test_gradients_can_be_differentiated_while_a_bound_acts(with_closure):
    by_hand = ByHand("l2", "explicit")
    expected = train(Hutchinson, with_closure=with_closure, after=by_hand)[0]
    found = train(cpr(Hutchinson), with_closure=with_closure, **BOUND)[0]
    assert by_hand.acted > 2
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)


def test_bfloat16_weights_are_constrained_in_float32():
    p = matrix(40, 30, dtype=torch.bfloat16)
    before = p.detach().float()
    opt = cpr(Polyak)([p], lr=0.0, **{**BOUND, "kappa_update": 1e-2})

    def closure():
        p.grad = torch.ones_like(p)
        return torch.tensor(0.0)

    opt.step(closure)
    lam = opt.state[p]["lagmul"]
    assert lam.dtype is torch.float32
    assert 0 < lam < 1e-2
    assert torch.equal(p.detach(), (before - before * (2 * lam)).bfloat16())


def test_only_tensors_with_a_gradient_of_this_closure_are_constrained():
    """The gradients of the step before are no reason."""
    a, b = matrix(3, 3, seed=1), matrix(3, 3, seed=2)
    opt = cpr(Polyak)([a, b], **BOUND)

    def closure():
        opt.zero_grad()
        loss = sum((p**2).sum() for p in used)
        loss.backward()
        return loss

    used = [a, b]
    opt.step(closure)
    used, before = [a], b.detach().clone()
    opt.step(closure)
    assert [int(opt.state[p]["cpr_step"]) for p in (a, b)] == [2, 1]
    assert torch.equal(b.detach(), before)


def test_an_error_in_the_closure_moves_nothing():
    p = matrix(3, 3)
    opt = cpr(Polyak)([p], **BOUND)
    before = p.detach().clone()

    def closure():
        raise RuntimeError("data ran out")

    with pytest.raises(RuntimeError, match="data ran out"):
        opt.step(closure)
    assert torch.equal(p.detach(), before)
    assert not opt.state


def test_sparse_gradients_that_the_closure_makes_are_refused_before_anything_moves():
    table = torch.nn.Embedding(5, 3, sparse=True)
    opt = cpr(Polyak)(table.parameters(), regularize=True, **BOUND)
    before = table.weight.detach().clone()

    def closure():
        loss = table(torch.tensor([1])).sum()
        loss.backward()
        return loss

    with pytest.raises(RuntimeError, match="sparse gradient"):
        opt.step(closure)
    assert torch.equal(table.weight.detach(), before)


def test_arguments_of_the_bases_own_step_reach_it():
    ends = []
    for scale in (1.0, 0.0):
        params, loss = problem()
        opt = cpr(Hutchinson)(params, **FREE)
        loss().backward(create_graph=True)
        before = params[0].detach().clone()
        opt.step(scale=scale)
        ends.append(torch.equal(params[0].detach(), before))
    assert ends == [False, True]


def test_a_base_without_a_closure_of_its_own_may_be_given_one():
    class Bare(Plain):
        @torch.no_grad()
        def step(self):
            self.update(None)

    (p, _), loss = problem()
    opt = cpr(Bare)([p], **BOUND)

    def closure():
        value = loss()
        value.backward()
        return value

    start = p.detach().clone()
    assert opt.step(closure) > 0
    assert opt.state[p]["lagmul"] > 0
    torch.testing.assert_close(p.detach(), start * (1 - 2 * opt.state[p]["lagmul"]) - 0.05 * p.grad)


def test_a_mixin_between_counts_as_another_optimizer():
    class Watched(torch.optim.Optimizer):
        def step(self, closure=None):
            self.seen = closure()
            return super().step()

    class Mixed(CPR, Watched, torch.optim.SGD):
        pass

    (p, _), loss = problem()
    opt = Mixed([p], lr=0.1, **BOUND)

    def closure():
        value = loss()
        value.backward()
        return value

    opt.step(closure)
    assert opt.seen > 0
    assert opt.state[p]["lagmul"] > 0


@pytest.mark.parametrize("name", ["Adam", "SGD", "RMSprop", "Adagrad", "Rprop", "Adafactor"])
def test_torchs_own_need_no_copy_of_the_weights(name):
    """They evaluate the closure once, first, and do not use the loss: with and without it the bits are the same."""
    ends = []
    for with_closure in (True, False):
        base = getattr(torch.optim, name)
        assert cpr(base)._constraint_first
        ends.append(bits(train(cpr(base), with_closure=with_closure, lr=0.01, **BOUND)[0]))
    assert_same_bits(*ends)
