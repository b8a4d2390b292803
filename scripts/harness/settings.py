"""The settings that the benchmark scripts have in common, and what must hold between them. Imports no torch."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from nnunet_cpr.optim.bounds import RULES
from nnunet_cpr.optim.regularizers import REGULARIZERS, STEP_FORMS

ADAM = ("betas", "eps")
SGD = ("momentum", "nesterov")
CPR = ("kappa_init_method", "kappa_init_param", "reg_function", "kappa_update", "reg_step_size", "reg_ema_decay",
       "step_form", "adaptive_bounds")  # fmt: skip
CPR_OF_SOME_RULES = ("reg_step_size", "reg_ema_decay")
"""The CPR settings that some bound rules use and others do not."""
OPTIMIZERS = {
    "adam": ADAM,
    "adamw": (*ADAM, "weight_decay"),
    "adamcpr": (*ADAM, *CPR),
    "adadecay": (*ADAM, "weight_decay"),
    "adamc": (*ADAM, "weight_decay"),
    "amos": (),
    "awd": (*ADAM, "weight_decay"),
    "cautious": (*ADAM, "weight_decay"),
    "initialnorm": (*ADAM, "initial_scale"),
    "scheduled": (*ADAM, "weight_decay"),
    "sgd": (*SGD, "weight_decay"),
    "sgdcpr": (*SGD, *CPR),
}
"""The settings that belong to some optimizers only, by optimizer."""
FREE_ON_RESUME = ("config", "resume", "out", "device", "log_to")


def described(meanings: dict[str, str]) -> str:
    """Choices and their meanings, for a help text. argparse would take a % for a format."""
    return "; ".join(f"{name}: {meaning}" for name, meaning in meanings.items()).replace("%", "%%")


def setting(default: Any, help: str, *, kind: type | None = None, choices: Any = (), least: float | None = None) -> Any:
    """A field of the settings: a flag and a key of the YAML file. `kind` is needed where the default is None.

    The value of a field of kind Path is a text, without `~`.
    """
    first = default[0] if isinstance(default, tuple) else default
    count = len(default) if isinstance(default, tuple) else None
    metadata = {"help": help, "kind": kind or type(first), "choices": tuple(choices), "least": least, "count": count}
    return field(default=default, metadata=metadata)


@dataclass
class Settings:
    """What all scripts have in common; a script's own class adds fields and replaces defaults."""

    script: ClassVar[str]
    """The name of the script, without `.py`."""
    defaults: ClassVar[dict[str, Any]] = {}
    """Defaults of this script where they differ from the fields' own."""

    optimizer: str = setting(
        "adamcpr",
        "the optimizer; adadecay, adamc, amos, awd, cautious, initialnorm and scheduled are what CPR competes with",
        choices=OPTIMIZERS,
    )
    lr: float = setting(1e-3, "peak learning rate", least=0)
    weight_decay: float = setting(0.1, "of adamw, sgd, adadecay, adamc, awd, cautious and scheduled", least=0)
    initial_scale: float = setting(1.0, "initialnorm: what the initial weights are multiplied by", least=0)
    betas: tuple[float, float] = setting((0.9, 0.999), "of the adams")
    eps: float = setting(1e-8, "of the adams", least=0)
    momentum: float = setting(0.9, "of the sgds", least=0)
    nesterov: bool = setting(False, "of the sgds")
    kappa_init_method: str = setting(
        "inflection_point",
        "CPR: how the bound kappa is set; "
        + described({rule.name: f"{rule.title}, {rule.meaning.format('KAPPA_INIT_PARAM')}" for rule in RULES.values()}),
        choices=RULES,
    )
    kappa_init_param: float | None = setting(
        None,
        "CPR: "
        + described({rule.name: rule.parameter for rule in RULES.values() if rule.parameter})
        + "; a number of steps is 2 x warmup by default",
        kind=float,
        least=0,
    )
    reg_function: str = setting(
        "l2",
        "CPR: the regularizer R; " + described({name: r.meaning for name, r in REGULARIZERS.items()}),
        choices=REGULARIZERS,
    )
    kappa_update: float = setting(1.0, "CPR: mu", least=0)
    reg_step_size: int | None = setting(
        None, "CPR: steps between samples for the inflection point (default: a tenth of the warmup)", kind=int, least=1
    )
    reg_ema_decay: float = setting(0.99, "CPR: smoothing for the inflection point", least=0)
    step_form: str = setting(
        "explicit", "CPR: form of the constraint step; " + described(STEP_FORMS), choices=STEP_FORMS
    )
    adaptive_bounds: bool = setting(False, "CPR: AdaCPR")
    reg_embedding: bool = setting(False, "regularize or decay embeddings, too")

    max_steps: int = setting(1000, "optimizer steps", least=1)
    warmup_steps: int | None = setting(
        None, "steps of linear learning rate warmup; if no default is named, a tenth of max_steps", kind=int, least=0
    )
    seed: int = setting(1234, "of weights, data order and dropout", least=0)
    device: str = setting("auto", "where to train", choices=("auto", "cpu", "cuda", "mps"))
    precision: str = setting("fp32", "of the forward pass (autocast)", choices=("fp32", "bf16", "fp16"))
    log_every: int = setting(10, "steps between rows of metrics.csv", least=1)
    eval_every: int = setting(100, "steps between evaluations", least=1)
    trace_every: int = setting(100, "steps between entries of cpr_trace.csv", least=1)
    checkpoint_every: int = setting(100, "steps between checkpoints", least=1)
    log_to: str | None = setting(
        None,
        "also show metrics and CPR's values in TensorBoard (events in --out) or Weights & Biases (its own variables, "
        "such as WANDB_MODE, hold)",
        kind=str,
        choices=("tensorboard", "wandb"),
    )
    out: str | None = setting(None, "folder of the run (default: runs/SCRIPT/OPTIMIZER-seedSEED)", kind=Path)
    resume: bool = setting(False, "continue the run in --out")
    config: str | None = setting(None, "YAML file with any of these settings; flags override it", kind=Path)

    def check(self) -> None:
        """Fill in defaults that depend on other settings. Raises ValueError for settings that do not fit together."""
        if self.warmup_steps is None:
            self.warmup_steps = self.max_steps // 10
        if self.warmup_steps >= self.max_steps:
            raise ValueError(f"warmup_steps is {self.warmup_steps}, but the training has only {self.max_steps} steps")
        for name in applicable_only(OPTIMIZERS[self.optimizer]):
            setattr(self, name, None)
        # The optimizers without CPR have no rule left; the settings of one are None for them.
        rule = RULES.get(self.kappa_init_method)
        for key in CPR_OF_SOME_RULES:
            if rule is None or key not in rule.settings:
                setattr(self, key, None)
        if rule is None or not rule.parameter:
            self.kappa_init_param = None
        elif rule.counts_steps:
            name = rule.name.replace("_", " ")
            if self.kappa_init_param is None:
                self.kappa_init_param = 2 * self.warmup_steps
            if not float(self.kappa_init_param).is_integer():
                raise ValueError(f"kappa_init_param is {self.kappa_init_param}, but a {name} has whole steps")
            self.kappa_init_param = int(self.kappa_init_param)
            if self.kappa_init_param >= self.max_steps:
                raise ValueError(
                    f"the {name} of {self.kappa_init_param} steps (kappa_init_param) is not over within "
                    f"max_steps = {self.max_steps}, so no bound would ever be set"
                )
        if rule is not None and "reg_step_size" in rule.settings:
            self.reg_step_size = self.reg_step_size or max(1, self.warmup_steps // 10)
            if 2 * self.reg_step_size >= self.max_steps:
                raise ValueError(
                    f"an inflection point takes three samples, reg_step_size = {self.reg_step_size} steps apart, "
                    f"but the training has only {self.max_steps} steps"
                )

    @property
    def folder(self) -> Path:
        """The folder of the run."""
        return Path(self.out or f"runs/{self.script}/{self.optimizer}-seed{self.seed}")

    @property
    def warmup(self) -> int:
        """The steps of warmup, which `check` has filled in."""
        assert self.warmup_steps is not None
        return self.warmup_steps

    def optimizer_options(self) -> dict[str, Any]:
        """The settings of the optimizer's own that are set."""
        options = {name: getattr(self, name) for name in OPTIMIZERS[self.optimizer]}
        return {name: value for name, value in options.items() if value is not None}

    def to_json(self) -> dict[str, Any]:
        """The settings that make a run what it is, as JSON has them."""
        stored: dict[str, Any] = {k: v for k, v in asdict(self).items() if k not in FREE_ON_RESUME}
        as_json: dict[str, Any] = json.loads(json.dumps(stored))
        return as_json


def applicable_only(names: tuple[str, ...]) -> list[str]:
    """The settings of other optimizers than the one with these settings."""
    every = dict.fromkeys(name for own in OPTIMIZERS.values() for name in own)
    return [name for name in every if name not in names]
