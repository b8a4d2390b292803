"""The nnU-Net trainer behind every name: nnU-Net's own, with the optimizer, schedule and length the name asks for."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from batchgenerators.dataloading.single_threaded_augmenter import SingleThreadedAugmenter
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
from nnunetv2.utilities.default_n_proc_DA import get_allowed_n_proc_DA
from torch.optim import SGD, AdamW, Optimizer

from nnunet_cpr.nnunet.paths import writable_results
from nnunet_cpr.optim import SGDCPR, AdamCPR, Constraint
from nnunet_cpr.schedules import warmup_poly_lr
from nnunet_cpr.training.batches import RepeatableBatches, augmentation_in_this_process
from nnunet_cpr.training.checkpoints import LATEST, set_aside
from nnunet_cpr.training.interruptible import InterruptibleTrainer
from nnunet_cpr.training.loggers import log_constraints, set_up_loggers
from nnunet_cpr.training.seeding import seed_everything, without_benchmarks
from nnunet_cpr.training.settings import TrainerSettings
from nnunet_cpr.training.trace import TRACE_FILE, Trace


class WarmupPoly:
    """Writes the learning rate of every step. nnU-Net calls `step` once an epoch, as it does with its own schedule."""

    def __init__(self, optimizer: Optimizer, peak_lr: float, warmup_steps: int, epochs: int, iterations: int) -> None:
        """Plan so many epochs of so many iterations."""
        self.optimizer, self.peak_lr, self.warmup_steps = optimizer, peak_lr, warmup_steps
        self.iterations, self.total_steps = iterations, epochs * iterations
        self.next_step = 0

    def step(self, epoch: int) -> None:
        """Go to the start of an epoch."""
        self.next_step = epoch * self.iterations
        self._write()

    def before_step(self) -> None:
        """Set the rate of the step that comes now."""
        self._write()
        self.next_step += 1

    def _write(self) -> None:
        lr = warmup_poly_lr(self.next_step, self.peak_lr, self.warmup_steps, self.total_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = lr


def make_optimizer(settings: TrainerSettings, params: Any, lr: float, **arguments: Any) -> Optimizer:
    """Make the optimizer that a trainer's name asks for; `arguments` take the place of the family's own."""
    arguments = settings.optimizer_arguments() | arguments
    classes: dict[str, Callable[..., Optimizer]]
    classes = {"SGD": SGDCPR, "Adam": AdamCPR} if settings.cpr else {"SGD": SGD, "AdamW": AdamW}
    if settings.optimizer == "AdamW":
        arguments["fused"] = True  # as AdamCPR is by default; SGD stays nnU-Net's own, bit for bit
    return classes[settings.optimizer](params, lr=lr, **arguments)


class NamedTrainer(InterruptibleTrainer):
    """What all our trainers share; `factory.trainer_class` makes one class of it per name."""

    settings: TrainerSettings

    def __init__(
        self,
        plans: dict[str, Any],
        configuration: str,
        fold: int,
        dataset_json: dict[str, Any],
        device: torch.device = torch.device("cuda"),  # noqa: B008 (nnU-Net's signature)
    ):
        """Take nnU-Net's arguments, and the hyper-parameters from the class's name."""
        if device.type == "cuda" and not torch.cuda.is_available():
            raise ValueError("CUDA was asked for (it is nnU-Net's default), but torch finds none here; use -device cpu")
        writable_results()
        super().__init__(plans, configuration, fold, dataset_json, device=device)
        settings = self.settings
        if settings.lr is not None:
            self.initial_lr = settings.lr
        if settings.weight_decay is not None and not (settings.base and settings.cpr):
            self.weight_decay = settings.weight_decay
        if settings.epochs is not None:
            self.num_epochs = settings.epochs
        if settings.iterations is not None:
            self.num_iterations_per_epoch = settings.iterations
            self.num_val_iterations_per_epoch = max(1, settings.iterations // 5)  # nnU-Net: 50 for 250
        if settings.bf16:
            self.grad_scaler = None  # bfloat16 has float32's range, so nothing underflows
        self._trace: Trace | None = None
        self._warned = False

    def _seed(self, epoch: int) -> None:
        """Seed for an epoch (-1: the network's initialization); ranks differ, as they must draw different patches."""
        if self.settings.seed is not None:
            seed_everything(self.settings.seed, self.local_rank, epoch + 1)

    def initialize(self) -> None:
        """Build the network from the seed, if there is one."""
        self._seed(-1)
        super().initialize()

    def get_training_transforms(self, *args: Any, **kwargs: Any) -> Any:
        """nnU-Net's augmentation, with a seed made repeatable."""
        transforms = super().get_training_transforms(*args, **kwargs)
        return transforms if self.settings.seed is None else without_benchmarks(transforms)

    def get_dataloaders(self) -> tuple[Any, Any]:
        """nnU-Net's batches; with a seed they are drawn from it, whatever the number of augmentation workers."""
        seed = self.settings.seed
        if seed is not None:
            with augmentation_in_this_process():
                sources = super().get_dataloaders()
            if all(type(source) is SingleThreadedAugmenter for source in sources):
                return self._repeatable(seed, *sources)
            if any(source is not None for source in sources):
                self.print_to_log_file("WARNING: this trainer makes batches in its own way; they do not repeat.")
        loaders: tuple[Any, Any] = super().get_dataloaders()
        return loaders

    def _repeatable(self, seed: int, train: Any, val: Any) -> tuple[Any, Any]:
        workers, pin = get_allowed_n_proc_DA(), self.device.type == "cuda"
        first = self.current_epoch * self.num_iterations_per_epoch
        first_val = self.current_epoch * self.num_val_iterations_per_epoch
        return (
            RepeatableBatches(train, (seed, self.local_rank, 0), first, workers, pin),
            RepeatableBatches(val, (seed, self.local_rank, 1), first_val, math.ceil(workers / 2), pin),
        )

    def configure_optimizers(self) -> tuple[Optimizer, Any]:
        """Make the optimizer and the learning rate schedule that the name asks for."""
        self.settings.check_length(self.num_epochs * self.num_iterations_per_epoch)
        params = self.network if self.settings.cpr else self.network.parameters()
        optimizer = make_optimizer(self.settings, params, self.initial_lr)
        return optimizer, self._warmup(optimizer) or PolyLRScheduler(optimizer, self.initial_lr, self.num_epochs)

    def _warmup(self, optimizer: Optimizer) -> WarmupPoly | None:
        steps = self.settings.warmup_steps
        if not steps:
            return None
        return WarmupPoly(optimizer, self.initial_lr, steps, self.num_epochs, self.num_iterations_per_epoch)

    def on_train_start(self) -> None:
        """Seed what nnU-Net starts here, the augmentation workers among it, and take up the trace."""
        set_up_loggers(self)
        if not self.was_initialized:
            self.initialize()
        self._seed(self.current_epoch)
        super().on_train_start()
        if self.settings.cpr and self.local_rank == 0:
            self._trace = self._take_up_trace()

    def _take_up_trace(self) -> Trace:
        try:
            return Trace(self.output_folder, self.current_epoch)
        except ValueError as error:
            kept = set_aside(Path(self.output_folder, TRACE_FILE), "broken")
            self.print_to_log_file(f"WARNING: {error}. It was renamed to {kept.name}; the trace begins anew.")
            return Trace(self.output_folder, self.current_epoch)

    def on_epoch_start(self) -> None:
        """Seed from the epoch, so that a resumed training goes on as if it had not been interrupted."""
        self._seed(self.current_epoch)
        super().on_epoch_start()

    def train_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        """nnU-Net's step, at the learning rate of this step."""
        if isinstance(self.lr_scheduler, WarmupPoly):
            self.lr_scheduler.before_step()
        return super().train_step(batch)

    def on_epoch_end(self) -> None:
        """Record the constraints first: an epoch that has a checkpoint then always has its rows in the trace."""
        if self.settings.cpr:
            constraints = self.optimizer.constraints()
            if self._trace is not None:
                self._record(self._trace, constraints)
            self._stop_if_diverged(constraints)
        super().on_epoch_end()

    def _record(self, trace: Trace, constraints: list[Constraint]) -> None:
        if constraints:
            largest = max(constraints, key=lambda c: c.lagmul)
            self.print_to_log_file(
                f"CPR: {sum(c.bounded for c in constraints)} of {len(constraints)} regularized tensors bounded, "
                f"{sum(c.active for c in constraints)} active, largest lambda {largest.lagmul:.3g}"
                + (f" ({largest.name})" if largest.active else "")
            )
        else:
            self.print_to_log_file("CPR: all regularized tensors are frozen, nothing is bounded")
        flipping = [c for c in constraints if c.flips]
        if flipping and not self._warned:
            self._warned = True
            self.print_to_log_file(
                f"WARNING: lambda of {flipping[0].name} is {flipping[0].lagmul:.3g}, so large that CPR's explicit step "
                "now turns weights past zero, which flips their sign every step and can ruin the training. The bound "
                "was set too tight, mostly because the weights had grown a lot before. Set it earlier (a shorter warm "
                "start, ws<steps>) or add _proximal to the trainer's name: that form of the step cannot flip signs. "
                f"Tensors concerned: {len(flipping)}. This warning is given once; {TRACE_FILE} has every epoch."
            )
        log_constraints(self, constraints)
        trace.add(self.current_epoch, (self.current_epoch + 1) * self.num_iterations_per_epoch, constraints)
        try:
            trace.save()
        except Exception as error:  # a full disk, a figure of odd numbers: the next epoch writes all rows again
            self.print_to_log_file(f"WARNING: the CPR trace could not be written: {error}")

    def _stop_if_diverged(self, constraints: list[Constraint]) -> None:
        """Exit before the last good checkpoint is replaced: weights that are not finite stay so, and predict nothing.

        All ranks have the same weights, so all of them exit.
        """
        lost = [c.name for c in constraints if not math.isfinite(c.reg)]
        if not lost:
            return
        kept = Path(self.output_folder, LATEST)
        message = (
            f"STOPPED: the weights are not finite any more ({len(lost)} of {len(constraints)} tensors, {lost[0]} among "
            f"them). {f'{kept.name} is from before' if kept.exists() else 'No checkpoint was due before'}. "
            f"If the bounds had just been set (kappa in {TRACE_FILE}), CPR's explicit step has most likely "
            "diverged: add _proximal to the trainer's name. Otherwise try a lower learning rate (lr<value>) or a "
            "warmup (warmup<steps>)."
        )
        self.print_to_log_file(message)
        self._leave_together(SystemExit(1))
