"""CPR, or a baseline's optimizer, on top of another trainer, which goes on deciding all else.

The base trainer makes its optimizer and schedule as ever. Ours takes over the parameters, the learning rates and, if it
is of the same kind, the moments' settings of its optimizer. The schedule stays bound to the base's optimizer, which
takes no step; the rates that it writes there are passed on.
"""

import warnings
from typing import Any

from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer

from nnunet_cpr.optim import param_groups
from nnunet_cpr.training.settings import NNUNET_LR
from nnunet_cpr.training.trainer import NamedTrainer, make_optimizer

KINDS: dict[str, tuple[tuple[type[Optimizer], ...], tuple[str, ...]]] = {
    "SGD": ((SGD,), ("momentum", "dampening", "nesterov")),
    "Adam": ((Adam, AdamW), ("betas", "eps", "amsgrad")),
    "AdamW": ((Adam, AdamW), ("betas", "eps", "amsgrad")),
}
"""For each family's optimizer: the classes of the same kind, and the settings that are taken over from one of these."""
MOST_SKIPPED = 40
"""So many steps nnU-Net's gradient scaler may skip at the start: it halves its scale of 65,536 with each."""


class TrainerOnTop(NamedTrainer):
    """Stands before the base trainer in the inheritance of the class that `factory` makes for a name."""

    _base_optimizer: Optimizer | None = None
    _train_steps = 0
    _optimizer_steps = 0

    def initialize(self) -> None:
        """Make what the base makes. Raises ValueError if it has more than one optimizer."""
        super().initialize()
        known = (self.optimizer, self._base_optimizer)
        for name, value in vars(self).items():
            if isinstance(value, Optimizer) and not any(value is optimizer for optimizer in known):
                raise ValueError(f"{self.settings.base} has a second optimizer, {name}; CPR can be on top of one only")

    def configure_optimizers(self, *args: Any, **kwargs: Any) -> tuple[Optimizer, Any]:
        """Make the optimizer that the name asks for in place of the base's. Raises ValueError if that cannot be."""
        made = super(NamedTrainer, self).configure_optimizers(*args, **kwargs)  # the base's
        if not (isinstance(made, tuple) and len(made) == 2 and isinstance(made[0], Optimizer)):
            raise ValueError(
                f"{self.settings.base} does not make one optimizer and one schedule, so CPR cannot be on top of it"
            )
        base, schedule = made
        if base is self.optimizer:  # a later stage of the training: another schedule for the optimizer that is there
            return base, self._warmup(base) or schedule
        self.settings.check_length(self.num_epochs * self.num_iterations_per_epoch)
        base_lr = _initial_lr(base.param_groups[0])
        self.initial_lr = self._choose_lr(base_lr)
        scale = self.initial_lr / base_lr
        groups = self._cpr_groups(base) if self.settings.cpr else self._plain_groups(base)
        if self.settings.cpr:
            self.weight_decay = 0.0  # not before: the base's groups show what it exempts
        for index, group in groups:
            group["lr"] = _initial_lr(base.param_groups[index]) * scale
        if self.settings.warmup_steps and any(group["lr"] != self.initial_lr for _, group in groups):
            raise ValueError(
                f"{self.settings.base} has groups of parameters with learning rates of their own, and warmup<steps> "
                "has one for all; leave it out of the name"
            )
        classes, kept = KINDS[self.settings.optimizer]
        arguments = {key: base.defaults[key] for key in kept if isinstance(base, classes)}
        optimizer = make_optimizer(self.settings, [group for _, group in groups], self.initial_lr, **arguments)
        optimizer.register_step_pre_hook(self._count_step)
        self._base_optimizer = base
        if schedule is not None:
            schedule = FollowedSchedule(schedule, base, optimizer, [index for index, _ in groups], scale)
        return optimizer, self._warmup(optimizer) or schedule

    def _choose_lr(self, base_lr: float) -> float:
        """The name's, else the base's, else, if that is only nnU-Net's default for SGD, the family's."""
        if self.settings.lr is not None:
            return self.settings.lr
        family_lr = self.settings.family.lr
        return family_lr if family_lr is not None and base_lr == NNUNET_LR else base_lr

    def _cpr_groups(self, base: Optimizer) -> list[tuple[int, dict[str, Any]]]:
        """Split each of the base's groups into what CPR regularizes and what it does not."""
        decided = {
            p: (name, group["regularize"]) for group in param_groups(self.network) for name, p in group["params"]
        }
        any_decay = any(group.get("weight_decay") for group in base.param_groups)
        groups = []
        for index, source in enumerate(base.param_groups):
            exempt = any_decay and not source.get("weight_decay")  # what weight decay leaves alone, CPR does, too
            params: dict[bool, list[tuple[str, Tensor]]] = {True: [], False: []}
            for position, param in enumerate(source["params"]):
                name, regularize = decided.get(param, (f"not in the network: {index}.{position}", False))
                params[regularize and not exempt].append((name, param))
            groups += [(index, {"params": some, "regularize": key}) for key, some in params.items() if some]
        return groups

    def _plain_groups(self, base: Optimizer) -> list[tuple[int, dict[str, Any]]]:
        """Copy the base's groups. Weight decay: the name's, else the base's if it means the same, else the family's."""
        same_kind = isinstance(base, KINDS[self.settings.optimizer][0])
        any_decay = any(group.get("weight_decay") for group in base.param_groups)
        groups = []
        for index, source in enumerate(base.param_groups):
            decay = source.get("weight_decay", 0)
            if decay or not any_decay:  # else the base exempts this group
                wanted = self.settings.weight_decay
                decay = wanted if wanted is not None else decay if same_kind else self.settings.family.weight_decay
            groups.append((index, {"params": source["params"], "weight_decay": decay}))
        return groups

    def _count_step(self, *_: Any) -> None:
        self._optimizer_steps += 1

    def train_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        """The base's step. Raises ValueError if it turns out to update the weights without the optimizer."""
        result = super().train_step(batch)
        self._train_steps += 1
        if not self._optimizer_steps and self._train_steps > (0 if self.grad_scaler is None else MOST_SKIPPED):
            raise ValueError(
                f"{self.settings.base} never calls self.optimizer.step() in its train_step, so it updates the weights "
                "in a way of its own and CPR cannot be on top of it"
            )
        return result


class FollowedSchedule:
    """The base's schedule; the rates that it writes into the base's optimizer are passed on to ours, times a scale."""

    def __init__(self, schedule: Any, base: Optimizer, optimizer: Optimizer, sources: list[int], scale: float) -> None:
        """Take for each of the optimizer's groups the index of the base's group that it follows."""
        self._schedule, self._base, self._optimizer = schedule, base, optimizer
        self._sources, self._scale = sources, scale
        self._pass_on()

    def step(self, *args: Any, **kwargs: Any) -> None:
        """Let the base's schedule do its step."""
        with warnings.catch_warnings():
            # The optimizer that it is bound to never takes a step.
            warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step")
            self._schedule.step(*args, **kwargs)
        self._pass_on()

    def __getattr__(self, name: str) -> Any:
        """All else is the base's schedule's."""
        return getattr(self._schedule, name)

    def _pass_on(self) -> None:
        for group, source in zip(self._optimizer.param_groups, self._sources, strict=True):
            group["lr"] = self._base.param_groups[source]["lr"] * self._scale


def _initial_lr(group: dict[str, Any]) -> float:
    """A group's rate before any schedule has changed it; torch's schedules note that."""
    return float(group.get("initial_lr", group["lr"]))
