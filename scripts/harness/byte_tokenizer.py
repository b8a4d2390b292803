"""A tokenizer whose tokens are bytes, for models that are small enough to be trained here from nothing."""

from typing import Any

END = "<end>"
VOCAB_SIZE = 257
"""256 bytes and END."""


def byte_tokenizer() -> Any:
    """Return a tokenizer of transformers that makes a token of each byte and adds END, with which it also pads."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    end = VOCAB_SIZE - 1
    vocab = {letter: number for number, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))} | {END: end}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(single=f"$A {END}", special_tokens=[(END, end)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, pad_token=END)
