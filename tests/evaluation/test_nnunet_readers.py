"""Which of nnU-Net's readers takes a file, and how far apart its voxels are: nnU-Net and SimpleITK are the measure."""

import json
import re
import struct
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import SimpleITK
from evaluation_helpers import noise, write_training
from evaluation_helpers import write_segmentation as write

from nnunet_cpr.batch.report import measure_surfaces
from nnunet_cpr.cli import main
from nnunet_cpr.evaluation.readers.case_files import CaseFiles
from nnunet_cpr.evaluation.readers.nnunet_readers import errors_named, read_voxels
from nnunet_cpr.evaluation.readers.nnunet_results import Training, stated_reader
from nnunet_cpr.evaluation.readers.prediction_folders import left_out, read_folders
from nnunet_cpr.evaluation.readers.segmentation_files import check_geometry, list_cases, read_pair, read_segmentation
from nnunet_cpr.evaluation.readers.trainings import find_trainings
from nnunet_cpr.evaluation.report import write as report
from nnunet_cpr.evaluation.surface.compute import spacing_cautions

pytest.importorskip("nnunetv2")
import tifffile
from nnunetv2.imageio.natural_image_reader_writer import NaturalImage2DIO
from nnunetv2.imageio.nibabel_reader_writer import NibabelIO, NibabelIOWithReorient
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from nnunetv2.imageio.tif_reader_writer import Tiff3DIO

MASK = np.zeros((9, 10, 11), np.uint8)  # z, y, x
MASK[2:6, 2:7, 3:8] = 1
SHIFTED = np.roll(MASK, 1, axis=0)


@pytest.fixture(autouse=True)
def no_figures(monkeypatch):
    """They take most of a report's time."""
    for name in ("draw_comparison", "draw_slices", "draw_training", "draw_constraints"):
        monkeypatch.setattr(report, name, lambda results: [])


def tiff(path: Path, array: np.ndarray, spacing=None, **more) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, array, **more)
    if spacing is not None:
        path.with_suffix(".json").write_text(json.dumps({"spacing": spacing}))
    return path


def nifti(path: Path, affine=None, unit="unknown", array=MASK.T, **header) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(array, np.diag([2.0, 3, 5, 1]) if affine is None else affine)
    image.header.set_xyzt_units(unit)
    nib.save(image, path)
    return path


def with_bytes(path: Path, offset: int, value: bytes) -> Path:
    """A .nii file with other bytes in its header."""
    content = bytearray(path.read_bytes())
    content[offset : offset + len(value)] = value
    path.write_bytes(content)
    return path


def surfaces(tmp_path: Path, *more: str) -> tuple[dict, str]:
    """HD95 of the label 1 by prediction in the folders `labels`, `same` and `shifted`, and the report."""
    pytest.importorskip("monai")
    output = tmp_path / "report"
    folders = [f"{name}={tmp_path / name}" for name in ("same", "shifted")]
    command = ["compare", "--reference", str(tmp_path / "labels"), "--pred", *folders, "--surface", "-np", "1"]
    assert main([*command, "-o", str(output), *more]) == 0
    cases = pd.read_csv(output / "cases.csv", dtype={"label": str})
    cases = cases[(cases["metric"] == "HD95") & (cases["label"] == "1")]
    return dict(zip(cases["trainer"], cases["value"], strict=True)), (output / "report.md").read_text()


# TIFF


@pytest.mark.parametrize("reader", [None, "Tiff3DIO"])
@pytest.mark.parametrize("ending", [".tif", ".tiff", ".TIF"])
def test_volumes_are_nnunets(tmp_path, ending, reader, capsys):
    array = noise(0)
    path = tiff(tmp_path / f"x{ending}", array, [4, 2, 1])
    expected, properties = Tiff3DIO().read_seg(str(path))
    pair = read_pair(path, path, reader)
    assert np.array_equal(pair.reference, expected[0]) and np.array_equal(pair.reference, array)
    assert pair.spacing == properties["spacing"] == [4, 2, 1]
    assert capsys.readouterr() == ("", "")


