"""What a trainer's name means: `nnUNetTrainerCPR_ws2000_warmup2000_100epochs` and its kin.

nnU-Net has one knob, the trainer's name, and files results under it. So a name is a family followed by any of the
parts in `PARTS`, joined by `_` in any order; one name is one setting. Between the two may stand `_on_` and the name of
another trainer, which then decides whatever the parts do not. Nothing here imports torch or nnU-Net.
"""

import math
import re
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass, replace
from typing import Any

from nnunet_cpr.nnunet.trainer_sources import trainer_sources
from nnunet_cpr.optim.bounds import RULES, BoundRule
from nnunet_cpr.optim.regularizers import REGULARIZERS, STEP_FORMS

NNUNET_LR, NNUNET_EPOCHS, NNUNET_ITERATIONS = 1e-2, 1000, 250


@dataclass(frozen=True)
class CPRSettings:
    """The constraint's settings, named as the arguments of `nnunet_cpr.optim`'s optimizers."""

    kappa_init_method: str = "warm_start"
    kappa_init_param: float | None = 1000
    reg_function: str = "l2"
    kappa_update: float = 1.0
    step_form: str = "explicit"
    adaptive_bounds: bool = False


@dataclass(frozen=True)
class TrainerSettings:
    """Everything that a trainer's name decides. What it leaves to the trainer that it is on top of is None."""

    name: str
    optimizer: str
    lr: float | None
    weight_decay: float | None = 0.0
    cpr: CPRSettings | None = None
    warmup_steps: int = 0
    epochs: int | None = NNUNET_EPOCHS
    iterations: int | None = NNUNET_ITERATIONS
    seed: int | None = None
    bf16: bool = False
    base: str | None = None
    """The trainer that this is on top of, None for nnU-Net's default."""

    @property
    def family(self) -> "TrainerSettings":
        """The settings of the family's name alone."""
        return FAMILIES[family_of(self.name) or ""]

    @property
    def total_steps(self) -> int | None:
        """Optimizer steps of the whole training, None if the base decides."""
        return None if self.epochs is None or self.iterations is None else self.epochs * self.iterations

    def optimizer_arguments(self) -> dict[str, Any]:
        """Arguments for the optimizer besides the parameters and the learning rate."""
        arguments: dict[str, Any] = (
            {"momentum": 0.99, "nesterov": True} if self.optimizer == "SGD" else {"betas": (0.9, 0.99)}
        )
        if self.cpr is None:
            return arguments if self.weight_decay is None else arguments | {"weight_decay": self.weight_decay}
        arguments |= {key: value for key, value in asdict(self.cpr).items() if value is not None}
        if "reg_step_size" in RULES[self.cpr.kappa_init_method].settings and self.warmup_steps:
            arguments["reg_step_size"] = max(1, self.warmup_steps // 10)  # the paper: every 10 % of the warmup
        return arguments

    def check_length(self, total_steps: int | None) -> None:
        """Raise ValueError if warmup or warm start do not fit into so many steps; None: that is not known yet."""
        if total_steps is None:
            return
        if self.warmup_steps >= total_steps:
            raise ValueError(
                f"{self.name}: the warmup takes {self.warmup_steps} steps, but the training has only {total_steps}; "
                "shorten the warmup or train longer."
            )
        rule = self.cpr and RULES[self.cpr.kappa_init_method]
        if self.cpr and rule and rule.counts_steps and (self.cpr.kappa_init_param or 0) >= total_steps:
            words = rule.name.replace("_", " ")
            raise ValueError(
                f"{self.name}: the {words} takes {self.cpr.kappa_init_param} steps, but the training "
                f"has only {total_steps}, so nothing would ever be regularized; name a shorter one ({rule.spelling}) "
                "or train longer."
            )


# Adam: 1e-3 is its usual rate and that of nnU-Net's own nnUNetTrainerAdam1en3; SGD's 1e-2 is too hot for it.
# AdamW: weight decay is multiplied by the learning rate, so it needs PyTorch's 1e-2 where nnU-Net's SGD has 3e-5.
FAMILIES = {
    settings.name: settings
    for settings in (
        TrainerSettings("nnUNetTrainerCPR", "SGD", NNUNET_LR, cpr=CPRSettings()),
        TrainerSettings("nnUNetTrainerAdamCPR", "Adam", 1e-3, cpr=CPRSettings()),
        TrainerSettings("nnUNetTrainerSGD", "SGD", NNUNET_LR, weight_decay=3e-5),
        TrainerSettings("nnUNetTrainerAdamW", "AdamW", 1e-3, weight_decay=1e-2),
    )
}

_COUNT = r"(\d+)"
_NUMBER = r"(\d+(?:\.\d+)?(?:e-?\d+)?)"


def _at_least(lowest: int) -> Callable[[str], int]:
    def convert(text: str) -> int:
        if int(text) < lowest:
            raise ValueError(f"must be at least {lowest}")
        return int(text)

    return convert


def _seed(text: str) -> int:
    if int(text) >= 2**32:
        raise ValueError("must be below 2**32")
    return int(text)


def _not_negative(text: str) -> float:
    if not math.isfinite(float(text)):
        raise ValueError("is not a finite number")
    return float(text)


def _positive(text: str) -> float:
    if not _not_negative(text) > 0:
        raise ValueError("must be positive")
    return float(text)


@dataclass(frozen=True)
class Part:
    """One kind of part of a name: how it is spelled, which setting it sets, and to what."""

    spelling: str
    pattern: str
    setting: str
    value: Callable[[str], Any]
    meaning: str
    only: str = ""  # "CPR" or "weight decay": the families that know it, empty for all

    def read(self, text: str) -> Any:
        """The value that the text sets, None if it is another part's. Raises ValueError for a bad number."""
        match = re.fullmatch(self.pattern, text, re.ASCII)
        return match and self.value(match[1] if match.lastindex else text)


_BOUND, _REGULARIZER = "bound rule", "regularizer"
_DEFAULT = CPRSettings()


def _bound_part(rule: BoundRule) -> Part:
    """The part of a name that chooses a bound rule."""
    prefix, _, placeholder = rule.spelling.partition("<")
    number: Callable[[str], Any] = _at_least(1) if rule.counts_steps else _positive
    pattern = _COUNT if rule.counts_steps else _NUMBER
    meaning = f"{rule.title}: kappa = {rule.meaning.format('<' + placeholder)}"
    if rule.name == _DEFAULT.kappa_init_method:
        meaning += f" (default: as many as warmup<steps>, else {_DEFAULT.kappa_init_param})"
    return Part(
        rule.spelling,
        prefix + (pattern if placeholder else ""),
        _BOUND,
        lambda text: (rule.name, number(text) if placeholder else None),
        meaning,
        "CPR",
    )


PARTS = (
    *map(_bound_part, RULES.values()),
    Part(" | ".join(REGULARIZERS), "|".join(REGULARIZERS), _REGULARIZER, str,
         f"the statistic R that is bounded (default: {_DEFAULT.reg_function}, "
         f"{REGULARIZERS[_DEFAULT.reg_function].meaning})", "CPR"),
    Part("mu<value>", "mu" + _NUMBER, "mu", _positive, "step size of lambda (default: 1)", "CPR"),
    *(Part(name, name, "step form", str, f"constraint step: {meaning}", "CPR")
      for name, meaning in STEP_FORMS.items() if name != _DEFAULT.step_form),
    Part("adaptive", "adaptive", "adaptive bounds", bool, "AdaCPR: tighten kappa whenever lambda returns to 0", "CPR"),
    Part("wd<value>", "wd" + _NUMBER, "weight decay", _not_negative,
         "weight decay (default: SGD 3e-5, AdamW 1e-2)", "weight decay"),
    Part("warmup<steps>", "warmup" + _COUNT, "warmup", _at_least(1),
         "linear warmup, then polynomial decay, both per step (default: nnU-Net's decay per epoch, no warmup)"),
    Part("<N>epochs", _COUNT + "epochs", "epochs", _at_least(1), "length of the training (default: 1000)"),
    Part("<N>iters", _COUNT + "iters", "iterations", _at_least(1),
         "training iterations per epoch (default: 250), and a fifth as many for online validation"),
    Part("lr<value>", "lr" + _NUMBER, "learning rate", _positive,
         "initial or, with warmup, highest learning rate (default: SGD 1e-2, Adam and AdamW 1e-3)"),
    Part("seed<int>", "seed" + _COUNT, "seed", _seed, "seeds Python, NumPy and torch"),
    Part("bf16", "bf16", "precision", bool, "runs the network under bfloat16 autocast on every device"),
)  # fmt: skip


def family_of(name: str) -> str | None:
    """The family whose name begins this name, None if there is none."""
    return next((family for family in FAMILIES if name.startswith(family)), None)


ON = "_on_"
LONGEST_NAME = 200
"""A results folder has the name of the trainer, plans and configuration; file systems allow 255 bytes."""


def parse(name: str, base: str | None = None) -> TrainerSettings:
    """What the name means.

    Args:
        name: a trainer's name.
        base: the trainer that it is on top of, where that is known; by default it is searched for, where nnU-Net would.

    Raises:
        ValueError: it is not one of our trainers; says why.
    """
    family = family_of(name)
    if family is None:
        raise ValueError(f"{name!r} does not begin with one of {', '.join(FAMILIES)}")
    if len(name) > LONGEST_NAME:
        raise ValueError(f"{name[:60]}... has {len(name)} characters, but may have {LONGEST_NAME}")
    rest = name[len(family) :]
    if rest.startswith(ON):
        base, rest = _split_base(name, rest.removeprefix(ON), [base] if base else trainer_sources())
    if rest and not rest.startswith("_"):
        raise ValueError(f"{name}: an underscore must follow {base or family}")
    values: dict[str, Any] = {}
    for text in rest.split("_")[1:]:
        part, value = _read(name, text)
        if part.only and part.only != ("CPR" if FAMILIES[family].cpr else "weight decay"):
            raise ValueError(f"{name}: {text!r} is for trainers with {part.only}, which {family} is not")
        if part.setting in values:
            raise ValueError(f"{name}: {text!r} sets the {part.setting} a second time")
        values[part.setting] = value
    default = FAMILIES[family]
    if base:
        weight_decay = None if default.cpr is None else 0.0
        default = replace(default, base=base, lr=None, weight_decay=weight_decay, epochs=None, iterations=None)
    return _build(name, default, values)


def _split_base(name: str, text: str, known: Collection[str]) -> tuple[str, str]:
    """Split what follows `_on_` into the base's name, the longest that there is, and the rest."""
    words = text.split("_")
    for count in range(len(words), 0, -1):
        base = "_".join(words[:count])
        if base in known:
            return base, text[len(base) :]
    if family_of(text):
        raise ValueError(
            f"{name}: {family_of(text)} is one of nnunet-cpr's own; name a trainer of nnU-Net's or of yours"
        )
    raise ValueError(f"{name}: there is no trainer {text}, neither in nnU-Net nor in nnUNet_extTrainer")


def _read(name: str, text: str) -> tuple[Part, Any]:
    for part in PARTS:
        try:
            value = part.read(text)
        except ValueError as error:
            raise ValueError(f"{name}: the number in {text!r} {error}") from None
        if value is not None:
            return part, value
    raise ValueError(f"{name}: cannot read the part {text!r}; `nnunet-cpr trainers` lists what there is")


def _build(name: str, default: TrainerSettings, values: dict[str, Any]) -> TrainerSettings:
    cpr = default.cpr
    if cpr:
        # The paper's Table J.1 (warmup: 2,000 steps): warm starts of 2,000 beat the baselines, those of 1,000 do not.
        method, parameter = values.get(_BOUND, (cpr.kappa_init_method, values.get("warmup", cpr.kappa_init_param)))
        cpr = CPRSettings(
            kappa_init_method=method,
            kappa_init_param=parameter,
            reg_function=values.get(_REGULARIZER, cpr.reg_function),
            kappa_update=values.get("mu", cpr.kappa_update),
            step_form=values.get("step form", cpr.step_form),
            adaptive_bounds=values.get("adaptive bounds", cpr.adaptive_bounds),
        )
    return replace(
        default,
        name=name,
        cpr=cpr,
        lr=values.get("learning rate", default.lr),
        weight_decay=values.get("weight decay", default.weight_decay),
        warmup_steps=values.get("warmup", default.warmup_steps),
        epochs=values.get("epochs", default.epochs),
        iterations=values.get("iterations", default.iterations),
        seed=values.get("seed", default.seed),
        bf16=values.get("precision", default.bf16),
    )
