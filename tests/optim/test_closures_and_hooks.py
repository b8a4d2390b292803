"""Closures are evaluated once, at theta_t; hooks run once a step, whatever optimizers were made before."""

import functools

import pytest
import torch
from optim_helpers import CLASSES, assert_same_bits, matrix, one_step

from nnunet_cpr.optim import CPR, SGDCPR, AdamCPR, cpr

BASES = {"Adam": torch.optim.Adam, "SGD": torch.optim.SGD}


@pytest.mark.parametrize("name", CLASSES)
class TestClosure:
    def make(self, name):
        p = matrix(4, 4)
        return p, CLASSES[name]([p], lr=0.01, kappa_init_method="dependent", kappa_init_param=0.8)

    def test_evaluated_once_with_gradients_enabled_before_anything_moves(self, name):
        p, opt = self.make(name)
        seen = []

        def closure():
            assert torch.is_grad_enabled()
            seen.append(p.detach().clone())
            opt.zero_grad()
            loss = (p**2).sum()
            loss.backward()
            return loss

        for _ in range(3):
            before = p.detach().clone()
            loss = opt.step(closure)
            assert torch.equal(loss.detach(), (before**2).sum())
            assert torch.equal(seen[-1], before)
        assert len(seen) == 3

    def test_equals_calling_backward_before(self, name):
        (p, opt), (q, other) = self.make(name), self.make(name)

        def closure():
            opt.zero_grad()
            loss = (p - 3).abs().sum()
            loss.backward()
            return loss

        for _ in range(10):
            opt.step(closure)
            other.zero_grad()
            (q - 3).abs().sum().backward()
            other.step()
        assert_same_bits([p.detach()], [q.detach()])

    def test_gradients_that_only_the_closure_makes_count(self, name):
        p, opt = self.make(name)
        assert p.grad is None
        opt.step(lambda: (p**2).sum().backward())
        assert int(opt.state[p]["cpr_step"]) == 1
        assert opt.state[p]["lagmul"] > 0

    def test_works_under_no_grad(self, name):
        p, opt = self.make(name)

        def closure():
            loss = (p**2).sum()
            loss.backward()
            return loss

        with torch.no_grad():
            assert opt.step(closure) is not None
        assert p.grad is not None

    def test_an_error_in_the_closure_moves_nothing(self, name):
        p, opt = self.make(name)
        one_step(opt, [p])
        before, lam = p.detach().clone(), opt.state[p]["lagmul"].clone()

        def closure():
            raise RuntimeError("data ran out")

        with pytest.raises(RuntimeError, match="data ran out"):
            opt.step(closure)
        assert torch.equal(p.detach(), before)
        assert torch.equal(opt.state[p]["lagmul"], lam)

    def test_returns_none_without(self, name):
        p, opt = self.make(name)
        p.grad = torch.ones_like(p)
        assert opt.step() is None


def counting(opt):
    calls = {"pre": 0, "post": 0}

    def hook(kind):
        def count(optimizer, args, kwargs):
            assert optimizer is opt
            calls[kind] += 1

        return count

    opt.register_step_pre_hook(hook("pre"))
    opt.register_step_post_hook(hook("post"))
    return calls


