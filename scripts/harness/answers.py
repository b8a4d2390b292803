"""Batches of questions with their answers, as tokens; their loss, and where it shows which answer a model gives."""

from collections.abc import Sequence
from itertools import takewhile
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from harness.questions import Question

UNSCORED = -100
"""PyTorch's number for a token that does not count in a cross entropy."""


class Batch(NamedTuple):
    """Tensors of a batch of questions: tokens, mask and targets (batch, length); the others (batch,)."""

    inputs: Tensor
    mask: Tensor
    targets: Tensor
    """The tokens of the answers, at their own positions; UNSCORED elsewhere."""
    deciding: Tensor
    """The position whose prediction tells the answers apart."""
    right: Tensor
    """The numbers of the right answers."""


class Encoder:
    """Makes tokens of questions.

    Args:
        tokenizer: one of transformers.
        answers: all there are.
        longest: tokens of a prompt; what is too much is cut off at its beginning.

    Raises:
        ValueError: two answers differ only later than in one token, so that one prediction cannot tell them apart.
    """

    def __init__(self, tokenizer: Any, answers: list[str], longest: int) -> None:
        self._tokenizer, self._longest = tokenizer, longest
        first = tokenizer.encode("a")[0]
        self.start = [first] if first == tokenizer.bos_token_id else []
        """The token that a text begins with, if the model was pretrained with one."""
        tokens = [self.tokens(answer) for answer in answers]
        columns = zip(*tokens, strict=False)  # as long as the shortest
        self._shared = sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, columns))
        firsts = [one[self._shared] if len(one) > self._shared else -1 for one in tokens]
        if len(set(firsts)) < len(answers) or -1 in firsts:
            raise ValueError("the answers begin with the same token, so that they cannot be told apart by it")
        self.choices = firsts
        """The token of each answer that tells it from all others."""
        self._answers = answers

    def tokens(self, text: str) -> list[int]:
        """Return the tokens of a text, without any that mark its beginning or end."""
        found: list[int] = self._tokenizer.encode(text, add_special_tokens=False)
        return found

    def batch(self, questions: Sequence[Question], device: torch.device) -> Batch:
        """Return the questions with their answers, padded at the end."""
        prompts = [self.start + self.tokens(question.prompt)[-self._longest :] for question in questions]
        answers = [self.tokens(question.answer) for question in questions]
        length = max(len(p) + len(a) for p, a in zip(prompts, answers, strict=True))
        inputs = torch.zeros(len(questions), length, dtype=torch.int64)
        mask, targets = torch.zeros_like(inputs), torch.full_like(inputs, UNSCORED)
        for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
            end = len(prompt) + len(answer)
            inputs[row, :end] = torch.tensor(prompt + answer)
            mask[row, :end] = 1
            targets[row, len(prompt) : end] = torch.tensor(answer)
        deciding = torch.tensor([len(prompt) + self._shared - 1 for prompt in prompts])
        right = torch.tensor([self._answers.index(question.answer) for question in questions])
        return Batch(*(tensor.to(device) for tensor in (inputs, mask, targets, deciding, right)))


def answer_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the mean cross entropy of the answers' tokens; logits (batch, length, vocabulary)."""
    return cross_entropy(logits[:, :-1].flatten(0, 1).float(), targets[:, 1:].flatten(), ignore_index=UNSCORED)
