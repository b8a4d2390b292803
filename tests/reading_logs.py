"""Reads what a training has written for TensorBoard and W&B, with these packages' own readers as far as they have one."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path

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


def read_wandb(folder: Path) -> list[dict]:
    """Return what each of W&B's runs in a folder has: id, history (values of each key by step), summary, config.

    A run is one start of a training, in the order of the starts.
    """
    from wandb.proto import wandb_internal_pb2

    runs = []
    for path in sorted((folder / "wandb").glob("*run-*/run-*.wandb"), key=lambda path: path.stat().st_mtime_ns):
        run = {"id": path.stem.removeprefix("run-"), "history": {}, "summary": {}, "config": {}}
        for data in _leveldb_records(path.read_bytes()[7:], offset=7):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            for item in record.history.item:
                key = item.key or "/".join(item.nested_key)
                run["history"].setdefault(key, {})[record.history.step.num] = json.loads(item.value_json)
            for name in ("summary", "config"):
                for item in getattr(record, name).update:
                    run[name][item.key or "/".join(item.nested_key)] = json.loads(item.value_json)
        runs.append(run)
    return runs


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
