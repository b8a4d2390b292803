"""An nnU-Net trainer that may be stopped or killed at any moment and then goes on as if nothing had happened."""

import multiprocessing
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_cpr.files import remove_leftovers
from nnunet_cpr.training import checkpoints
from nnunet_cpr.training.checkpoints import BEST, FINAL, LATEST, PREVIOUS, RESUME_ORDER
from nnunet_cpr.training.stopping import RESUME_ME, Stopped, StopSignals
from nnunet_cpr.training.threads import limit_threads
from nnunet_cpr.training.trace import FIGURE_FILE, TRACE_FILE

FINISH = "finish"
"""A file of this name in the fold's folder ends the training after the epoch in progress, as if it were the last."""


class _Finish(Exception):
    """Leaves nnU-Net's loop over epochs."""


class InterruptibleTrainer(nnUNetTrainer):
    """nnU-Net's trainer with whole checkpoints, a recent one at any time, and an orderly end on a stop signal.

    Only the end of an epoch is a state to resume from: nnU-Net's schedule, logs and our seeds count in epochs. A stop
    signal therefore saves nothing; `checkpoint_latest.pth` is recent already, and the epoch in progress is repeated.
    """

    save_every: int

    def __init__(
        self,
        plans: dict[str, Any],
        configuration: str,
        fold: int,
        dataset_json: dict[str, Any],
        device: torch.device = torch.device("cuda"),  # noqa: B008 (nnU-Net's signature)
    ):
        """Take nnU-Net's arguments."""
        super().__init__(plans, configuration, fold, dataset_json, device=device)  # older trainers take more before it
        if self.device.type == "cpu":
            limit_threads()
        self._signals = StopSignals()
        self._pace = checkpoints.Pace()

    # saving

    def save_checkpoint(self, filename: str) -> None:
        """Save whole or not at all. A training goes on without its latest or best checkpoint, not without its last."""
        if self.local_rank != 0 or self.disable_checkpointing:
            super().save_checkpoint(filename)
            return
        path = Path(filename)
        try:
            with checkpoints.open_whole(path) as file:
                super().save_checkpoint(file)  # torch.save takes both
        except OSError as error:
            if path.name not in (LATEST, BEST):
                raise
            self.print_to_log_file(f"WARNING: {path.name} could not be written, the one before stays: {error}")

    def on_epoch_end(self) -> None:
        """Save `checkpoint_latest.pth` after every epoch, unless saving is slow; see `checkpoints.Pace`."""
        if self.current_epoch == 0 and self.local_rank == 0 and not self.disable_checkpointing:
            self._set_aside_earlier_training()
        save_every = self.save_every
        self.save_every = self.num_epochs + 1  # nnU-Net's would miss this epoch's best
        super().on_epoch_end()
        self.save_every = save_every
        if self.current_epoch < self.num_epochs and (self.current_epoch % save_every == 0 or self._pace.due()):
            self.current_epoch -= 1  # save_checkpoint adds one
            with self._pace.saving():
                self.save_checkpoint(os.path.join(self.output_folder, LATEST))
            self.current_epoch += 1
            if self.local_rank == 0 and not self.disable_checkpointing and Path(self.output_folder, LATEST).exists():
                self._set_aside_earlier_training((FINAL,))  # of a training that was finished early and now goes on

    def _set_aside_earlier_training(self, names: Sequence[str] = RESUME_ORDER) -> None:
        """Without --c a new training began, which must not be resumed from an earlier one's checkpoints."""
        for path in (Path(self.output_folder, name) for name in names):
            if path.exists():
                kept = checkpoints.set_aside(path, "old")
                self.print_to_log_file(f"{path.name} is of an earlier training and was renamed to {kept.name}.")

    # resuming

    def load_checkpoint(self, filename_or_checkpoint: dict[str, Any] | str) -> None:
        """Load a checkpoint. To resume (--c), that is the newest intact one, whichever is named; else the named one.

        Raises ValueError if the file is broken. Resuming with nothing but broken files begins a new training.
        """
        if isinstance(filename_or_checkpoint, dict):
            super().load_checkpoint(filename_or_checkpoint)
            return
        if getattr(self.logger, "resume", False) and not self.was_initialized:
            newest = self._newest_intact()
            if newest is None:
                self.initialize()
            else:
                self._load_file(newest)
            return
        path = Path(filename_or_checkpoint)
        if reason := checkpoints.damage(path):
            raise ValueError(
                f"{path} is broken ({reason}). nnUNetv2_train with --c goes on from the newest checkpoint that is not."
            )
        self._load_file(path)

    def _load_file(self, path: Path) -> None:
        # nnU-Net's warm-up trainers leave weights_only at torch's default, which refuses the numbers of nnU-Net's logs.
        with torch.serialization.safe_globals(checkpoints.IN_LOGS):
            super().load_checkpoint(str(path))

    def _newest_intact(self) -> Path | None:
        """Choose on one rank, for all."""
        chosen: list[Path | None] = [None]
        if self.is_ddp:
            dist.barrier()  # until all have found a file: below, broken ones are renamed
        if self.local_rank == 0:
            chosen[0], warnings = checkpoints.newest_intact(Path(self.output_folder))
            if chosen[0] is None:
                warnings.append(
                    "NO CHECKPOINT IS INTACT, SO THE TRAINING BEGINS ANEW WITH EPOCH 0. The broken files stay; to go "
                    "on from one of them, stop this training, repair the file and give it its old name again."
                )
            for warning in warnings:
                self.print_to_log_file(f"WARNING: {warning}")
        if self.is_ddp:
            dist.broadcast_object_list(chosen)
        return chosen[0]

    # stopping

    def run_training(self) -> None:
        """Train. A stop signal ends it after the step in progress with `Stopped`, which is exit code 75.

        With checkpoints disabled nothing could be resumed, so signals then act as always.
        """
        if self.local_rank == 0:
            remove_leftovers(Path(self.output_folder), {*RESUME_ORDER, TRACE_FILE, FIGURE_FILE})
        if self.disable_checkpointing:
            try:
                self._train()
            finally:
                self._finish_workers()
            return
        with self._signals:
            try:
                self._train()
                self._stop_if_asked()
            except Exception as error:
                if self._signals.received is None:
                    raise
                self.print_to_log_file(f"{type(error).__name__} while stopping: {error}")
                self._say_stopped()
                raise Stopped from None
            finally:
                self._finish_workers()

    def _train(self) -> None:
        try:
            super().run_training()
        except _Finish:
            self.on_train_end()  # saves the final checkpoint; nnU-Net then validates

    def on_train_end(self) -> None:
        """Remove what the final checkpoint replaces, and a request to finish that came in the last epoch."""
        super().on_train_end()
        if self.local_rank == 0:
            Path(self.output_folder, FINISH).unlink(missing_ok=True)
            if not self.disable_checkpointing:
                Path(self.output_folder, PREVIOUS).unlink(missing_ok=True)

    def on_epoch_start(self) -> None:
        """Stop here if asked to, or finish."""
        self._stop_if_asked()
        self._finish_if_asked()
        super().on_epoch_start()

    def _finish_if_asked(self) -> None:
        """End the training here on all ranks if there is the file; never before the first epoch."""
        if not self.current_epoch:
            return
        request = Path(self.output_folder, FINISH)
        if not self._on_any_rank(self.local_rank == 0 and request.exists()):
            return
        if self.local_rank == 0:
            request.unlink(missing_ok=True)
            self.print_to_log_file(
                f"Asked to finish by the file {FINISH}: the training ends after epoch {self.current_epoch - 1} of "
                f"{self.num_epochs} epochs. Validation follows; --c goes on with the other epochs."
            )
        raise _Finish

    def train_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        """nnU-Net's step, after which the training may stop."""
        result: dict[str, Any] = super().train_step(batch)
        self._stop_if_asked()
        return result

    def validation_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        """nnU-Net's step, after which the training may stop."""
        result: dict[str, Any] = super().validation_step(batch)
        self._stop_if_asked()
        return result

    def _stop_if_asked(self) -> None:
        """Raise Stopped on all ranks at the same step if any of them was asked to stop."""
        if not self._asked_to_stop():
            return
        self._say_stopped()
        self._leave_together(Stopped())

    def _leave_together(self, exit: SystemExit) -> NoReturn:
        """Raise `exit` once all ranks have come here and cleaned up."""
        self._finish_workers()
        if self.is_ddp:
            dist.barrier()  # the first one to exit has the others killed
            dist.destroy_process_group()
        raise exit

    def _asked_to_stop(self) -> bool:
        return self._on_any_rank(self._signals.received is not None)

    def _on_any_rank(self, asked: bool) -> bool:
        if self.is_ddp:
            any_rank = torch.tensor(float(asked), device=self.device)
            dist.all_reduce(any_rank, dist.ReduceOp.MAX)
            asked = bool(any_rank.item())
        return asked

    def _say_stopped(self) -> None:
        by = self._signals.received or "a signal to another process"
        what = "--c goes on" if self.current_epoch else "nothing is saved yet"
        self.print_to_log_file(f"Stopped by {by} in epoch {self.current_epoch}; {what} (exit code {RESUME_ME}).")

    def _finish_workers(self) -> None:
        """End the augmentation workers, which outlive a training that just raises."""
        for loader in (self.dataloader_train, self.dataloader_val):
            if hasattr(loader, "_finish"):
                loader._finish()

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        """nnU-Net's validation. A stop signal ends it at once with exit code 75; --c then repeats it."""
        with StopSignals(at_once=self._leave_validation):
            super().perform_actual_validation(save_probabilities)

    def _leave_validation(self, name: str) -> None:
        self.print_to_log_file(f"Stopped by {name} in the validation; --c repeats it (exit code {RESUME_ME}).")
        for child in multiprocessing.active_children():
            child.kill()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(RESUME_ME)  # leaving multiprocessing's pool properly can hang when the signal ended its workers too
