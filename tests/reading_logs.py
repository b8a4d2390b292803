"""Reads what a training has written for TensorBoard and W&B, with the readers of these packages where they have one."""

import json
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BLOCK = 32768


def read_tensorboard(folder: Path) -> dict[str, dict[int, float]]:
    """Return the values of each scalar by step, as TensorBoard shows them. Raises if a step has two values."""
    from tensorboard.backend.event_processing.event_accumulator import SCALARS, EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={SCALARS: 0})  # 0: all
    events.Reload()
    series = {}
    for tag in events.Tags()["scalars"]:
        points = events.Scalars(tag)
        series[tag] = {point.step: point.value for point in points}
        assert len(series[tag]) == len(points), f"{tag} has a step twice"
    return series


def read_wandb(folder: Path) -> list[dict[str, Any]]:
    """Return what each of W&B's runs in a folder has: id, history (values of each key by step), and config.

    A run is one start of a training, in the order of the starts. All of them must have ended.
    """
    files = sorted((folder / "wandb").glob("*run-*/run-*.wandb"), key=lambda path: path.stat().st_mtime_ns)
    return [_read_run(path) for path in files]


def _read_run(path: Path) -> dict[str, Any]:
    run: dict[str, Any] = {"id": path.stem.removeprefix("run-"), "history": {}, "config": {}}
    for record in _ended(path):
        for item in record.history.item:
            name = item.key or "/".join(item.nested_key)
            run["history"].setdefault(name, {})[record.history.step.num] = json.loads(item.value_json)
        for item in [*record.config.update, *record.run.config.update]:
            run["config"][item.key or "/".join(item.nested_key)] = json.loads(item.value_json)
    return run


def _ended(path: Path) -> list[Any]:
    """Return the records of a run when its last one is there; W&B's other process may write it after `finish`."""
    from wandb.proto.wandb_internal_pb2 import Record  # type: ignore[attr-defined]  # protobuf makes it at import

    for _ in range(600):
        records = [Record.FromString(data) for data in _leveldb_records(path.read_bytes()[7:], offset=7)]
        if records and records[-1].HasField("exit"):
            return records
        time.sleep(0.1)
    raise AssertionError(f"{path} has no end")


def _leveldb_records(content: bytes, offset: int) -> Iterator[bytes]:
    """Yield the records of a file in LevelDB's log format: blocks, and in them chunks with a checksum, length and type.

    W&B's own reader is not part of its Python package any more.
    """
    position, record = 0, b""
    while position + 7 <= len(content):
        left = BLOCK - (position + offset) % BLOCK
        if left < 7:  # too few for a chunk's head, and filled up
            position += left
            continue
        _, length, kind = struct.unpack_from("<IHB", content, position)
        record += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            yield record
            record = b""
