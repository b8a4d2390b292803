"""The demo's data, embedded or the user's own, on its way into nnU-Net's raw format."""

import hashlib
from pathlib import Path
from typing import Protocol

from tqdm import tqdm

from nnunet_cpr.datasets import mni152
from nnunet_cpr.datasets.msd import check_cases, link_for_conversion, read_msd
from nnunet_cpr.demo.subprocesses import Meter, run_command
from nnunet_cpr.demo.workspace import Workspace


class DemoData(Protocol):
    """What the demo needs to know and do with its data."""

    name: str  # nnU-Net's name of the dataset
    number: int  # nnU-Net's id of the dataset
    title: str
    split: str  # how cases are divided into training and validation, for the report
    caution: str  # what the result is not, for the report

    def fingerprint(self) -> str:
        """Return a text that changes when the data does."""

    def check(self) -> None:
        """Raise ValueError if the data cannot be used. Writes nothing."""

    def commands(self, workspace: Workspace) -> list[list[str]]:
        """Return nnU-Net's commands that `convert` runs."""

    def convert(self, workspace: Workspace) -> None:
        """Write the data into the workspace in nnU-Net's raw format."""


def open_data(folder: Path | None) -> DemoData:
    """Return the user's folder in MSD layout, its file names checked, or the embedded data if there is none."""
    return EmbeddedData() if folder is None else UsersData(folder)


class EmbeddedData:
    """Blocks of the MNI152 template."""

    name = mni152.DATASET_NAME
    number = mni152.DATASET_ID
    title = "MNI152 T1 template from nilearn, blocks of one average brain, labels gray and white matter"
    split = (
        "The brain is cut from back to front into five slabs, 4 mm apart. A fold validates on the blocks of one slab "
        "and trains on those of the other four, so no voxel is in both. Only the left hemisphere is used, because the "
        "template's right one is its mirror image."
    )
    caution = (
        "The data is one average brain cut into blocks: good for seeing the pipeline work, not for claims. The blocks "
        "are not independent subjects, and each method was trained once and briefly."
    )

    def fingerprint(self) -> str:
        """A hash of the code that makes the blocks."""
        return hashlib.sha256(Path(mni152.__file__).read_bytes()).hexdigest()

    def check(self) -> None:
        """Only nilearn might be missing."""
        mni152.check_available()

    def commands(self, workspace: Workspace) -> list[list[str]]:
        """None: nnU-Net's raw format is written directly."""
        return []

    def convert(self, workspace: Workspace) -> None:
        """Write the blocks."""
        mni152.write_dataset(workspace.raw)


class UsersData:
    """A folder in MSD layout."""

    split = "nnU-Net's own five-fold cross-validation split."
    caution = (
        "One fold, one short training per method: good for seeing the pipeline work on your data, not for claims. "
        "A claim needs all folds, several seeds and trainings of full length."
    )

    def __init__(self, folder: Path) -> None:
        """Read the folder's description; raises ValueError if files are missing."""
        self.dataset = read_msd(folder)
        self.name, self.number = self.dataset.nnunet_name, self.dataset.number
        self.title = f"{self.dataset.folder.name}, {len(self.dataset.cases)} cases"

    def fingerprint(self) -> str:
        """A hash of every file's name, size and modification time."""
        digest = hashlib.sha256((self.dataset.folder / "dataset.json").read_bytes())
        for part in ("imagesTr", "labelsTr"):
            for case in self.dataset.cases:
                stat = (self.dataset.folder / part / f"{case}.nii.gz").stat()
                digest.update(f"{part}/{case} {stat.st_size} {stat.st_mtime_ns}\n".encode())
        return digest.hexdigest()

    def check(self) -> None:
        """Open every file."""
        check_cases(self.dataset, lambda cases: tqdm(cases, "check", unit="case", disable=None, leave=False))

    def commands(self, workspace: Workspace) -> list[list[str]]:
        """nnU-Net's own converter."""
        folder = workspace.msd / self.dataset.msd_name
        return [["nnUNetv2_convert_MSD_dataset", "-i", str(folder), "-overwrite_id", str(self.number)]]

    def convert(self, workspace: Workspace) -> None:
        """Run nnU-Net's converter on links to the user's files."""
        link_for_conversion(self.dataset, workspace.msd)
        labels = workspace.raw / "labelsTr"
        meter = Meter(
            "convert", "case", lambda: len(self.dataset.cases), lambda: sum(1 for _ in labels.glob("*.nii.gz"))
        )
        for command in self.commands(workspace):
            run_command(command, workspace.logs / f"{self.name}-convert.log", workspace.variables(), [meter])
