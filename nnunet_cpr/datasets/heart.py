"""MSD Task02_Heart, the left atrium in MR: checked, then converted by nnU-Net's own converter."""

import dataclasses
from functools import partial
from pathlib import Path

from nnunet_cpr.datasets.case_files import check_opens, place
from nnunet_cpr.datasets.msd import CONVERTERS_READER, ENDING, MSDDataset, check_cases, link_for_conversion, read_msd
from nnunet_cpr.parallel import in_parallel

STRUCTURE = "left atrium"


class HeartDataset:
    """A folder in MSD layout; one called TaskNN_Name gives number and name, another is taken for Task02_Heart."""

    published = 20

    def __init__(self, dataset: MSDDataset) -> None:
        self.dataset = dataset
        self.nnunet_name = dataset.nnunet_name
        self.number_of_cases = len(dataset.cases)
        tests = sorted(dataset.folder.glob(f"imagesTs/*{ENDING}"))
        self.test_images = [path for path in tests if path.name[0] not in "._"]
        self.number_of_test_cases = len(self.test_images)

    def check(self, processes: int) -> list[str]:
        """Open every file, and say so if the labels are not Heart's."""
        cases = [dataclasses.replace(self.dataset, cases=(case,)) for case in self.dataset.cases]
        for _ in in_parallel(partial(check_cases, progress=iter), cases, processes, "check", name=_case):
            pass
        opens = partial(check_opens, reader=CONVERTERS_READER)
        for _ in in_parallel(opens, self.test_images, processes, "check"):
            pass
        said = [
            f"{path} is left out, as nnU-Net's converter does: its name begins with . or _" for path in self._hidden()
        ]
        names = [name for value, name in self.dataset.description["labels"].items() if value != "0"]
        if names != [STRUCTURE]:
            said.append(f"the labels are {', '.join(names)}, Heart's is {STRUCTURE}; converted as {self.nnunet_name}")
        return said

    def _hidden(self) -> list[Path]:
        """Files with the names of cases that are left out, but for those that macOS makes."""
        return [
            path
            for part in ("imagesTr", "labelsTr", "imagesTs")
            for path in sorted(self.dataset.folder.glob(f"{part}/[._]*{ENDING}"))
            if not path.name.startswith("._")
        ]

    def write(self, folder: Path, link: bool, processes: int) -> None:
        """Run nnU-Net's converter, with `folder`'s parent as nnUNet_raw; link three-dimensional files afterwards."""
        from nnunet_cpr.demo.subprocesses import CommandFailed, Meter, run_command

        source = self.dataset.folder
        linked = link_for_conversion(self.dataset, folder.parent)
        if (source / "imagesTs").is_dir():
            (linked / "imagesTs").rmdir()
            (linked / "imagesTs").symlink_to(source / "imagesTs", target_is_directory=True)
        command = ["nnUNetv2_convert_MSD_dataset", "-i", str(linked), "-overwrite_id", str(self.dataset.number)]
        command += ["-np", str(processes)]
        # Only nnUNet_raw: the converter would refuse a number that is known to the other two folders.
        variables = {"nnUNet_raw": str(folder.parent), "nnUNet_preprocessed": "", "nnUNet_results": ""}
        images = folder / "imagesTr"
        meter = Meter("write", "file", lambda: self.number_of_cases, lambda: sum(1 for _ in images.glob(f"*{ENDING}")))
        log = folder.parent / "convert.log"
        try:
            run_command(command, log, variables, [meter])
        except CommandFailed as error:
            last = (log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or [""])[-1]
            raise ValueError(f"{source}: nnUNetv2_convert_MSD_dataset failed: {last}") from error
        if link:
            self._link(folder)

    def _link(self, folder: Path) -> None:
        """Replace the converter's plain copies by links; channels that it split from a 4D image stay."""
        one_channel = len(self.dataset.description["modality"]) == 1
        for part, suffix in (("imagesTr", "_0000"), ("imagesTs", "_0000"), ("labelsTr", "")):
            for path in sorted((folder / part).glob(f"*{suffix}{ENDING}")):
                source = self.dataset.folder / part / f"{path.name.removesuffix(suffix + ENDING)}{ENDING}"
                if part == "labelsTr" or one_channel:
                    path.unlink()
                    place(source, path, link=True)


def _case(dataset: MSDDataset) -> str:
    return ", ".join(dataset.cases)


def read(source: Path, number: int | None = None) -> HeartDataset:
    """Read the folder's description and file names; ValueError if an image, a label or the description is missing."""
    missing = [part for part in ("imagesTr", "labelsTr", "dataset.json") if not (source / part).exists()]
    if missing:
        raise ValueError(f"{source}: no {', '.join(missing)}; give the Decathlon's folder Task02_Heart")
    dataset = read_msd(source)
    if dataset.number == 999:  # the folder's name says neither number nor name
        dataset = dataclasses.replace(dataset, number=2, name="Heart")
    if number is not None:
        dataset = dataclasses.replace(dataset, number=number)
    return HeartDataset(dataset)
