"""One training: its folder, devices, randomness, metrics, checkpoints, exact resume. Works under torchrun."""

import os
import pickle
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import Tensor, nn
from torch.optim import Optimizer
from tqdm import tqdm

from harness.parsing import CONFIG_FILE
from harness.records import FIGURE_FILE, METRICS_FILE, TRACE_FILE, Table, draw_curves, environment, write_start
from harness.settings import Settings
from harness.tracker import Tracker
from nnunet_cpr.files import remove_leftovers
from nnunet_cpr.optim.constraints import Constraint
from nnunet_cpr.training.checkpoints import damage, foreign_object, open_whole
from nnunet_cpr.training.loggers import constraint_values

CHECKPOINT_FILE = "checkpoint.pt"
FILES = (CONFIG_FILE, METRICS_FILE, CHECKPOINT_FILE, TRACE_FILE, FIGURE_FILE)
"""Of a run's folder."""
PRECISIONS = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}


class Run:
    """A training in a folder.

    Everything random in a step (dropout, augmentation) is seeded with (seed, process, step), so a resumed run needs no
    generator's state: on the same machine and number of processes it gives the same losses bit for bit, where the
    kernels themselves are deterministic (on a GPU some are not).

    Args:
        settings: the checked settings.
        metrics: the columns that `evaluate` fills.
        items: what a step consumes, for instance "tokens", and how many of them in all processes.
        data: what the record of the run says of the data; "pretrained" in it is the checksum of the model that the
            training begins with, which a resumed run must have, too.

    Raises:
        ValueError: the folder holds a run already (or, to resume, none that fits); the device does not exist, or
            cannot be used by several processes or with this precision; what --log-to needs is not installed.
    """

    def __init__(
        self, settings: Settings, metrics: tuple[str, ...], items: tuple[str, int], data: dict[str, Any]
    ) -> None:
        _check_device(settings.device)
        self.settings, self.script, self.folder = settings, settings.script, settings.folder
        # Without a GPU, accelerate joins the processes of torchrun only if it is told to use the CPU.
        on_cpu = settings.device == "cpu" or (settings.device == "auto" and not torch.accelerator.is_available())
        if on_cpu and settings.precision == "fp16":  # accelerate would train in fp32 and not say so
            raise ValueError("--precision fp16 needs a GPU; on a CPU there are bf16 and fp32")
        self._tracker = Tracker(settings)
        self.accelerator = Accelerator(
            cpu=on_cpu,
            mixed_precision=PRECISIONS[settings.precision],
            log_with=settings.log_to,
            project_dir=self.folder,
        )
        self.device, self.main = self.accelerator.device, self.accelerator.is_main_process
        started, joined = int(os.environ.get("WORLD_SIZE", "1")), self.accelerator.num_processes
        if started != joined:  # each would train alone, and all would write to the same folder
            raise ValueError(f"{started} processes were started, but on {self.device} they do not work together; "
                             "start one, or use --device cpu")  # fmt: skip
        if self.main and not settings.resume:
            _check_folder(self.folder)
        self.first_step = 0
        self._warned = False
        self._trace: Table | None = None
        self._columns = ["train_loss", "lr", *metrics, f"{items[0]}_per_second", "memory_mb"]
        self._items, self._data = items, data
        self._first_bad = torch.zeros((), dtype=torch.int64, device=self.device)
        set_seed(settings.seed)

    def prepare(
        self, model: nn.Module, optimizer: Optimizer, average: nn.Module | None = None
    ) -> tuple[nn.Module, Optimizer]:
        """Move to the device, wrap for several processes, load the checkpoint if the run is resumed, begin the files.

        `average` is a copy of the model with averaged weights, or None; its state is saved and loaded with the rest.
        """
        self._model, self._optimizer, self._average = model, optimizer, average
        wrapped: tuple[nn.Module, Optimizer] = self.accelerator.prepare(model, optimizer)
        if self.settings.resume:
            self._load(self.folder / CHECKPOINT_FILE)
        if self.main:
            # A training that begins again makes the row of step 0 again.
            self._metrics = Table(self.folder / METRICS_FILE, self._columns, self.first_step or -1)
            if hasattr(optimizer, "constraints"):
                columns = ("tensor", "reg", "kappa", "lagmul")
                self._trace = Table(self.folder / TRACE_FILE, columns, self.first_step, words=("tensor",))
                self._constraints: Callable[[], list[Constraint]] = optimizer.constraints
            seen = max(table.last_seen for table in self._tables())
            if self.first_step == 0 and seen > self.settings.checkpoint_every:
                raise ValueError(
                    f"{self.folder / CHECKPOINT_FILE} is missing, though the run came to step {seen}; put it back, or "
                    "start another run with another --out"
                )
            self.folder.mkdir(parents=True, exist_ok=True)
            remove_leftovers(self.folder, FILES)
            start = {"step": self.first_step, "processes": self.accelerator.num_processes, "device": str(self.device)}
            start |= {"data": self._data, **environment()}
            write_start(self.folder / CONFIG_FILE, self.script, self.settings.to_json(), start)
            for table in self._tables():
                table.begin()
        self._tracker.start(self.accelerator, self.first_step)
        return wrapped

    def share(self, batch: Any) -> Any:
        """Return this process's equal part of something with the whole batch in its first dimension."""
        count, rank = self.accelerator.num_processes, self.accelerator.process_index
        if len(batch) % count:
            raise ValueError(f"a batch of {len(batch)} cannot be shared equally among {count} processes")
        part = len(batch) // count
        return batch[rank * part : (rank + 1) * part]

    def synchronize(self, model: nn.Module, wanted: bool) -> AbstractContextManager[None]:
        """Whether the backward pass inside averages the gradients over processes: only a step's last one needs to."""
        return nullcontext() if wanted else self.accelerator.no_sync(model)

    def plain(self, model: nn.Module) -> nn.Module:
        """The model without the wrapper for several processes, to evaluate it in each process by itself."""
        plain: nn.Module = self.accelerator.unwrap_model(model, keep_fp32_wrapper=True)
        return plain

    def mean(self, value: Tensor) -> Tensor:
        """The mean of a value over all processes."""
        mean: Tensor = self.accelerator.reduce(value.detach(), "mean")
        return mean

    def evaluate_first(self, evaluate: Callable[[], dict[str, float]]) -> None:
        """Note, as of step 0, what a pretrained model can do before its first step here."""
        if self.first_step == 0:
            values = evaluate()
            if self.main:
                self._metrics.add([{"step": 0, **values}])
                self._tracker.log(values, 0)
                print("before training: " + ", ".join(f"{name} {value:.4g}" for name, value in values.items()))

    def steps(self) -> Iterator[int]:
        """The 0-based steps that are left, with a progress bar on a terminal."""
        total = self.settings.max_steps
        self._clock, self._clock_step = time.perf_counter(), self.first_step
        # disable=None: silent when not on a terminal
        with tqdm(total=total, initial=self.first_step, disable=None if self.main else True) as self._bar:
            for step in range(self.first_step, total):
                seeds = np.random.SeedSequence((self.settings.seed, self.accelerator.process_index, step))
                set_seed(int(seeds.generate_state(1)[0]))
                yield step
                self._bar.update()

    def end_step(self, step: int, loss: Tensor, lr: float, evaluate: Callable[[], dict[str, float]]) -> None:
        """Note the loss of a step's batch; evaluate, write and save where due. `step` is 0-based, the files' is not.

        Raises:
            ValueError: the loss or a weight is not finite any more; the last good checkpoint stays.
        """
        done, s = step + 1, self.settings
        self._first_bad = torch.where((self._first_bad == 0) & ~loss.detach().isfinite(), done, self._first_bad)

        def due(every: int) -> bool:
            return done % every == 0 or done == s.max_steps

        if due(s.log_every) or due(s.eval_every):
            row = {"step": done, "train_loss": float(self.mean(loss)), "lr": lr}
            self._check_losses()
            row |= self._cost(done)
            if due(s.eval_every):
                row |= evaluate()
            self._log(row, evaluated=due(s.eval_every))
        if self._trace and due(s.trace_every):
            constraints = self._constraints()
            self._trace.add(
                {"step": done, "tensor": c.name, "reg": c.reg, "kappa": c.kappa, "lagmul": c.lagmul}
                for c in constraints
            )
            self._tracker.log(constraint_values(constraints), done)
        if due(s.checkpoint_every):
            self._check_losses()
            self._save(done)
        if due(s.log_every) or due(s.eval_every) or due(s.checkpoint_every):
            self._clock, self._clock_step = time.perf_counter(), done

    def finish(self) -> None:
        """Draw the figure and say where the files are."""
        if self.main:
            self._draw()
            print(f"{self.settings.max_steps} steps done; metrics, figure and checkpoint are in {self.folder}")
        self.accelerator.end_training()

    def _tables(self) -> list[Table]:
        return [self._metrics, *([self._trace] if self._trace else [])]

    def _cost(self, done: int) -> dict[str, float]:
        seconds = time.perf_counter() - self._clock
        on_gpu = self.device.type == "cuda"
        memory = torch.cuda.max_memory_allocated(self.device) if on_gpu else psutil.Process().memory_info().rss
        rate = self._items[1] * (done - self._clock_step) / seconds
        return {f"{self._items[0]}_per_second": round(rate), "memory_mb": round(memory / 2**20)}

    def _log(self, row: dict[str, Any], evaluated: bool) -> None:
        if not self.main:
            return
        self._metrics.add([row])
        self._tracker.log({key: value for key, value in row.items() if key != "step"}, row["step"])
        shown = {k: f"{v:.4g}" if isinstance(v, float) else v for k, v in row.items() if k != "step"}
        self._bar.set_postfix(shown, refresh=False)
        if evaluated:
            values = ", ".join(f"{name} {value}" for name, value in shown.items())
            self._bar.write(f"step {row['step']}/{self.settings.max_steps}: {values}")

    def _check_losses(self) -> None:
        steps = [step for step in self.accelerator.gather(self._first_bad.reshape(1)).tolist() if step]
        if steps:
            self._stop(f"the loss was not finite in step {min(steps)}")

    def _stop(self, reason: str) -> None:
        path = self.folder / CHECKPOINT_FILE
        kept = f"the last good checkpoint is {path}" if path.is_file() else "no checkpoint was due before"
        raise ValueError(f"stopped: {reason}; {kept}. Try a lower learning rate, more warmup, or another precision")

    def _save(self, done: int) -> None:
        model = _state_without_frozen(self._model)
        if not all(bool(tensor.isfinite().all()) for tensor in model.values()):
            self._stop(f"a weight was not finite after step {done}")
        if not self.main:
            return
        scaler = self.accelerator.scaler
        state = {
            "script": self.script, "settings": self.settings.to_json(), "step": done,
            "model": model, "optimizer": self._optimizer.state_dict(),
            "scaler": scaler.state_dict() if scaler else None,
            "average": self._average.state_dict() if self._average else None,
            "pretrained": self._data.get("pretrained"),
        }  # fmt: skip
        with open_whole(self.folder / CHECKPOINT_FILE) as file:
            torch.save(state, file)
        self._draw()

    def _draw(self) -> None:
        """Draw the curves. A training goes on without its figure, which can be drawn again from metrics.csv."""
        try:
            draw_curves(self.folder, f"{self.script}, {self.settings.optimizer}, seed {self.settings.seed}")
        except Exception as error:  # matplotlib raises what its many parts raise
            if not self._warned:
                reason = " ".join(str(error).split()) or type(error).__name__
                print(f"{self.script}.py: warning: {FIGURE_FILE} cannot be drawn: {reason}", file=sys.stderr)
            self._warned = True

    def _load(self, path: Path) -> None:
        if not path.exists():  # stopped before the first checkpoint was due: start again
            return
        if reason := damage(path):
            raise ValueError(f"{path} cannot be read as a checkpoint of this program: it is damaged ({reason})")
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            script, settings, step = state["script"], dict(state["settings"]), int(state["step"])
        except pickle.UnpicklingError as error:
            raise ValueError(
                f"{path} is not loaded: it holds {foreign_object(error)}, which no checkpoint of this program does and "
                "which could run commands; see docs/how-to/load-models-from-others.md"
            ) from error
        except Exception as error:  # whatever torch makes of a file that is something else
            raise ValueError(f"{path} cannot be read as a checkpoint of this program: {error!r:.200}") from error
        if script != self.script:
            raise ValueError(f"{path} is a checkpoint of {script}, not of {self.script}")
        mine = self.settings.to_json()
        if differing := [name for name in mine if settings.get(name) != mine[name]]:
            name = differing[0]
            raise ValueError(
                f"{path} is of another run: its {name} is {settings.get(name)}, this run's is {mine[name]}"
            )
        if state.get("pretrained") not in (None, self._data.get("pretrained")):
            raise ValueError(f"{path} is of a run that began with another pretrained model; its weights have changed")
        try:
            self._model.load_state_dict({**_frozen_state(self._model), **state["model"]})
            self._optimizer.load_state_dict(state["optimizer"])
            if self._average:
                self._average.load_state_dict(state["average"])
            if self.accelerator.scaler:
                self.accelerator.scaler.load_state_dict(state["scaler"])
        except Exception as error:  # the parts of a state can be anything
            raise ValueError(f"{path} does not fit this model: {str(error)[:200]}") from error
        if not 0 < step <= self.settings.max_steps:
            raise ValueError(f"{path} is of step {step}, but the run has {self.settings.max_steps} steps")
        self.first_step = step


