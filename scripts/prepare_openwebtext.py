"""Tokenize OpenWebText for train_gpt2.py: one file of uint16 tokens a split, checked, resumed where it was broken off.

Downloads the documents (Hugging Face datasets, 54 GB on disk) and the GPT2 tokenizer, and writes train.bin (18 GB),
val.bin and meta.json. Run the same command again to continue:

    python scripts/prepare_openwebtext.py --out openwebtext

Both sources may be local: --dataset with a folder of datasets.save_to_disk, --tokenizer with a tokenizer.json.
"""

import argparse
import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from harness.command import run_script_command
from harness.tokens import MAX_VOCAB_SIZE, META_FILE, SPLITS, TOKEN_BYTES, read_meta
from tqdm import tqdm

from nnunet_cpr.exclusive import exclusive
from nnunet_cpr.files import read_json, user_path, write_json

if TYPE_CHECKING:
    from tokenizers import Tokenizer

STATE_FILE = "state.json"
END_OF_TEXT = "<|endoftext|>"


def main(argv: list[str] | None = None) -> int:
    """Prepare, and return the exit code; a user's mistake leaves as one line on stderr with exit code 2."""
    return run_script_command(
        "prepare_openwebtext.py", lambda: _prepare(argv), "interrupted; the same command continues"
    )


def _prepare(argv: list[str] | None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="openwebtext", help="folder to write (default: openwebtext)")
    parser.add_argument(
        "--dataset", default="Skylion007/openwebtext", help="name on the Hub, or a saved dataset's folder"
    )
    parser.add_argument("--tokenizer", default="gpt2", help="name on the Hub, or a tokenizer.json")
    parser.add_argument(
        "--val-share", type=float, default=0.0005, help="of the documents, for validation (paper: 0.0005)"
    )
    parser.add_argument("--seed", type=int, default=1234, help="of the choice of the validation documents")
    parser.add_argument("--batch", type=int, default=2000, help="documents between two states to resume from")
    args = parser.parse_args(argv)
    if args.batch < 1:
        raise ValueError(f"--batch is {args.batch}, but must be at least 1")
    out, dataset, tokenizer = user_path(args.out), str(user_path(args.dataset)), str(user_path(args.tokenizer))
    if _is_complete(out):
        return
    with exclusive(out):
        if _is_complete(out):  # another process had the folder until now
            return
        about = {"dataset": dataset, "tokenizer": tokenizer, "val_share": args.val_share, "seed": args.seed}
        print(describe(prepare(load_documents(dataset), load_tokenizer(tokenizer), out, about, args.batch)))


def _is_complete(out: Path) -> bool:
    if not (out / META_FILE).exists():
        return False
    print(f"{out} is complete already: {describe(read_meta(out))}")
    return True


def load_documents(source: str) -> Sequence[str]:
    """Return the texts of a dataset with a column `text`, read from disk as needed."""
    import datasets

    try:
        local = user_path(source)
        dataset = (
            datasets.load_from_disk(str(local)) if local.is_dir() else datasets.load_dataset(source, split="train")
        )
    except Exception as error:  # datasets raises what its many back ends raise
        raise ValueError(f"the dataset {source} cannot be loaded: {error}") from error
    if isinstance(dataset, datasets.DatasetDict):
        dataset = dataset["train"]
    if "text" not in dataset.column_names:
        raise ValueError(f"the dataset {source} has no column text, only {', '.join(dataset.column_names)}")
    texts: Sequence[str] = dataset["text"]
    return texts


def load_tokenizer(source: str) -> "Tokenizer":
    """Return the tokenizer of that name or file."""
    from tokenizers import Tokenizer

    try:
        local = user_path(source)
        return Tokenizer.from_file(str(local)) if local.is_file() else Tokenizer.from_pretrained(source)
    except Exception as error:  # tokenizers raises plain Exception
        raise ValueError(f"the tokenizer {source} cannot be loaded: {error}") from error


def validation_documents(count: int, share: float, seed: int) -> np.ndarray:
    """Return which of `count` documents are for validation: `share` of them, at least one, drawn with `seed`."""
    if not 0 < share < 1 or count < 2:
        raise ValueError(f"{count} documents cannot be divided with a validation share of {share}")
    chosen = np.zeros(count, dtype=bool)
    chosen[np.random.default_rng(seed).choice(count, max(1, round(count * share)), replace=False)] = True
    return chosen


