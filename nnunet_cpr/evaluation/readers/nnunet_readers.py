"""nnU-Net's readers: which one takes a file, and the voxels and the spacing that it returns.

nnU-Net keeps the name of a dataset's reader in its plans; without a name, the first reader that can read a file of its
ending counts. Some of nnU-Net's readers take no spacing from the file itself: Tiff3DIO finds it in a .json beside the
file, NaturalImage2DIO knows none.

nnU-Net, SimpleITK and tifffile are imported where they are used, because the command line imports this module.
"""

import contextlib
import io
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nnunet_cpr.images import UnsuitableFile, check_itk_path, check_permission

_WITH_NIBABEL = ("SimpleITKIO", "SimpleITKIOWithReorient", "NibabelIO", "NibabelIOWithReorient")
"""nnU-Net's readers of NIfTI, whose voxels and spacing nibabel gives, too."""


@dataclass(frozen=True)
class ReadImage:
    """What a reader returns."""

    channels: npt.NDArray[Any]
    """(channel, z, y, x)"""
    spacing: list[float]
    """(z, y, x)"""
    in_file: bool
    """Whether the reader finds the spacing in the file itself."""
    direction: npt.NDArray[np.float64]
    """As SimpleITK has it: a column for each axis of the file, x first."""


@cache
def endings() -> tuple[str, ...]:
    """Return the file endings that nnU-Net's readers take."""
    return tuple(dict.fromkeys(ending for reader in _registered() for ending in reader.supported_file_endings))


def ending_of(path: Path) -> str | None:
    """Return the end of a file's name that says its format, as it is written there; None for other files."""
    return next((path.name[-len(ending) :] for ending in endings() if path.name.lower().endswith(ending)), None)


def is_nifti(path: Path) -> bool:
    """Tell whether a file is NIfTI, by its name."""
    return path.name.lower().endswith((".nii", ".nii.gz"))


def is_tiff(path: Path) -> bool:
    """Tell whether a file is TIFF, by its name."""
    return path.name.lower().endswith((".tif", ".tiff"))


def nibabel_reads(path: Path, name: str | None) -> bool:
    """Tell whether nibabel gives what nnU-Net's reader called `name`, or the one that it would choose, does."""
    return is_nifti(path) and (name is None or name in _WITH_NIBABEL or _named(name) is None)


def knows_place(path: Path) -> bool:
    """Tell whether a file's format says where the image lies, to the readers that nnU-Net has for it."""
    return _format_knows_place((ending_of(path) or "").lower())


def takes_json_spacing(path: Path, name: str | None = None) -> bool:
    """Tell whether nnU-Net looks for a file's spacing in a .json beside it: of a TIFF with three axes."""
    if not is_tiff(path) or name == "NaturalImage2DIO":
        return False
    if name == "Tiff3DIO":
        return True
    import tifffile

    with errors_named(path), _quiet(), tifffile.TiffFile(path) as file:
        shape = file.series[0].shape
    # For .tif, but not for .tiff, nnU-Net first tries a reader of plane images, to which 3 or 4 are colors.
    colors = (3, 4) if len(_candidates(path, name)) > 1 else ()
    return len(shape) == 3 and shape[-1] not in colors


def read_voxels(path: Path, name: str | None = None, image: bool = False) -> ReadImage:
    """Read a segmentation or an image with nnU-Net's reader called `name`, or with the one that it would choose.

    Raises whatever nnU-Net's readers do for a file that cannot be read, and UnsuitableFile.
    """
    candidates = _candidates(path, name)
    if not candidates:
        raise ValueError(f"nnU-Net has no reader for {path.name}")
    for number, reader in enumerate(candidates):
        try:
            return _read(path, reader, image)
        except (MemoryError, UnsuitableFile):
            raise
        except Exception:  # each library has its own
            if number == len(candidates) - 1:
                raise
    raise AssertionError("not reached")


