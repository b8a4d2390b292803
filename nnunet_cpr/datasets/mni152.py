"""The demo's embedded data: blocks of the MNI152 T1 template, labeled with its gray- and white-matter maps.

The template (ICBM 2009a, nonlinear, symmetric, 1 mm, skull-stripped) ships inside the nilearn wheel, so nothing is
downloaded. It is one average brain, and its right half is an exact mirror image of its left half, which is why only
the left half is used. Five slabs from back to front, 4 mm apart, give five folds: a fold validates on one slab and
trains on the other four, so no voxel is seen in both.
"""

import importlib.util
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

from nnunet_cpr.files import write_json, write_text, write_whole

DATASET_ID = 152
DATASET_NAME = "Dataset152_MNI152Tissue"
LABELS = {"background": 0, "gray matter": 1, "white matter": 2}

# Voxel index of each block's corner and the block's size: 32 x 32 x 44 mm, 4 mm between neighbors, one hemisphere.
BLOCK_SHAPE = (32, 32, 44)
X_STARTS = (28, 64)
Y_STARTS = (29, 65, 101, 137, 173)
Z_STARTS = (12, 60, 108)
MIN_FRACTION = 0.02

README = """\
# MNI152 tissue blocks

Blocks of 32 x 32 x 44 voxels (1 mm) from the left hemisphere of the MNI152 T1 template (ICBM 2009a nonlinear
symmetric, skull-stripped), as shipped in nilearn {nilearn}. Labels: at each voxel the most probable of background,
gray matter and white matter according to the template's own tissue maps. The intensities have mean 0 and standard
deviation 1 over all blocks together, and nnU-Net leaves them so (channel name noNorm): block by block, as is its rule,
a tissue would be brighter in a block with more air around the head.

**This is one brain, and an average one.** The blocks are not independent subjects, and the labels follow from the same
image average. It is good for seeing the pipeline work, not for claims about methods.

Split (splits_final.json): the brain is cut from back to front into five slabs, 4 mm apart. Each fold validates on
the blocks of one slab and trains on those of the other four, so validation and training share no voxel. The right
hemisphere is left out because it is an exact mirror image of the left one. Blocks with less than {percent:.0f} %
gray or white matter are left out.

Template: Copyright (C) 1993-2009 Louis Collins, McConnell Brain Imaging Centre, Montreal Neurological Institute,
McGill University. Permission to use, copy, modify and distribute it for any purpose and without fee is granted,
provided that this notice appears in all copies.
Cite: Fonov et al., NeuroImage 54 (2011) 313-327, doi:10.1016/j.neuroimage.2010.07.033.
"""


@dataclass(frozen=True)
class Block:
    """One box of the template, given by the voxel index of its corner."""

    slab: int
    start: tuple[int, int, int]

    @property
    def name(self) -> str:
        """The case's name: its slab from back to front and its corner."""
        x, _, z = self.start
        return f"slab{self.slab}_x{x:03d}_z{z:03d}"

    @property
    def box(self) -> tuple[slice, slice, slice]:
        """The block as an index into the template's array."""
        x, y, z = (slice(start, start + size) for start, size in zip(self.start, BLOCK_SHAPE, strict=True))
        return x, y, z


def all_blocks() -> list[Block]:
    """Return every block of the grid, also those that hold too little tissue to be used."""
    return [Block(slab, (x, y, z)) for slab, y in enumerate(Y_STARTS) for x in X_STARTS for z in Z_STARTS]


def labels_from_maps(gray: np.ndarray, white: np.ndarray) -> np.ndarray:
    """Return the most probable of background (0), gray (1) and white matter (2) at each voxel.

    Background gets the probability that the two maps leave over; of equal probabilities the lower label wins.
    """
    labels: np.ndarray = np.argmax(np.stack([1 - gray - white, gray, white]), axis=0).astype(np.uint8)
    return labels


def enough_tissue(labels: np.ndarray) -> bool:
    """Tell whether each tissue makes up at least `MIN_FRACTION` of the block."""
    return all(np.mean(labels == label) >= MIN_FRACTION for label in LABELS.values() if label)


def standardize(image: np.ndarray, blocks: list[Block]) -> np.ndarray:
    """Return the image with mean 0 and standard deviation 1 over all blocks together.

    nnU-Net would do this block by block, and a tissue would then be brighter in a block that shows more of the air
    around the head. A whole image, which nnU-Net's rule is made for, does not have that problem.
    """
    voxels = np.concatenate([image[block.box].ravel() for block in blocks])
    standardized: np.ndarray = (image - voxels.mean()) / voxels.std()
    return standardized


def folds(blocks: list[Block]) -> list[dict[str, list[str]]]:
    """Return nnU-Net's splits_final.json: fold 0 validates on the middle slab, the next folds on the slabs after it."""
    count = len(Y_STARTS)
    order = [(count // 2 + fold) % count for fold in range(count)]
    return [
        {
            "train": [block.name for block in blocks if block.slab != held_out],
            "val": [block.name for block in blocks if block.slab == held_out],
        }
        for held_out in order
    ]


def check_available() -> None:
    """Raise ValueError if nilearn is not installed."""
    if importlib.util.find_spec("nilearn") is None:
        raise ValueError(
            "the demo's embedded data needs nilearn: pip install 'nnunet-cpr[demo]', or give your own with --data"
        )


def write_dataset(folder: Path) -> None:
    """Write the blocks, and the folds as splits_final.json, to `folder` in nnU-Net's raw format."""
    template, gray, white, version = _load_template()
    labels = labels_from_maps(gray, white)
    blocks = [block for block in all_blocks() if enough_tissue(labels[block.box])]
    image = standardize(template.get_fdata(dtype=np.float32), blocks)
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for block in blocks:
        affine = template.affine.copy()
        affine[:3, 3] = nib.affines.apply_affine(template.affine, block.start)
        _save(image[block.box], affine, folder / "imagesTr" / f"{block.name}_0000.nii.gz")
        _save(labels[block.box], affine, folder / "labelsTr" / f"{block.name}.nii.gz")
    write_text(folder / "README.md", README.format(nilearn=version, percent=100 * MIN_FRACTION))
    write_json(
        folder / "dataset.json",
        {
            "channel_names": {"0": "noNorm"},
            "labels": LABELS,
            "numTraining": len(blocks),
            "file_ending": ".nii.gz",
            "name": DATASET_NAME,
            "description": "Blocks of ONE average brain, the MNI152 T1 template: good for seeing the pipeline work, "
            "not for claims. The blocks of a fold's validation slab overlap with no training block. See README.md.",
            "reference": "Fonov et al., NeuroImage 54 (2011) 313-327",
            "licence": "free to use, copy, modify and distribute with McGill's copyright notice, see README.md",
        },
    )
    write_json(folder / "splits_final.json", folds(blocks))


def _load_template() -> tuple[nib.Nifti1Image, np.ndarray, np.ndarray, str]:
    check_available()
    import nilearn
    from nilearn.datasets import load_mni152_gm_template, load_mni152_template, load_mni152_wm_template

    gray, white = (load().get_fdata(dtype=np.float32) for load in (load_mni152_gm_template, load_mni152_wm_template))
    return load_mni152_template(), gray, white, nilearn.__version__


def _save(array: np.ndarray, affine: np.ndarray, path: Path) -> None:
    with write_whole(path) as temporary:
        nib.save(nib.Nifti1Image(array, affine), temporary)
