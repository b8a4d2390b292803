"""BTCV, "Beyond the Cranial Vault": abdominal CT with 13 organs."""

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

NUMBER = 17  # as in nnU-Net's first version
LABELS = numbered_labels(
    [
        "spleen",
        "right kidney",
        "left kidney",
        "gallbladder",
        "esophagus",
        "liver",
        "stomach",
        "aorta",
        "inferior vena cava",
        "portal vein and splenic vein",
        "pancreas",
        "right adrenal gland",
        "left adrenal gland",
    ]
)
VALUES = unchanged(LABELS)
TEST_FOLDERS = ("RawData/Testing/img", "Testing/img", "RawData/Test/img", "Test/img")


def read(source: Path, number: int | None = None) -> ChallengeDataset:
    """Find the images and labels below `source`, the folder with RawData or RawData itself."""
    training = first_folder(
        source, ("RawData/Training", "Training"), "img/img*.nii.gz", "RawData/Training/img/imgNNNN.nii.gz"
    )
    images = files_by_number(training / "img", r"img(\d{4})\.nii\.gz")
    labels = files_by_number(training / "label", r"label(\d{4})\.nii\.gz")
    check_pairs(images, labels, training)
    tests = next((source / folder for folder in TEST_FOLDERS if (source / folder).is_dir()), None)
    return ChallengeDataset(
        nnunet_name=f"Dataset{NUMBER if number is None else number:03d}_BTCV",
        published=30,
        cases=[Case(f"img{key}", (image,), labels[key]) for key, image in images.items()],
        test_cases=[
            Case(f"img{key}", (image,))
            for key, image in (files_by_number(tests, r"img(\d{4})\.nii\.gz") if tests else {}).items()
        ],
        channel_names=("CT",),
        labels=LABELS,
        values=VALUES,
        label_takes_image_header=True,  # some labels were published with a header of their own
        details={
            "license": "see https://www.synapse.org/Synapse:syn3193805/wiki/217789",
            "reference": "https://www.synapse.org/Synapse:syn3193805",
            "description": "Multi-Atlas Labeling Beyond the Cranial Vault (MICCAI 2015), abdomen",
        },
    )