def prepare(
    documents: Sequence[str], tokenizer: "Tokenizer", out: Path, about: dict[str, Any], batch: int
) -> dict[str, Any]:
    """Write the token files and return what meta.json says. `about` names the sources and holds val_share and seed.

    Documents are tokenized in their order, each followed by the end-of-text token. What is written so far is in
    SPLIT.bin.part; state.json says how much of it counts, and is replaced whole after every batch. The files get their
    names, and meta.json is written, once all is done and checked.

    Raises:
        ValueError: the vocabulary does not fit uint16 or has no end-of-text token; what is there is of other settings
            or was changed; a written token is outside the vocabulary.
    """
    vocab_size, end = tokenizer.get_vocab_size(), tokenizer.token_to_id(END_OF_TEXT)
    if vocab_size > MAX_VOCAB_SIZE:
        raise ValueError(f"a vocabulary of {vocab_size} does not fit uint16, which has {MAX_VOCAB_SIZE} values")
    if end is None:
        raise ValueError(f"the tokenizer has no token {END_OF_TEXT}, which is to part the documents")
    about = {**about, "documents": len(documents), "vocab_size": vocab_size}
    validation = validation_documents(len(documents), about["val_share"], about["seed"])
    out.mkdir(parents=True, exist_ok=True)
    parts = {split: out / f"{split}.bin.part" for split in SPLITS}
    done, tokens = resume(out, parts, about)
    with tqdm(total=len(documents), initial=done, disable=None, unit=" documents") as bar:
        while done < len(documents):
            texts = list(documents[done : done + batch])
            encoded = tokenizer.encode_batch(texts, add_special_tokens=False)
            for split in SPLITS:
                wanted = validation[done : done + len(texts)] == (split == "val")
                ids = [i for text, mine in zip(encoded, wanted, strict=True) if mine for i in (*text.ids, end)]
                with parts[split].open("ab") as file:
                    file.write(np.array(ids, dtype="<u2").tobytes())
                tokens[split] += len(ids)
            done += len(texts)
            write_json(out / STATE_FILE, {"about": about, "documents_done": done, "tokens": tokens})
            bar.update(len(texts))
    checksums = {split: check(parts[split], tokens[split], vocab_size) for split in SPLITS}
    for split in SPLITS:
        parts[split].replace(out / f"{split}.bin")
    meta = {**about, "dtype": "uint16, little endian", "tokens": tokens, "sha256": checksums}
    write_json(out / META_FILE, meta)
    (out / STATE_FILE).unlink()
    return read_meta(out)


def resume(out: Path, parts: dict[str, Path], about: dict[str, Any]) -> tuple[int, dict[str, int]]:
    """Return the documents and tokens done; cut off what a broken-off batch wrote beyond them."""
    state_file = out / STATE_FILE
    if not state_file.exists():
        for part in parts.values():
            part.write_bytes(b"")
        return 0, dict.fromkeys(SPLITS, 0)
    try:
        state = read_json(state_file)
        before, done = dict(state["about"]), int(state["documents_done"])
        tokens = {split: int(state["tokens"][split]) for split in SPLITS}
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise ValueError(f"{state_file} cannot be read; remove {out} to start again: {error!r}") from error
    for name, value in about.items():
        if before.get(name) != value:
            raise ValueError(
                f"{out} was begun with {name} {before.get(name)}, not {value}: use the same, or another --out"
            )
    for split, part in parts.items():
        if not part.exists() and (finished := out / f"{split}.bin").exists():
            finished.replace(part)  # broken off between the renaming and meta.json
        size = part.stat().st_size if part.exists() else 0
        if size < tokens[split] * TOKEN_BYTES:
            raise ValueError(f"{part} is shorter than {state_file} says: it was changed; remove {out} to start again")
        with part.open("r+b") as file:
            file.truncate(tokens[split] * TOKEN_BYTES)
    return done, tokens


def check(path: Path, count: int, vocab_size: int) -> str:
    """Read a token file back and return its SHA-256. Raises ValueError for a wrong size or a token out of range."""
    digest, read = hashlib.sha256(), 0
    with path.open("rb") as file:
        while block := file.read(2**26):
            digest.update(block)
            tokens = np.frombuffer(block, dtype="<u2")
            read += len(tokens)
            if len(tokens) and tokens.max() >= vocab_size:
                raise ValueError(f"{path} holds the token {tokens.max()}, but the vocabulary ends at {vocab_size - 1}")
    if read != count:
        raise ValueError(f"{path} holds {read} tokens, but {count} were written")
    return digest.hexdigest()


def describe(meta: dict[str, Any]) -> str:
    """One line about finished files."""
    train, val = (meta["tokens"][split] for split in SPLITS)
    return f"{train:,} training and {val:,} validation tokens, vocabulary {meta['vocab_size']}"


if __name__ == "__main__":
    sys.exit(main())
