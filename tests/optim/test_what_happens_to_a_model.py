"""What is done to a model and its optimizer between two steps: each step after it equals the plain reference.

One table: bounds set by hand, models moved, pruned, averaged and compiled, learning rates and momenta scheduled. Each
row runs with Adam and SGD, fused with kernels, fused without, and not fused.
"""

import copy
import inspect

import pytest
import torch
from optim_helpers import CLASSES, round_trip
from stepwise_reference import Tensor
from torch import nn
from torch.nn.utils import prune
from torch.optim import lr_scheduler
from torch.optim.swa_utils import SWALR, AveragedModel, get_ema_multi_avg_fn

from nnunet_cpr.optim import fused, param_groups

WAYS = ("kernels", "fused", "loop")
OPTIONS = {"Adam": {"lr": 0.02, "betas": (0.8, 0.95)}, "SGD": {"lr": 0.02, "momentum": 0.9}}
BOUND = {"kappa_init_method": "warm_start", "kappa_init_param": 2, "kappa_update": 1.0}
STEPS = 12
both_optimizers = pytest.mark.parametrize("name", CLASSES)


@pytest.fixture(params=WAYS)
def way(request):
    """How a step is computed: `fused` is the optimizer's argument."""
    if request.param == "kernels":
        yield True
    else:
        with fused.use(None):
            yield request.param == "fused"


def network():
    torch.manual_seed(0)
    head = nn.Sequential(nn.Flatten(), nn.Linear(36, 5), nn.LayerNorm(5), nn.Linear(5, 3))
    return nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.Tanh(), *head)


class Training:
    """A model in training, and what Algorithm 1 says of each of its tensors."""

    def __init__(self, name, fused, model=None, make=None, dtype=torch.float32):
        self.name, self.fused = name, fused
        self.model = network().to(dtype) if model is None else model
        self.forward = self.model  # or a compiled one
        self.optimizer = self.new_optimizer() if make is None else make(self)
        self.step = lambda: self.optimizer.step()
        self.references = [Tensor(p, group, name, OPTIONS[name]) for p, group in self.rows()]
        self.count = self.acted = 0

    def new_optimizer(self):
        return CLASSES[self.name](self.model, **OPTIONS[self.name], **BOUND, fused=self.fused)

    def rows(self):
        """The parameters and their groups."""
        return [(p, group) for group in self.optimizer.param_groups for p in group["params"]]

    def regularized(self):
        return [(p, r) for (p, _), r in zip(self.rows(), self.references, strict=True) if r.constraint is not None]

    def weights(self):
        return [p for p, _ in self.rows()]

    def take_weights(self):
        """Tell the reference that the weights were changed on purpose."""
        for p, reference in zip(self.weights(), self.references, strict=True):
            reference.take(p)
            reference.eps = torch.finfo(p.dtype).eps
            reference.acc_eps = torch.finfo(torch.float64 if p.dtype == torch.float64 else torch.float32).eps

    def reload(self):
        """Save and load the optimizer, which casts its state to the weights' dtype."""
        state = round_trip(self.optimizer.state_dict())
        self.optimizer = self.new_optimizer()
        self.optimizer.load_state_dict(state)

    def loss(self):
        g = torch.Generator().manual_seed(self.count)
        x = torch.randn(8, 2, 3, 3, generator=g).to(self.weights()[0].dtype)
        return (self.forward(x) - 9 * x.flatten(1)[:, :3]).square().mean()

    def run(self, steps):
        """Do steps and compare after each."""
        for _ in range(steps):
            self.optimizer.zero_grad()
            self.loss().backward()
            grads = [p.grad.clone() for p in self.weights()]
            for (_, group), reference in zip(self.rows(), self.references, strict=True):
                self.take_settings(reference.base, group)
            self.step()
            for (p, _), reference, grad in zip(self.rows(), self.references, grads, strict=True):
                self.acted += reference.check(p, grad, self.optimizer.state[p])
            self.count += 1

    def take_settings(self, base, group):
        base.lr = float(group["lr"])
        if self.name == "SGD":
            base.momentum = group["momentum"]
        else:
            base.betas = group["betas"]

    def finish(self):
        self.run(STEPS - self.count)
        assert self.acted > STEPS, "few constraints acted"


# what is done after the fourth step


def bound_filled(training):
    for p, reference in training.regularized():
        training.optimizer.state[p]["kappa"].mul_(0.5)
        reference.constraint.kappa *= 0.5


def bound_assigned(training):
    for p, reference in training.regularized():
        reference.constraint.kappa = 0.25 * round(4 * float(p.detach().square().sum()) - 1)
        training.optimizer.state[p]["kappa"] = torch.tensor(reference.constraint.kappa)


