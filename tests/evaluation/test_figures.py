import nibabel as nib
import numpy as np
import pytest

from nnunet_cpr.evaluation.figures.drawing import save_figure
from nnunet_cpr.evaluation.figures.slices import Prediction, slice_picture

LABELS = {"background": 0, "gray": 1, "white": 2}


@pytest.fixture
def files(tmp_path):
    label = np.zeros((8, 9, 10), dtype=np.uint8)
    label[2:6, 4, 2:8] = 1  # most foreground in the coronal slice 4
    label[3:5, 4, 4:6] = 2
    label[:, 0, :] = 1  # more, but at the border
    image = np.random.default_rng(0).random(label.shape, dtype=np.float32)
    affine = np.diag([1, 1, 2, 1])
    for name, array in (("image", image), ("reference", label), ("prediction", label)):
        nib.save(nib.Nifti1Image(array, affine), tmp_path / f"{name}.nii.gz")
    return {name: tmp_path / f"{name}.nii.gz" for name in ("image", "reference", "prediction")}


def test_slice_picture_shows_the_fullest_slice_and_the_cases_dice(files, tmp_path):
    predictions = [Prediction(name, files["prediction"], [0.5, 0.25]) for name in ("weight decay", "CPR")]
    figure = slice_picture("case_1", files["image"], files["reference"], predictions, LABELS)
    assert "case_1: coronal slice 4" in figure.get_suptitle()
    assert len(figure.axes) == 4
    assert figure.axes[3].get_title() == "CPR\nDice 0.500 gray\nDice 0.250 white"
    assert figure.axes[0].images[0].get_array().shape == (10, 8)
    assert figure.axes[0].get_aspect() == 2  # voxels are twice as tall as wide
    save_figure(figure, tmp_path / "slice.png")


def test_a_failing_save_leaves_the_old_picture(files, tmp_path, monkeypatch):
    path = tmp_path / "slice.png"
    path.write_text("old")
    figure = slice_picture("case_1", files["image"], files["reference"], [], LABELS)

    def full_disk(name, **_):
        name.write_text("half")
        raise OSError("No space left on device")

    monkeypatch.setattr(figure, "savefig", full_disk)
    with pytest.raises(OSError, match="No space left"):
        save_figure(figure, path)
    assert path.read_text() == "old"
    assert not list(tmp_path.glob(".*slice*"))


def test_names_are_no_formulas_and_none_is_hidden(files, tmp_path):
    labels = {"background": 0, "$x^2$": 1, "_white": 2}
    figure = slice_picture(
        "$case$", files["image"], files["reference"], [Prediction("CPR", files["prediction"], [1, 1])], labels
    )
    shown = [text.get_text() for text in figure.legends[0].get_texts()]
    assert shown == [r"\$x^2\$", "_white", "outline of the reference"]
    assert figure.get_suptitle().startswith(r"\$case\$: ")
    assert r"Dice 1.000 \$x^2\$" in figure.axes[2].get_title()
    save_figure(figure, tmp_path / "slice.png")
