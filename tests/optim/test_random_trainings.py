"""Random trainings equal the plain reference, and go on bit for bit wherever they are saved and loaded.

EXAMPLES says how many trainings each of the slow tests tries (default: 100), SEED which (default: 0).
"""

import collections
import os
import warnings

import pytest
import torch
from fused_backends import skip_where_missing
from hypothesis import HealthCheck, given, seed, settings
from optim_helpers import assert_same_bits
from random_trainings import Training, build, change, gradients, initial, rebuild, trainings, veto
from stepwise_reference import Tensor

from nnunet_cpr.optim import fused
from nnunet_cpr.optim.fused import c_backend, c_build, triton_backend

EXAMPLES, SEED = int(os.environ.get("EXAMPLES", 100)), int(os.environ.get("SEED", 0))
DIVERGED = 1e10
"""Weights that Algorithm 1's explicit step has made so large that R soon does not fit into float32."""
PROFILE = dict(deadline=None, database=None, suppress_health_check=list(HealthCheck), print_blob=False)
FEW = settings(max_examples=60, derandomize=True, **PROFILE)
MANY = settings(max_examples=EXAMPLES, **PROFILE)


class Run:
    """A training as it is done; `saving` says whether it is saved and loaded where it says so."""

    def __init__(self, training: Training, saving: bool) -> None:
        self.training, self.saving = training, saving
        self.params = initial(training)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*nothing to regularize")
            self.opt = build(training, self.params)

    def before(self, index: int) -> None:
        """Do what comes before a step."""
        step = self.training.steps[index]
        if self.saving and step.saved:
            self.params, self.opt = rebuild(self.training, self.params, self.opt)
        if step.edit:
            for param, layer in zip(self.params, self.training.layers, strict=True):
                change(param, layer, *step.edit)
        for group in self.opt.param_groups:
            group["lr"] *= step.lr_factor

    def step(self, index: int) -> list[torch.Tensor | None]:
        """Do the step and return its gradients, all None where there is none."""
        step, grads = self.training.steps[index], gradients(self.training, index)
        if step.omitted:
            return [None for _ in grads]
        for param, grad in zip(self.params, grads, strict=True):
            param.grad = grad
        # torch's fused SGD leaves the momentum of a vetoed first step uninitialized
        vetoed = step.vetoed and all(
            self.opt.state.get(p) for p, g in zip(self.params, grads, strict=True) if g is not None
        )
        veto(self.opt, vetoed)
        before = [None if grad is None or vetoed else grad.clone() for grad in grads]  # torch may write to gradients
        self.opt.step()
        return before


def against_the_reference(training: Training) -> collections.Counter:
    """Compare after each step; returns how often what the test is for has happened."""
    run, seen = Run(training, saving=True), collections.Counter()
    groups = [group for group in run.opt.param_groups for _ in group["params"]]
    tensors = [Tensor(p, g, training.base, training.options) for p, g in zip(run.params, groups, strict=True)]
    for index, step in enumerate(training.steps):
        run.before(index)
        if any(float(p.detach().abs().max()) > DIVERGED for p in run.params if p.numel()):
            break
        for tensor, param, group in zip(
            tensors, run.params, [g for g in run.opt.param_groups for _ in g["params"]], strict=True
        ):
            if step.edit:
                tensor.take(param)
            tensor.set_lr(group["lr"])
        for tensor, param, grad in zip(tensors, run.params, run.step(index), strict=True):
            state = run.opt.state.get(param, {})
            if grad is None:
                tensor.check_untouched(param, state)
            else:
                seen["acted"] += tensor.check(param, grad, state)
                seen["steps"] += 1
    return seen


def everything(run: Run) -> list[torch.Tensor]:
    """The weights and all the state there is."""
    states = (run.opt.state.get(p, {}) for p in run.params)
    values = [v for state in states for _, v in sorted(state.items()) if v is not None]
    return [torch.as_tensor(v).detach().clone() for v in [*run.params, *values]]


def saved_equals_uninterrupted(training: Training) -> None:
    """Compare bit for bit after each step."""
    runs = [Run(training, saving) for saving in (True, False)]
    for index in range(len(training.steps)):
        for run in runs:
            run.before(index)
            run.step(index)
        assert_same_bits(*(everything(run) for run in runs))
        first, second = (run.opt.state_dict()["param_groups"] for run in runs)
        assert first == second


@pytest.fixture(params=["any", "C kernel", "GPU kernels"])
def way(request, monkeypatch):
    """Any training, or those that kernels do: the C kernel, the GPU kernels in an interpreter."""
    if request.param == "GPU kernels":
        skip_where_missing("triton")
        from nnunet_cpr.optim.fused import triton_kernels

        if torch.cuda.is_available():
            pytest.skip("these trainings are on the CPU, for which Triton's interpreter must be chosen at its import")
        monkeypatch.setattr(triton_backend, "DEVICE_TYPE", "cpu")
        monkeypatch.setattr(triton_kernels, "CHUNK", 1024)
    with fused.use("triton" if request.param == "GPU kernels" else "c"):
        yield request.param


@pytest.fixture
def calls(monkeypatch):
    """How often weights were updated by what does constraint step and update in one pass."""
    counts = collections.Counter()
    ways = {"C kernel": c_backend, "GPU kernels": triton_backend.ChunkTable}
    for name, module in ways.items():

        def counted(*args, _name=name, _original=module.shrink_and_update):
            counts[_name] += 1
            return _original(*args)

        monkeypatch.setattr(module, "shrink_and_update", counted)
    return counts


def test_few_equal_the_reference(way, calls):
    seen = collections.Counter()

    @FEW
    @given(trainings(way != "any"))
    def compare(training):
        seen.update(against_the_reference(training))

    compare()
    assert seen["acted"] > 150, seen
    missing = way == "C kernel" and c_build.kernels() is None
    expected = {"any": 0, "C kernel": 50, "GPU kernels": 50}
    assert calls[way] >= expected[way] or missing, (seen, calls)


def test_few_are_saved_and_go_on_bit_for_bit(way):
    FEW(given(trainings(way != "any"))(saved_equals_uninterrupted))()


@pytest.mark.slow
def test_many_equal_the_reference(way):
    seed(SEED)(MANY(given(trainings(way != "any"))(lambda training: against_the_reference(training) and None)))()


@pytest.mark.slow
def test_many_are_saved_and_go_on_bit_for_bit(way):
    seed(SEED)(MANY(given(trainings(way != "any"))(saved_equals_uninterrupted)))()
