"""What a report consists of, so that the next one in the same folder leaves nothing of it behind."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from nnunet_cpr.files import read_json, write_json

MANIFEST = "manifest.json"


def settle(folder: Path, written: Iterable[Path]) -> None:
    """Remove the files of an earlier report that this one has not written, and note what it has.

    Only files that are still as the earlier report wrote them are removed: any other is the user's.
    """
    files = {path.relative_to(folder).as_posix(): _checksum(path) for path in written}
    earlier = _read(folder / MANIFEST)
    for path in [*folder.glob("*"), *folder.glob("figures/*")]:
        name = path.relative_to(folder).as_posix()
        if name in earlier and name not in files and path.is_file() and _checksum(path) == earlier[name]:
            path.unlink()
    write_json(folder / MANIFEST, {"sha256": files})


def _checksum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _read(path: Path) -> dict[str, str]:
    try:
        return dict(read_json(path)["sha256"])
    except (OSError, ValueError, KeyError, TypeError):  # none, or not ours: nothing is removed
        return {}
