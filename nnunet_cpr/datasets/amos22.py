"""AMOS 2022: abdominal CT, or CT and MR, with 15 organs; numbers, names and reader of nnU-Net's own conversions."""

from pathlib import Path

from nnunet_cpr.datasets.case_files import Case
from nnunet_cpr.datasets.challenge import (
    ChallengeDataset,
    check_pairs,
    files_by_number,
    first_folder,
    numbered_labels,
    unchanged,
)

CT_NUMBER, CT_AND_MR_NUMBER = 218, 219
LAST_CT = 500  # cases with higher numbers are MR
LABELS = numbered_labels(
    [
        "spleen",
        "right kidney",
        "left kidney",
        "gall bladder",
        "esophagus",
        "liver",
        "stomach",
        "aorta",  # "arota" in the source's dataset.json
        "postcava",
        "pancreas",
        "right adrenal gland",
        "left adrenal gland",
        "duodenum",
        "bladder",
        "prostate/uterus",
    ]
)
VALUES = unchanged(LABELS)


def read(source: Path, number: int | None = None, mr: bool = False) -> ChallengeDataset:
    """Find the cases below `source`, the folder with imagesTr or the one above; with `mr` those of both modalities.

    As in nnU-Net's conversions, the validation cases, whose labels are published, become training cases.
    """
    folder = first_folder(source, ("", "amos22"), "imagesTr/amos_*.nii.gz", "imagesTr/amos_NNNN.nii.gz")

    def files(part: str) -> dict[str, Path]:
        found = files_by_number(folder / part, r"amos_(\d{4})\.nii\.gz")
        return {key: path for key, path in found.items() if mr or int(key) <= LAST_CT}

    cases = []
    for part in ("Tr", "Va"):
        images, labels = files(f"images{part}"), files(f"labels{part}")
        check_pairs(images, labels, folder)
        cases += [Case(f"amos_{key}", (image,), labels[key]) for key, image in images.items()]
    if not cases:
        raise ValueError(f"{folder}: no CT (numbers up to {LAST_CT}) in imagesTr; add --mr to take MR, too")
    task = 2 if mr else 1
    if number is None:
        number = CT_AND_MR_NUMBER if mr else CT_NUMBER
    return ChallengeDataset(
        nnunet_name=f"Dataset{number:03d}_AMOS2022_postChallenge_task{task}",
        published=360 if mr else 300,
        cases=cases,
        test_cases=[Case(f"amos_{key}", (image,)) for key, image in files("imagesTs").items()],
        channel_names=("either_CT_or_MR" if mr else "CT",),
        labels=LABELS,
        values=VALUES,
        details={
            "license": "CC BY 4.0",
            "reference": "https://amos22.grand-challenge.org/",
            "release": "https://zenodo.org/record/7262581",
            "overwrite_image_reader_writer": "NibabelIOWithReorient",
            "description": "AMOS 2022 as released after the challenge; its validation cases are training cases here",
        },
    )
