"""Compiles the GPU kernels for GPUs that are not here and prints what comes out as JSON."""

import json
import re
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from nnunet_cpr.optim.fused import triton_kernels

TYPES = {
    "table": "*i64", "tensors": "i32", "number_of_chunk": "*i32", "lengths": "*i64",
    "marks": "*i32", "sums": "*fp32", "changed": "*i32", "first_chunk": "*i32", "regs": "*fp32", "options": "*fp64",
    "rates": "*fp32", "spreads": "*fp32", "found_inf": "*fp32", "grad_scale": "*fp32", "keep": "*fp32",
}  # fmt: skip
CONSTANTS = {"chunk": triton_kernels.CHUNK, "block": triton_kernels.BLOCK, "guarded": True, "align": 16}
VARIANTS: dict[str, list[dict[str, Any]]] = {
    "read_chunks": [{}],
    "add_chunks": [{}],
    "begin_adam": [{}, {"guarded": False}],
    "adam": [{"scaled": False}, {"scaled": True}, {"scaled": False, "guarded": False}, {"scaled": False, "align": 4}],
    "sgd": [{"scaled": scaled, "nesterov": nesterov} for scaled in (False, True) for nesterov in (False, True)],
}


def compiled(name: str, constants: dict[str, Any], capability: int) -> dict[str, Any]:
    function = getattr(triton_kernels, name)
    constants = {key: value for key, value in (CONSTANTS | constants).items() if key in function.arg_names}
    signature = {name: "constexpr" if name in constants else TYPES[name] for name in function.arg_names}
    aligned = {
        (i,): [["tt.divisibility", 16]] for i, name in enumerate(function.arg_names) if signature[name].startswith("*")
    }
    source = ASTSource(function, signature, constexprs=constants, attrs=aligned)
    result = triton.compile(source, target=GPUTarget("cuda", capability, 32))
    text = result.asm["ptx"]
    return {
        "kernel": name, "capability": capability, "align": constants.get("align"), "binary": len(result.asm["cubin"]),
        "wide_loads": len(re.findall(r"ld\.global[\w.:]*\.v4", text)),
        "wide_stores": len(re.findall(r"st\.global[\w.:]*\.v4", text)),
        "spilled": ".local" in text,
    }  # fmt: skip


if __name__ == "__main__":
    print(
        json.dumps(
            [
                compiled(name, constants, capability)
                for capability in (75, 80, 90)
                for name, variants in VARIANTS.items()
                for constants in variants
            ]
        )
    )