@contextlib.contextmanager
def errors_named(path: Path) -> Iterator[None]:
    """Turn whatever is raised while a file is read into a ValueError of one line that names the file."""
    try:
        yield
    except UnsuitableFile:
        raise
    except MemoryError as error:
        raise ValueError(f"{path} does not fit into memory, or its header is damaged") from error
    except Exception as error:  # each library has its own
        check_permission(path)
        lines = str(error).split("\n")
        if "SimpleITK" in lines[0]:  # begins with a place in its source and ends with what happened
            lines = [line for line in lines if line.strip()][-1:]
        reason = " ".join(" ".join(lines).split()) or type(error).__name__
        raise ValueError(f"{path} cannot be read; it may be damaged or truncated ({reason})") from error


def _read(path: Path, reader: Any, image: bool) -> ReadImage:
    from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

    if issubclass(reader, SimpleITKIO):
        check_itk_path(path)
        if not image:
            _check_one_value_a_voxel(path)
    with _quiet() as complaints:
        channels, properties = reader().read_images([str(path)]) if image else reader().read_seg(str(path))
    if is_tiff(path) and channels.shape[1] == 1:
        _check_single_plane(path, complaints)
    spacing = [float(length) for length in properties["spacing"]]
    direction = np.array(properties.get("sitk_stuff", {}).get("direction", ()), dtype=np.float64)
    columns = direction.reshape(3, 3) if direction.size == 9 else np.eye(3)
    return ReadImage(channels, spacing, _has_spacing(reader), columns)


def _check_one_value_a_voxel(path: Path) -> None:
    """Refuse what nnU-Net's SimpleITK readers would take for channels along an axis in space."""
    from nnunet_cpr.images import itk_header

    count = itk_header(path).GetNumberOfComponents()
    if count > 1:
        raise UnsuitableFile(
            f"{path} has {count} values in every voxel, layers or colors; a segmentation has one "
            "(3D Slicer exports such a file as a labelmap)"
        )


def _check_single_plane(path: Path, complaints: list[str]) -> None:
    """Refuse a plane that is only the beginning of what a TIFF holds or held."""
    import tifffile

    if complaints:
        raise UnsuitableFile(f"{path} cannot be read; it may be damaged or truncated ({complaints[0]})")
    with _quiet(), tifffile.TiffFile(path) as file:
        alike = sum(series.shape == file.series[0].shape for series in file.series)
    if alike > 1:
        raise UnsuitableFile(
            f"{path} has {alike} images of the same size, of which nnU-Net reads the first; save them as one volume"
        )


def _candidates(path: Path, name: str | None) -> list[Any]:
    """Return the reader called `name` if it takes files of this ending, else all that do in nnU-Net's order."""
    ending = (ending_of(path) or path.suffix).lower()
    named = _named(name) if name else None
    if named is not None and ending in named.supported_file_endings:
        return [named]
    return [reader for reader in _registered() if ending in reader.supported_file_endings]


@cache
def _format_knows_place(ending: str) -> bool:
    return any(_has_spacing(reader) for reader in _registered() if ending in reader.supported_file_endings)


@cache
def _registered() -> tuple[Any, ...]:
    from nnunetv2.imageio.reader_writer_registry import LIST_OF_IO_CLASSES

    return tuple(LIST_OF_IO_CLASSES)


@cache
def _named(name: str) -> Any:
    from nnunetv2.imageio.reader_writer_registry import recursive_find_reader_writer_by_name

    try:
        return recursive_find_reader_writer_by_name(name)
    except RuntimeError:  # as nnU-Net, choose by the ending then
        return None


def _has_spacing(reader: Any) -> bool:
    from nnunetv2.imageio.natural_image_reader_writer import NaturalImage2DIO
    from nnunetv2.imageio.tif_reader_writer import Tiff3DIO

    return not issubclass(reader, (NaturalImage2DIO, Tiff3DIO))


@contextlib.contextmanager
def _quiet() -> Iterator[list[str]]:
    """Keep readers from writing to the terminal; yield what tifffile complains of, which it does instead of raising."""
    complaints: list[str] = []

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            complaints.append(record.getMessage())

    logger, handler = logging.getLogger("tifffile"), Collect(logging.ERROR)
    propagate, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # of a missing spacing, for instance
            yield complaints
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate
