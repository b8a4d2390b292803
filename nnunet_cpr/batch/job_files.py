"""Where a study keeps what belongs to one result in nnU-Net's folders: its lock, its record and its log."""

from pathlib import Path


class JobFiles:
    """The names and files of a job that fills one folder of nnU-Net's results."""

    folder: Path

    @property
    def key(self) -> str:
        """Its name in the study: dataset, nnU-Net's model folder, and the folder in that."""
        return "/".join(self.folder.parts[-3:])

    @property
    def lock(self) -> Path:
        """Held by the process that fills it; beside nnU-Net's folder, as nnU-Net and users may remove that."""
        return self.folder.with_name(f".{self.folder.name}.lock")

    def record(self, study_output: Path) -> Path:
        """Where the last attempt is recorded."""
        return study_output / "records" / f"{self.key}.json"

    def log(self, study_output: Path) -> Path:
        """Where the output of nnU-Net's commands goes."""
        return study_output / "logs" / f"{self.key}.log"
