"""Several gloo processes on the CPU: each runs the same checks, and the test process gets what they say."""

import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

Checks = Mapping[Any, tuple[Any, ...]]


def on_ranks(size: int, checks: Checks, folder: Path) -> list[dict[Any, Any]]:
    """Run `checks`, {key: (function, *arguments)}, on `size` processes.

    Returns for each rank {key: result}; for a check that raised, a line of what it raised.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(_rank, (size, port, checks, str(folder)), nprocs=size)
    return [torch.load(f"{folder}/{size}.{rank}", weights_only=False) for rank in range(size)]


def _rank(rank: int, size: int, port: int, checks: Checks, folder: str) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=size)
    results: dict[Any, Any] = {}
    for key, (check, *args) in checks.items():
        try:
            results[key] = check(*args)
        except Exception as e:
            results[key] = f"{type(e).__name__}: {e}"
    dist.destroy_process_group()
    torch.save(results, f"{folder}/{size}.{rank}")
