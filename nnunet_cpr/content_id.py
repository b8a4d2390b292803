"""Tell whether files have the same content, mostly without reading them whole.

Compressed files carry checksums of what is in them: gzip (.nii.gz) in its last eight bytes, zip (checkpoints of
torch) in its list of parts. So a copy is known under any name, and a gzip file also after it was compressed anew.
Imports nothing heavy.
"""

import gzip
import hashlib
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from functools import cache
from itertools import zip_longest
from pathlib import Path
from typing import BinaryIO

from nnunet_cpr.files import refuse_pipe

_CHUNK = 1 << 20
_GZIP = b"\x1f\x8b"


def content_id(path: Path) -> str:
    """Return a text that is the same for files of the same content.

    It rests on CRC-32 and the size for gzip and zip files, and on SHA-256 of the whole file for all others. So equal
    texts of gzip files mean the same content only after :func:`same_content`.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is a named pipe.
    """
    refuse_pipe(path)
    found = path.stat()
    return _content_id(path, found.st_size, found.st_mtime_ns)


def same_content(first: Path, second: Path) -> bool:
    """Tell whether two files have the same content, decompressed if they are gzip files. Reads both."""
    try:
        return all(one == other for one, other in zip_longest(_read(first), _read(second)))
    except (EOFError, OSError, zlib.error):  # damaged: whoever reads it next says so
        return False


@cache
def _content_id(path: Path, size: int, changed: int) -> str:
    """Read a file once, as long as its size and the time of its last change are the same."""
    with path.open("rb") as file:
        if file.read(2) == _GZIP and size > 18:  # a header has 10 bytes, what ends it 8
            file.seek(-8, 2)
            end = file.read(8)
            if any(end[4:]):  # what several processes have compressed may end with an empty part, which says nothing
                return f"gzip {end[::-1].hex()}"
    if parts := _parts(path):
        return f"zip {hashlib.sha256(repr(parts).encode()).hexdigest()}"
    digest = hashlib.sha256()
    for chunk in _read(path):
        digest.update(chunk)
    return f"sha256 {digest.hexdigest()}"


def _parts(path: Path) -> list[tuple[str, int, int]]:
    try:
        with zipfile.ZipFile(path) as archive:
            # The folder that torch puts all parts into is called like the file, which may have had a temporary name.
            return [(part.filename.partition("/")[2], part.CRC, part.file_size) for part in archive.infolist()]
    except (zipfile.BadZipFile, NotImplementedError):
        return []


def _read(path: Path) -> Iterator[bytes]:
    """Yield the content in pieces of the same size."""
    with ExitStack() as stack:
        raw: BinaryIO = stack.enter_context(path.open("rb"))
        compressed = raw.read(2) == _GZIP
        raw.seek(0)
        file = stack.enter_context(gzip.GzipFile(fileobj=raw)) if compressed else raw
        while chunk := file.read(_CHUNK):
            yield chunk