def test_planes_are_nnunets(tmp_path):
    path = tiff(tmp_path / "x.tif", noise(0, shape=(20, 24)))
    assert np.array_equal(read_pair(path, path).reference, NaturalImage2DIO().read_seg(str(path))[0][0])
    with pytest.raises(ValueError, match=r"x\.tif cannot be read.*Only 3D images"):  # as the dataset's reader says
        read_pair(path, path, "Tiff3DIO")


def test_a_volume_of_three_columns_needs_the_readers_name(tmp_path):
    path = tiff(tmp_path / "x.tif", noise(0, shape=(8, 9, 3)))
    assert read_pair(path, path, "Tiff3DIO").reference.shape == (8, 9, 3)
    with pytest.raises(ValueError, match=r'3 channels; .* "overwrite_image_reader_writer": "Tiff3DIO"'):
        read_segmentation(path)


@pytest.mark.parametrize("columns", [3, 4])
def test_a_tiff_volume_of_few_columns_keeps_its_spacing(tmp_path, columns):
    """For .tiff nnU-Net has no reader of plane images, so these are not colors."""
    path = tiff(tmp_path / "x.tiff", noise(0, shape=(8, 9, columns)), [5, 2, 1])
    assert (
        read_pair(path, path, None, [path.with_suffix(".json")]).spacing == Tiff3DIO().read_seg(str(path))[1]["spacing"]
    )


def test_resolution_that_nnunet_does_not_look_at(tmp_path):
    reference = tiff(tmp_path / "labels" / "x.tif", MASK, [5, 1, 1], resolution=(72, 72), resolutionunit="INCH")
    prediction = tiff(tmp_path / "p" / "x.tif", SHIFTED, [5, 1, 1], compression="zlib")
    assert read_pair(reference, prediction).spacing == [5, 1, 1]
    image = pytest.importorskip("PIL.Image").fromarray(MASK[3])
    for name, dpi in (("a", 72), ("b", 300)):
        image.save(tmp_path / f"{name}.png", dpi=(dpi, dpi))
    assert read_pair(tmp_path / "a.png", tmp_path / "b.png").spacing is None


@pytest.fixture
def cells(tmp_path, monkeypatch) -> str:
    """Two trainings on TIFF volumes. nnU-Net copies labels to gt_segmentations without their .json."""
    pytest.importorskip("monai")
    name, labels = "Dataset007_Cells", {"background": 0, "1": 1}
    for variable in ("raw", "preprocessed", "results"):
        monkeypatch.setenv(f"nnUNet_{variable}", str(tmp_path / variable))
    tiff(tmp_path / "preprocessed" / name / "gt_segmentations" / "x.tif", MASK)
    tiff(tmp_path / "raw" / name / "labelsTr" / "x.tif", MASK, [5, 1, 1])
    for run, array in (("A", MASK), ("B", SHIFTED)):
        fold = write_training(tmp_path / "results", run, 0, {"x": {"1": 0.8}}, labels, name)
        (fold.parent / "dataset.json").write_text(json.dumps({"labels": labels, "file_ending": ".tif"}))
        (fold.parent / "plans.json").write_text('{"image_reader_writer": "Tiff3DIO"}')
        summary = fold / "validation" / "summary.json"
        summary.write_text(summary.read_text().replace(".nii.gz", ".tif"))
        tiff(fold / "validation" / "x.tif", array)  # as copied alone
    return name


def test_spacing_of_a_training(cells, tmp_path):
    command = ["compare", "-d", cells, "-tr", "A", "B", "-f", "0", "--surface", "-np", "1"]
    assert main([*command, "-o", str(tmp_path / "report")]) == 0
    cases = pd.read_csv(tmp_path / "report" / "cases.csv", dtype={"label": str})
    chosen = cases[(cases["metric"] == "HD95") & (cases["label"] == "1")]
    assert dict(zip(chosen["trainer"], chosen["value"], strict=True)) == {"A": 0.0, "B": 5.0}