def bound_of_one_lifted(training):
    p, reference = training.regularized()[0]
    reference.constraint.kappa = float("inf")
    training.optimizer.state[p]["kappa"].fill_(float("inf"))


def multiplier_set(training):
    for p, reference in training.regularized():
        reference.constraint.lam = 0.125
        training.optimizer.state[p]["lagmul"].fill_(0.125)


def warm_start_again(training):
    """Of one tensor: its step count back to 0 and its bound lifted."""
    p, reference = training.regularized()[-1]
    state, constraint = training.optimizer.state[p], reference.constraint
    for key, value in (("kappa", float("inf")), ("lagmul", 0.0), ("cpr_step", 0.0)):
        state[key].fill_(value)
    constraint.kappa, constraint.lam, constraint.t = float("inf"), 0.0, 0


def mu_changed(training):
    for group in training.optimizer.param_groups:
        group["kappa_update"] = 3.0
    for _, reference in training.regularized():
        reference.constraint.settings.kappa_update = 3.0


def moved_to_float64(training):
    training.model.double()
    training.reload()
    training.take_weights()


def moved_by_swapping(training):
    """As FSDP2 does it: other tensors in the same parameters."""
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        training.model.double()
    finally:
        torch.__future__.set_swap_module_params_on_conversion(False)
    training.reload()
    training.take_weights()


def moved_to_channels_last(training):
    training.model.to(memory_format=torch.channels_last)


def moved_to_shared_memory(training):
    training.model.share_memory()


def replaced_by_a_copy(training):
    training.model = training.forward = copy.deepcopy(training.model)
    training.reload()


def pruned(training):
    for module in (training.model[0], training.model[3]):
        prune.l1_unstructured(module, "weight", amount=0.5)


def pruned_for_good(training):
    pruned(training)
    training.run(2)
    for module in (training.model[0], training.model[3]):
        prune.remove(module, "weight")
    training.take_weights()


def pruned_by_a_mask(training):
    with torch.no_grad():
        for p, _ in training.regularized():
            p.mul_(p.abs() > p.abs().median())
    training.take_weights()


def ema(training):
    return AveragedModel(training.model, multi_avg_fn=get_ema_multi_avg_fn(0.8))


def exchange(training, average):
    with torch.no_grad():
        for p, q in zip(training.model.parameters(), average.module.parameters(), strict=True):
            kept = p.clone()
            p.copy_(q)
            q.copy_(kept)


def averaged(training):
    """An EMA beside the training, swapped in for an evaluation and out again."""
    average = ema(training)
    for _ in range(3):
        training.run(1)
        average.update_parameters(training.model)
    exchange(training, average)
    with torch.no_grad():
        training.loss()
    exchange(training, average)


def continued_from_the_average(training):
    average = ema(training)
    training.run(1)
    average.update_parameters(training.model)
    exchange(training, average)
    training.take_weights()


def average_swapped_by_data(training):
    average = ema(training)
    training.run(1)
    average.update_parameters(training.model)
    for p, q in zip(training.model.parameters(), average.module.parameters(), strict=True):
        p.data, q.data = q.data, p.data
    training.take_weights()


def stochastically_averaged(training):
    """SWA: a mean of weights, loaded into the model for some more training."""
    average = AveragedModel(training.model)
    schedule = SWALR(training.optimizer, swa_lr=0.05, anneal_epochs=2)
    for _ in range(3):
        training.run(1)
        average.update_parameters(training.model)
        schedule.step()
    training.model.load_state_dict(average.module.state_dict())
    training.take_weights()


EVENTS = (
    bound_filled, bound_assigned, bound_of_one_lifted, multiplier_set, warm_start_again, mu_changed,
    moved_to_float64, moved_by_swapping, moved_to_channels_last, moved_to_shared_memory, replaced_by_a_copy,
    pruned, pruned_for_good, pruned_by_a_mask,
    averaged, continued_from_the_average, average_swapped_by_data, stochastically_averaged,
)  # fmt: skip


@both_optimizers
@pytest.mark.parametrize("event", EVENTS)
def test_between_two_steps(event, name, way):
    training = Training(name, way)
    training.run(4)
    event(training)
    training.finish()