def _frozen_state(model: nn.Module) -> dict[str, Tensor]:
    """The weights that no training changes; they come from where the model came from."""
    frozen = {name for name, param in model.named_parameters(remove_duplicate=False) if not param.requires_grad}
    return {name: tensor for name, tensor in model.state_dict().items() if name in frozen}


def _state_without_frozen(model: nn.Module) -> dict[str, Tensor]:
    frozen = _frozen_state(model)
    return {name: tensor for name, tensor in model.state_dict().items() if name not in frozen}


def _check_folder(folder: Path) -> None:
    """Raise where files of a new run would be written over others."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is not a folder; name another --out")
    there = [name for name in FILES if os.path.lexists(folder / name)]
    if any(name in there for name in (CONFIG_FILE, METRICS_FILE, CHECKPOINT_FILE)):
        raise ValueError(f"{folder} holds a run already; continue it with --resume, or name another --out")
    if there:
        raise ValueError(f"{folder / there[0]} is not of this run and would be written over; name another --out")


def _check_device(device: str) -> None:
    available: dict[str, Callable[[], bool]] = {"cuda": torch.cuda.is_available, "mps": torch.backends.mps.is_available}
    if device in available and not available[device]():
        raise ValueError(f"--device {device}: this PyTorch sees no {device} device")