def test_what_a_study_has_measured_is_not_measured_again(cells, tmp_path, monkeypatch):
    trainings, _ = find_trainings([cells], "3d_fullres", {"A": ["A"], "B": ["B"]}, "nnUNetPlans", ["0"])
    for training in trainings:
        measure_surfaces(SimpleNamespace(tolerance=1.0), training)
    monkeypatch.setattr(
        "nnunet_cpr.evaluation.surface.compute._measure", lambda *_, **__: pytest.fail("measured again")
    )
    command = ["compare", "-d", cells, "-tr", "A", "B", "-f", "0", "--surface", "-np", "1"]
    assert main([*command, "-o", str(tmp_path / "report")]) == 0


def test_where_a_spacing_may_lie(tmp_path):
    reference = tiff(tmp_path / "labelsTs" / "x.tif", MASK)
    prediction = tiff(tmp_path / "p" / "x.tif", MASK)
    assert read_pair(reference, prediction).spacing is None
    tiff(prediction, MASK, [1, 1, 1])  # what nnU-Net writes where it knows no spacing
    assert read_pair(reference, prediction).spacing is None
    tiff(prediction, MASK, [4, 1, 1])
    assert read_pair(reference, prediction).spacing == [4, 1, 1]
    (tmp_path / "imagesTs").mkdir()
    (tmp_path / "imagesTs" / "x.json").write_text('{"spacing": [5, 1, 1]}')
    with pytest.raises(ValueError, match=r"p/x\.json has the spacing \[4.0, 1.0, 1.0\].*, not the \[5.0, 1.0, 1.0\]"):
        read_pair(reference, prediction)
    tiff(reference, MASK, [4, 1, 1])  # the label's own
    assert read_pair(reference, prediction).spacing == [4, 1, 1]


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"spacing": 3}', '{"spacing": [1, 2]}', '{"spacing": [1, 2, 0]}', '{"spacing": [1, 2, NaN]}'],
)
def test_a_damaged_spacing_is_named(tmp_path, content):
    reference = tiff(tmp_path / "x.tif", MASK)
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(ValueError, match=r"x\.(json|tif) (holds no spacing|has the spacing|cannot be read)") as error:
        read_pair(reference, reference)
    assert "\n" not in str(error.value)


def test_unknown_spacing_is_an_error_of_surface_metrics_only(tmp_path, capsys):
    pytest.importorskip("monai")
    for name, array in (("labels", MASK), ("same", MASK), ("shifted", SHIFTED)):
        tiff(tmp_path / name / "x.tif", array)
    folders = [f"{name}={tmp_path / name}" for name in ("same", "shifted")]
    command = ["compare", "--reference", str(tmp_path / "labels"), "--pred", *folders, "-np", "1", "-o"]
    assert main([*command, str(tmp_path / "dice")]) == 0
    capsys.readouterr()
    assert main([*command, str(tmp_path / "distances"), "--surface"]) == 2
    said = capsys.readouterr().err
    assert re.search(r'labels/x\.tif has no spacing, .*: write it as {"spacing": \[z, y, x\]} in mm to .*x\.json', said)
    (tmp_path / "labels" / "x.json").write_text('{"spacing": [5, 1, 1]}')
    assert surfaces(tmp_path)[0] == {"same": 0.0, "shifted": 5.0}
    (tmp_path / "labels" / "x.json").write_text('{"spacing": [3, 1, 1]}')  # no longer what is kept
    assert surfaces(tmp_path)[0] == {"same": 0.0, "shifted": 3.0}


@pytest.mark.parametrize("pages", ["separate", "truncated"])
def test_pages_that_nnunet_would_not_see(tmp_path, pages):
    path = tmp_path / "x.tif"
    if pages == "separate":
        with tifffile.TiffWriter(path) as file:
            for page in noise(0):
                file.write(page)
    else:
        tiff(path, noise(0, shape=(12, 20, 24)), compression="zlib")
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])
    assert NaturalImage2DIO().read_seg(str(path))[0].shape[1] == 1  # the first one only
    said = r"5 images of the same size, of which nnU-Net reads the first" if pages == "separate" else "may be damaged"
    with pytest.raises(ValueError, match=said):
        read_segmentation(path)


