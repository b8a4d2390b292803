"""The demo's folder: nnU-Net's three folders, logs, and a record of each stage so that none is done twice."""

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nnunet_cpr.demo.settings import Settings
from nnunet_cpr.files import read_json, write_json
from nnunet_cpr.images import check_itk_path
from nnunet_cpr.parallel import job_cores


class Workspace:
    """Paths below the demo's output folder, and what has been done there."""

    def __init__(self, out: Path, dataset: str) -> None:
        """Take the output folder and nnU-Net's name of the dataset; nothing is written yet."""
        self.out, self.dataset = out.resolve(), dataset
        self.raw = self.out / "nnUNet_raw" / dataset
        self.preprocessed = self.out / "nnUNet_preprocessed" / dataset
        self.results = self.out / "nnUNet_results" / dataset
        self.msd = self.out / "msd"
        self.logs = self.out / "logs"
        self.records = self.out / "stages" / dataset

    def report(self, settings: Settings) -> Path:
        """Return the folder of the report on trainings with these settings."""
        name = f"{self.dataset}-{settings.steps}steps-seed{settings.seed}-fold{settings.fold}"
        return self.out / "report" / (name + "-bf16" * settings.bf16)

    def check(self, settings: Settings) -> None:
        """Check that the demo's folders can be made and written, before anything is.

        Raises:
            ValueError: something else has the place of a folder; or nnU-Net could not read its files there.
            PermissionError: a folder cannot be written.
        """
        check_itk_path(self.out)
        for folder in (*self._folders(), self.raw, self.preprocessed, self.results, self.msd, self.report(settings)):
            for part in (folder, *folder.parents):
                if part.is_dir():
                    if not os.access(part, os.W_OK):
                        raise PermissionError(f"{part} is not writable; choose another --out")
                    break
                if os.path.lexists(part):
                    raise ValueError(
                        f"{part} is a file, or a link to nothing, where the demo needs a folder; "
                        "move it away, or choose another --out"
                    )

    def create(self) -> None:
        """Make the folders that nnU-Net and the stages expect."""
        for folder in self._folders():
            folder.mkdir(parents=True, exist_ok=True)

    def _folders(self) -> tuple[Path, ...]:
        return self.raw.parent, self.preprocessed.parent, self.results.parent, self.logs, self.records

    def variables(self) -> dict[str, str]:
        """The environment variables for this folder and machine: nnU-Net's own, and one of OpenMP."""
        cpus = job_cores()
        return {
            "nnUNet_raw": str(self.raw.parent),
            "nnUNet_preprocessed": str(self.preprocessed.parent),
            "nnUNet_results": str(self.results.parent),
            "nnUNet_def_n_proc": str(min(8, cpus)),
            "nnUNet_n_proc_DA": str(min(12, max(1, cpus // 2))),
            "nnUNet_compile": "f",  # compiling takes longer than it saves in so short a training
            "OMP_WAIT_POLICY": "PASSIVE",  # threads that spin while they wait slow down a busy machine
        }

    @contextmanager
    def environment(self) -> Iterator[None]:
        """Set the variables for what this process does in the block."""
        before = dict(os.environ)
        os.environ.update(self.variables())
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)

    def record(self, stage: str) -> dict[str, Any] | None:
        """What is known of a stage: its settings, commands, seconds so far and if it finished; None if never begun.

        Raises ValueError if the record is damaged.
        """
        path = self._record_path(stage)
        if not path.is_file():
            return None
        record = read_json(path)
        kinds: dict[str, Any] = {"settings": dict, "seconds": (int, float), "finished": bool, "commands": list}
        if not (isinstance(record, dict) and all(isinstance(record.get(key), kind) for key, kind in kinds.items())):
            raise ValueError(f"{path} is damaged; choose another --out, or delete {self.out}")
        return record

    def is_finished(self, stage: str, settings: dict[str, Any]) -> bool:
        """Tell whether the stage was finished with these settings.

        Raises ValueError if it was done or begun with others: mixing the two would give wrong results.
        """
        record = self.record(stage)
        if record is None:
            return False
        changed = sorted(key for key in settings if record["settings"].get(key) != settings[key])
        if changed:
            raise ValueError(
                f"{self.out} holds results of {self.dataset} with another {' and '.join(changed)} (stage {stage}); "
                "choose another --out, or delete that folder"
            )
        return bool(record["finished"])

    @contextmanager
    def stage(self, stage: str, settings: dict[str, Any], commands: list[str]) -> Iterator[None]:
        """Record that a stage begins, and after the block whether it finished. Time before an interruption counts."""
        before = (self.record(stage) or {"seconds": 0.0})["seconds"]
        content = {"settings": settings, "commands": commands, "finished": False, "seconds": before}
        write_json(self._record_path(stage), content)
        start = time.monotonic()
        try:
            yield
            content["finished"] = True
        finally:
            content["seconds"] = round(before + time.monotonic() - start, 1)
            write_json(self._record_path(stage), content)

    def clear(self, stage: str, folder: Path) -> None:
        """Remove what an interrupted stage left in `folder`; refuse if the folder is not the demo's."""
        if folder.exists():
            if self.record(stage) is None:
                raise ValueError(f"{folder} exists, but not from this demo; choose another --out")
            shutil.rmtree(folder)

    def _record_path(self, stage: str) -> Path:
        return self.records / f"{stage}.json"
