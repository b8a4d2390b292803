"""Token files: train.bin and val.bin of uint16 with a meta.json beside them, or the bytes of text."""

import hashlib
import sysconfig
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_cpr.files import read_json

META_FILE = "meta.json"
SPLITS = ("train", "val")
TOKEN_BYTES = 2
MAX_VOCAB_SIZE = 2 ** (8 * TOKEN_BYTES)


@dataclass
class Tokens:
    """Training and validation tokens, each one long sequence, read from disk as needed."""

    train: np.ndarray
    val: np.ndarray
    vocab_size: int
    about: dict[str, Any] = field(default_factory=dict)
    """For the record of a run."""


def load_tokens(path: str | None, val_share: float) -> Tokens:
    """Return the tokens in a folder of prepare_openwebtext.py, or the bytes of a text file or a folder of text files.

    Without a path, the text is the source of Python's standard library. The last `val_share` of text is for validation.

    Raises:
        ValueError: the path is missing, holds no text, or a token file does not fit its meta.json.
    """
    if path is None:
        folder = Path(sysconfig.get_paths()["stdlib"])
        files = [f for f in sorted(folder.rglob("*.py")) if not {"site-packages", "test"} & set(f.parts)]
        return _from_text(files, val_share, "Python's standard library")
    source = Path(path)
    if (source / META_FILE).is_file():
        return _from_folder(source)
    if source.is_dir():
        files = [f for f in sorted(source.rglob("*")) if f.is_file() and not f.name.startswith(".")]
    elif source.is_file():
        files = [source]
    else:
        raise ValueError(f"--data {path}: there is no such file or folder")
    if any(f.suffix == ".bin" for f in files):
        raise ValueError(f"--data {path} holds token files without {META_FILE}; finish prepare_openwebtext.py first")
    return _from_text(files, val_share, path)


def read_meta(folder: Path) -> dict[str, Any]:
    """Return the checked meta.json of a folder of token files. Raises ValueError where the files do not fit it."""
    path = folder / META_FILE
    try:
        meta: dict[str, Any] = read_json(path)
        vocab_size, counts = int(meta["vocab_size"]), {split: int(meta["tokens"][split]) for split in SPLITS}
    except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
        raise ValueError(f"{path} cannot be read: {error!r}") from error
    if not 0 < vocab_size <= MAX_VOCAB_SIZE:
        raise ValueError(f"{path}: a vocabulary of {vocab_size} does not fit uint16, which has {MAX_VOCAB_SIZE} values")
    for split, count in counts.items():
        file = folder / f"{split}.bin"
        if not file.is_file():
            raise ValueError(f"{file} is missing; run prepare_openwebtext.py again")
        if file.stat().st_size != count * TOKEN_BYTES:
            raise ValueError(
                f"{file} has {file.stat().st_size} bytes, but {count} tokens have {count * TOKEN_BYTES}: "
                "it is truncated or of another preparation; prepare it again"
            )
    return meta


def _from_folder(folder: Path) -> Tokens:
    meta = read_meta(folder)
    train, val = (np.memmap(folder / f"{split}.bin", dtype="<u2", mode="r") for split in SPLITS)
    return Tokens(train, val, meta["vocab_size"], {"source": str(folder), **meta})


def _from_text(files: list[Path], val_share: float, name: str) -> Tokens:
    contents = [content for content in (f.read_bytes() for f in files) if b"\0" not in content]
    text = b"\n".join(contents)
    if not text:
        raise ValueError(f"{name} holds no text")
    tokens = np.frombuffer(text, dtype=np.uint8)
    split = len(tokens) - round(len(tokens) * val_share)
    about = {"source": name, "files": len(contents), "bytes": len(text), "sha256": hashlib.sha256(text).hexdigest()}
    return Tokens(tokens[:split], tokens[split:], 256, about)