def test_the_reader_that_files_name(tmp_path):
    for name, content in (("plans.json", {"image_reader_writer": "A"}),
                          ("dataset.json", {"overwrite_image_reader_writer": "B"})):  # fmt: skip
        (tmp_path / name[0]).mkdir()
        (tmp_path / name[0] / name).write_text(json.dumps(content))
    assert stated_reader(tmp_path / "d", tmp_path / "p") == "A"
    assert stated_reader(tmp_path / "d") == "B"
    (tmp_path / "d" / "dataset.json").write_text('{"overwrite_image_reader_writer": "None"}')
    assert stated_reader(tmp_path / "d", tmp_path / "nowhere") is None
    path = tiff(tmp_path / "d" / "x.tif", noise(0, shape=(8, 9, 3)))
    (tmp_path / "d" / "dataset.json").write_text(
        '{"labels": {"background": 0}, "overwrite_image_reader_writer": "Tiff3DIO"}'
    )
    assert len(read_folders(path.parent, {"P": path.parent}, "D", 1)) == 3


# NIfTI: units


@pytest.mark.parametrize("code", range(8))
def test_lengths_are_simpleitks(tmp_path, code):
    path = with_bytes(nifti(tmp_path / "x.nii"), 123, bytes([code + 16]))  # 16: in ms
    read = SimpleITK.ReadImage(str(path))
    assert read_segmentation(path)[1] == pytest.approx(read.GetSpacing()[::-1], rel=1e-6)
    SimpleITK.WriteImage(read, str(tmp_path / "y.nrrd"))
    check_geometry(path, tmp_path / "y.nrrd")


@pytest.mark.parametrize("unit", ["micron", "meter"])
@pytest.mark.parametrize("origin", [0.0, 40.0])
def test_reference_and_prediction_in_different_units(tmp_path, unit, origin):
    scale = {"micron": 1000.0, "meter": 0.001}[unit]
    affine = np.diag([0.05, 0.05, 0.2, 1])
    affine[:3, 3] = origin
    reference = nifti(tmp_path / "a.nii.gz", np.diag([scale] * 3 + [1]) @ affine, unit)
    prediction = nifti(tmp_path / "b.nii.gz", affine, "mm")
    for one, other in ((reference, prediction), (prediction, reference)):
        assert read_pair(one, other).spacing == pytest.approx([0.2, 0.05, 0.05], rel=1e-5)
    nifti(prediction, np.diag([scale] * 3 + [1]) @ affine, "mm")  # the same numbers, another size
    with pytest.raises(ValueError, match=r"b\.nii\.gz has the spacing"):
        check_geometry(reference, prediction)


@pytest.mark.parametrize("reader", [SimpleITKIO, NibabelIO, NibabelIOWithReorient])
@pytest.mark.parametrize("unit", ["unknown", "mm", "micron", "meter"])
def test_predictions_that_nnunet_writes_fit_their_reference(tmp_path, reader, unit):
    reference = nifti(tmp_path / "a.nii.gz", np.diag([-2.0, 3, 5, 1])[[1, 0, 2, 3]], unit)
    writer = reader()
    segmentation, properties = writer.read_seg(str(reference))
    writer.write_seg(segmentation[0], str(tmp_path / "b.nii.gz"), properties)
    expected = SimpleITK.ReadImage(str(reference)).GetSpacing()[::-1]
    assert read_pair(reference, tmp_path / "b.nii.gz", reader.__name__).spacing == pytest.approx(expected, rel=1e-6)


def test_far_origins_of_small_voxels(tmp_path):
    """An origin of 40 mm in float32 is known to 4 nm; a thousandth of these voxels is half a nanometer."""
    affine = np.diag([0.5, 0.5, 0.5, 1])
    affine[:3, 3] = 40123.4567, -30123.4567, 10.0
    reference = nifti(tmp_path / "a.nii.gz", affine, "micron")
    SimpleITK.WriteImage(SimpleITK.ReadImage(str(reference)), str(tmp_path / "b.nii.gz"))
    check_geometry(reference, tmp_path / "b.nii.gz")


def test_distances_in_micrometers(tmp_path):
    for name, array in (("labels", MASK), ("same", MASK), ("shifted", SHIFTED)):
        nifti(tmp_path / name / "x.nii.gz", np.diag([50.0, 50, 200, 1]), "micron", array.T)
    assert surfaces(tmp_path)[0] == {"same": 0.0, "shifted": pytest.approx(0.2)}