@both_optimizers
@pytest.mark.parametrize("swapping", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_moved_before_the_first_step(dtype, swapping, name, way):
    """The optimizer was made for weights of another dtype."""
    if name == "SGD" and dtype == torch.bfloat16 and torch.__version__ < "2.14":
        way = False  # torch's fused SGD does not update them, and is refused

    def make(training):
        optimizer = training.new_optimizer()
        torch.__future__.set_swap_module_params_on_conversion(swapping)
        try:
            training.model.to(dtype)
        finally:
            torch.__future__.set_swap_module_params_on_conversion(False)
        return optimizer

    Training(name, way, make=make).finish()


# compiled


def compiled_model(training, backend):
    training.forward = torch.compile(training.model, backend=backend)
    return training.new_optimizer()


def made_from_the_compiled_model(training, backend):
    training.forward = training.model = torch.compile(training.model, backend=backend)
    return training.new_optimizer()


def made_inside_a_compiled_region(training, backend):
    groups = [{**g, "params": [p for _, p in g["params"]]} for g in param_groups(training.model)]

    @torch.compile(backend=backend)
    def make(x):
        optimizer = CLASSES[training.name](groups, **OPTIONS[training.name], **BOUND, fused=training.fused)
        return optimizer, x + 1

    return make(torch.ones(2))[0]


@both_optimizers
@pytest.mark.parametrize("backend", ["eager", pytest.param("inductor", marks=pytest.mark.slow)])
@pytest.mark.parametrize("compiled", [compiled_model, made_from_the_compiled_model, made_inside_a_compiled_region])
def test_compiled(compiled, backend, name, way):
    torch._dynamo.reset()
    Training(name, way, make=lambda training: compiled(training, backend)).finish()


@both_optimizers
@pytest.mark.parametrize("backend", ["eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_a_compiled_step(backend, name, way):
    torch._dynamo.reset()
    training = Training(name, way)
    training.step = torch.compile(training.optimizer.step, backend=backend)
    training.run(4)
    bound_filled(training)
    training.finish()


# scheduled

SCHEDULERS = {
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda t: 1 / (1 + t)),
    "MultiplicativeLR": lambda o: lr_scheduler.MultiplicativeLR(o, lambda t: 0.9),
    "StepLR": lambda o: lr_scheduler.StepLR(o, 3, 0.5),
    "MultiStepLR": lambda o: lr_scheduler.MultiStepLR(o, [2, 5], 0.5),
    "ConstantLR": lambda o: lr_scheduler.ConstantLR(o, 0.3, 4),
    "LinearLR": lambda o: lr_scheduler.LinearLR(o, 0.1, total_iters=6),
    "ExponentialLR": lambda o: lr_scheduler.ExponentialLR(o, 0.9),
    "PolynomialLR": lambda o: lr_scheduler.PolynomialLR(o, STEPS, 0.9),
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, STEPS),
    "CosineAnnealingWarmRestarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 4, 2),
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(o, 0.001, 0.05, step_size_up=3, base_momentum=0.7, max_momentum=0.95),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, 0.05, total_steps=STEPS + 1),
    "OneCycleLR, constant momentum": lambda o: lr_scheduler.OneCycleLR(o, 0.05, STEPS + 1, cycle_momentum=False),
    "ReduceLROnPlateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, factor=0.5, patience=1, threshold=0.9),
    "ChainedScheduler": lambda o: lr_scheduler.ChainedScheduler(
        [lr_scheduler.ConstantLR(o, 0.1, 3), lr_scheduler.ExponentialLR(o, 0.9)]
    ),
    "SequentialLR": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o, 0.1, total_iters=4), lr_scheduler.CosineAnnealingLR(o, STEPS - 4)], [4]
    ),
}


def test_no_scheduler_of_torchs_is_left_out():
    known = {key.partition(",")[0] for key in SCHEDULERS}
    base = lr_scheduler.LRScheduler
    theirs = {
        name
        for name, cls in inspect.getmembers(lr_scheduler, inspect.isclass)
        if issubclass(cls, base) and name not in ("LRScheduler", "_LRScheduler")
    }
    assert theirs == known


@both_optimizers
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_scheduled(scheduler, name, way):
    """Its numbers are those that the scheduler gives torch's own optimizer."""
    training = Training(name, way)
    plain = getattr(torch.optim, name)([nn.Parameter(torch.ones(2))], **OPTIONS[name])
    schedules = [SCHEDULERS[scheduler](o) for o in (training.optimizer, plain)]
    key, seen = {"Adam": "betas", "SGD": "momentum"}[name], set()
    for _ in range(STEPS):
        training.run(1)
        plain.step()
        for group in training.optimizer.param_groups:
            assert (group["lr"], group[key]) == (plain.param_groups[0]["lr"], plain.param_groups[0][key])
        seen.add((group["lr"], group[key]))
        for schedule in schedules:
            schedule.step(*([1.0] if scheduler == "ReduceLROnPlateau" else []))
    training.finish()
    assert len(seen) > 1
    cycles = scheduler in ("CyclicLR", "OneCycleLR")
    assert (len({momentum for _, momentum in seen}) > 1) is cycles