class TestHooks:
    @pytest.mark.parametrize("name", CLASSES)
    @pytest.mark.parametrize("plain", ["before", "after", "never"])
    def test_once_a_step(self, name, plain):
        """Making a plain torch.optim.Adam wraps Adam.step with the hooks, too."""
        p = matrix(3, 3)
        if plain == "before":
            BASES[name]([matrix(2, 2)], lr=0.1)
        opt = CLASSES[name]([p], lr=0.1)
        calls = counting(opt)
        if plain == "after":
            BASES[name]([matrix(2, 2)], lr=0.1)
        for _ in range(3):
            one_step(opt, [p])
        assert calls == {"pre": 3, "post": 3}

    @pytest.mark.parametrize("base", [torch.optim.RMSprop, torch.optim.AdamW])
    def test_once_a_step_for_classes_of_cpr(self, base):
        base([matrix(2, 2)], lr=0.1)
        p = matrix(3, 3)
        opt = cpr(base)([p], lr=0.1)
        calls = counting(opt)
        one_step(opt, [p])
        assert calls == {"pre": 1, "post": 1}

    def test_once_in_a_subclass_that_has_its_own_step(self):
        class Mine(AdamCPR):
            def step(self, closure=None):
                return super().step(closure)

        torch.optim.Adam([matrix(2, 2)])
        p = matrix(3, 3)
        opt = Mine([p])
        calls = counting(opt)
        one_step(opt, [p])
        assert calls["pre"] >= 1  # torch itself runs them once for each class of the chain that was instantiated

    def test_the_plain_optimizer_is_left_alone(self):
        AdamCPR([matrix(2, 2)])
        p = matrix(3, 3)
        plain = torch.optim.Adam([p])
        calls = counting(plain)
        one_step(plain, [p])
        assert calls == {"pre": 1, "post": 1}

    def test_global_hooks_once(self):
        from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

        torch.optim.Adam([matrix(2, 2)])
        p = matrix(3, 3)
        opt = AdamCPR([p])
        calls = []
        handles = [
            register_optimizer_step_pre_hook(lambda o, a, k: calls.append("pre")),
            register_optimizer_step_post_hook(lambda o, a, k: calls.append("post")),
        ]
        try:
            one_step(opt, [p])
        finally:
            for handle in handles:
                handle.remove()
        assert calls == ["pre", "post"]

    def test_pre_hooks_come_before_the_constraint_and_post_hooks_after_everything(self):
        p = matrix(3, 3)
        opt = SGDCPR([p], lr=0.1, kappa_init_method="dependent", kappa_init_param=0.5)
        start, seen = p.detach().clone(), []
        opt.register_step_pre_hook(lambda o, a, k: seen.append(p.detach().clone()))
        opt.register_step_post_hook(lambda o, a, k: seen.append((p.detach().clone(), int(o.state[p]["cpr_step"]))))
        p.grad = torch.ones_like(p)
        opt.step()
        assert torch.equal(seen[0], start)
        assert torch.equal(seen[1][0], p.detach())
        assert seen[1][1] == 1

    def test_state_dict_hooks_run_once(self):
        p = matrix(3, 3)
        opt = AdamCPR([p])
        seen = []
        opt.register_state_dict_pre_hook(lambda o: seen.append("pre"))
        opt.register_state_dict_post_hook(lambda o, s: seen.append("post"))
        opt.state_dict()
        assert seen == ["pre", "post"]


def test_the_bases_own_step_runs_whatever_made_it():
    """One that `functools.wraps` made look like Adam's, which torch has wrapped by then; a mixin's after CPR."""
    calls = []
    torch.optim.Adam([matrix(2, 2)], lr=1.0)

    class Logged(torch.optim.Adam):
        @functools.wraps(torch.optim.Adam.step)
        def step(self, closure=None):
            calls.append("logged")
            return super().step(closure)

    class Mixin(torch.optim.Optimizer):
        def step(self, closure=None):
            calls.append("mixin")
            return super().step(closure)

    class Mixed(CPR, Mixin, torch.optim.Adam):
        pass

    for cls in (cpr(Logged), Mixed):
        p = matrix(2, 2)
        opt = cls([p], lr=0.01, kappa_init_method="dependent", kappa_init_param=0.8)
        one_step(opt, [p])
        assert opt.state[p]["step"] == opt.state[p]["cpr_step"] == 1
    assert calls == ["logged", "mixin"]


def test_param_groups_may_be_a_property():
    class Counted(AdamCPR):
        @property
        def param_groups(self):
            return self.its_groups

        @param_groups.setter
        def param_groups(self, groups):
            self.its_groups = groups

    p = matrix(2, 2)
    opt = Counted([p], lr=0.01)
    one_step(opt, [p])
    assert opt.state[p]["cpr_step"] == 1