# NIfTI: headers that contradict themselves


def two_spacings(path: Path, array=MASK.T) -> Path:
    """1 mm in pixdim, 2, 3 and 5 mm in the sform: of tools that write only one of the two."""
    nifti(path, array=array)
    return with_bytes(path, 80, struct.pack("<3f", 1, 1, 1))


def test_two_spacings_are_said(tmp_path):
    for name, array in (("labels", MASK), ("same", MASK), ("shifted", SHIFTED)):
        path = two_spacings(tmp_path / name / "x.nii", array.T)
    assert SimpleITK.ReadImage(str(path)).GetSpacing() == (1, 1, 1)  # so does nnU-Net
    found, page = surfaces(tmp_path)
    assert found == {"same": 0.0, "shifted": 1.0}
    assert re.search(r"labels/x\.nii has two spacings in its header, 1 x 1 x 1 mm, by which .*, and 2 x 3 x 5 mm", page)


@pytest.mark.parametrize("reader", [SimpleITKIO, NibabelIO])
def test_predictions_for_a_reference_with_two_spacings_are_taken(tmp_path, reader):
    reference, writer = two_spacings(tmp_path / "a.nii"), reader()
    writer.write_seg(MASK, str(tmp_path / "b.nii"), writer.read_seg(str(reference))[1])
    assert read_pair(reference, tmp_path / "b.nii", reader.__name__).spacing == [1, 1, 1]


@pytest.mark.parametrize("reader", [SimpleITKIO, NibabelIO, NibabelIOWithReorient])
@pytest.mark.parametrize("shape", [(6, 7, 8), (6, 7, 8, 1), (6, 7, 1), (6, 7)])
@pytest.mark.parametrize("header", ["plain", "negative pixdim", "other qform", "qform only"])
def test_odd_headers_are_read_as_nnunet_reads_them(tmp_path, reader, shape, header):
    affine = np.diag([-2.0, 3, 5, 1])
    affine[:3, 3] = (10, 20, 30) if len(shape) > 2 else (10, 20, 0)
    image = nib.Nifti1Image(noise(0, shape=shape), affine)
    if header == "other qform":
        image.set_sform(affine, 1)
        image.set_qform(np.diag([-2.0, 3, 5, 1]), 1)
    elif header == "qform only":
        image.set_qform(affine, 1)
        image.set_sform(None, 0)
    nib.save(image, tmp_path / "a.nii")
    if header == "negative pixdim":
        with_bytes(tmp_path / "a.nii", 80, struct.pack("<f", -2))
    if reader is not SimpleITKIO and len(shape) != 3:
        pytest.skip("nnU-Net's reader refuses it")
    segmentation, properties = reader().read_seg(str(tmp_path / "a.nii"))
    reader().write_seg(segmentation[0], str(tmp_path / "b.nii"), properties)
    pair = read_pair(tmp_path / "a.nii", tmp_path / "b.nii", reader.__name__)
    assert np.array_equal(pair.reference, pair.prediction)
    assert pair.spacing == pytest.approx(properties["spacing"], rel=1e-6)
    if reader is not NibabelIOWithReorient:  # that turns the voxels
        assert np.array_equal(pair.reference, segmentation[0])


def task(reference: Path) -> CaseFiles:
    return CaseFiles("D", "A", "A", 0, "x", reference, reference, {"1": 1})


def test_cautions_name_what_is_doubtful(tmp_path):
    sheared = np.diag([2.0, 3, 5, 1])
    sheared[1, 2] = 0.5
    references = [nifti(tmp_path / f"{case}.nii.gz", sheared) for case in "ab"]
    references += [nifti(tmp_path / "c.nii.gz"), write(tmp_path / "d.png", noise(0, shape=(5, 6)))]
    (shear, pixels) = spacing_cautions([task(path) for path in references])
    assert shear.startswith(
        f"D: the reference {references[0]} (and 1 more like it) has axes that are not at right angles"
    )
    assert (
        pixels
        == f"D: the reference {references[3]} is of a format without spacing; its distances are in pixels, not in mm."
    )


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_no_spacing_in_the_header_is_an_error(tmp_path, value):
    path = with_bytes(nifti(tmp_path / "x.nii"), 88, struct.pack("<f", value))
    with pytest.raises(ValueError, match=r"x\.nii has no spacing along an axis \(pixdim\), .* correct its header"):
        spacing_cautions([task(path)])


