"""What torch finds on this machine, asked in a process of its own: importing torch takes seconds and threads."""

import json
import subprocess
import sys
from dataclasses import dataclass

_QUESTION = """
import json, torch
capabilities = getattr(torch.cpu, "get_capabilities", dict)()
print(json.dumps({
    "cuda": torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
    "mps": torch.backends.mps.is_available(),
    "bf16_cpu": bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16")),
}))
"""


@dataclass(frozen=True)
class Machine:
    """The devices nnU-Net could train on."""

    cuda: str | None
    mps: bool
    bf16_cpu: bool

    def choose(self, wanted: str | None) -> str:
        """Return the device to use: the wanted one, or CUDA if there is one, else the CPU."""
        if wanted == "cuda" and self.cuda is None:
            raise ValueError(
                "--device cuda: torch finds no CUDA device here; use --device cpu, or install torch for CUDA"
            )
        if wanted == "mps" and not self.mps:
            raise ValueError("--device mps: torch finds no Apple GPU here; use --device cpu")
        return wanted or ("cuda" if self.cuda else "cpu")


def probe() -> Machine:
    """Ask torch in a subprocess."""
    answer = subprocess.run([sys.executable, "-c", _QUESTION], capture_output=True, text=True, check=False)
    if answer.returncode:
        raise ValueError(f"torch cannot be imported: {answer.stderr.strip().splitlines()[-1]}; reinstall it")
    return Machine(**json.loads(answer.stdout.splitlines()[-1]))