def test_a_single_slice_needs_no_thickness(tmp_path):
    path = with_bytes(nifti(tmp_path / "x.nii", array=MASK.T[:, :, 3:4]), 88, struct.pack("<f", 0))
    assert read_pair(path, path).spacing[1:] == [3, 2]
    assert all("no spacing" not in said for said in spacing_cautions([task(path)]))


# Files of a folder


def test_links_to_nothing_are_an_error(tmp_path):
    path = write(tmp_path / "labels" / "x.nii.gz", noise(0))
    path.with_name("y.nii.gz").symlink_to("../annex/objects/y")
    with pytest.raises(ValueError, match=r"y\.nii\.gz is a link to \.\./annex/objects/y, which is missing; fetch"):
        list_cases(path.parent)
    path.with_name("y.nii.gz").unlink()
    path.with_name("y.nii.gz").mkdir()
    with pytest.raises(ValueError, match=r"y\.nii\.gz is a folder"):
        list_cases(path.parent)


def test_a_link_to_nothing_in_a_training_is_named(tmp_path, monkeypatch):
    for variable in ("raw", "preprocessed"):
        monkeypatch.setenv(f"nnUNet_{variable}", str(tmp_path / variable))
    fold = write_training(tmp_path, "T", 0, {"x": {"1": 1.0}}, {"background": 0, "a": 1})
    write(tmp_path / "preprocessed" / "Dataset004_Tiny" / "gt_segmentations" / "x.nii.gz", noise(0))
    (fold / "validation" / "x.nii.gz").symlink_to("gone")
    with pytest.raises(ValueError, match=r"validation/x\.nii\.gz is a link to gone, which is missing"):
        Training("Dataset004_Tiny", "T", "T", "0", fold).case_files()["x"].check()


def test_hidden_files_are_said_but_for_those_of_macos(tmp_path):
    path = write(tmp_path / "x.nii.gz", noise(0))
    for name in (".y.nii.gz", "._x.nii.gz", ".notes", ".nii"):
        path.with_name(name).write_bytes(b"")
    assert list(list_cases(tmp_path)) == ["x"]
    expected = f"{tmp_path}: files whose names begin with a dot are left out: .y.nii.gz."
    assert left_out(tmp_path, {"A": tmp_path}) == [expected]
    path.unlink()
    with pytest.raises(ValueError, match=r"holds no segmentation .* files such as \.y\.nii\.gz are left out"):
        list_cases(tmp_path)


@pytest.mark.parametrize("ending", [".nrrd", ".mha"])
def test_layers_are_not_taken_for_an_axis(tmp_path, ending):
    image = SimpleITK.GetImageFromArray(np.zeros((5, 6, 7, 2), np.uint8), isVector=True)
    SimpleITK.WriteImage(image, str(tmp_path / f"x.seg{ending}"))
    with pytest.raises(ValueError, match=rf"x\.seg{ending} has 2 values in every voxel, layers or colors"):
        read_segmentation(tmp_path / f"x.seg{ending}")


@pytest.mark.parametrize("image", [False, True])
def test_a_path_at_which_simpleitk_would_end_the_process(tmp_path, image):
    folder = tmp_path / "b\udcffd"
    folder.mkdir()
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(np.zeros((5, 6, 7), np.uint8)), str(tmp_path / "x.mha"))
    path = (tmp_path / "x.mha").rename(folder / "x.mha")
    with errors_named(path), pytest.raises(ValueError, match=r"takes only paths in UTF-8; rename the file or folder$"):
        read_voxels(path, image=image)
    nifti(folder / "y.nii.gz")
    assert read_segmentation(folder / "y.nii.gz")[0].shape == MASK.shape  # nibabel can read it
