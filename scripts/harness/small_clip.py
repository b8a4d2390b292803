"""A CLIP that is small enough to be pretrained in a minute, on images with captions made from templates."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from harness.batches import step_batch
from harness.byte_tokenizer import VOCAB_SIZE, byte_tokenizer

WIDTH, LAYERS, HEADS, PATCH, LONGEST_CAPTION = 64, 2, 4, 4, 64
STEPS, BATCH, PEAK_LR, WARMUP = 300, 64, 1e-3, 30


def pretrain(
    folder: Path, images: Sequence[tuple[Tensor, int]], captions: Sequence[Sequence[str]], device: torch.device
) -> None:
    """Train a small CLIP from nothing and save it with its tokenizer as transformers does.

    Args:
        folder: of the result, which must not exist.
        images: pairs of an image (3, size, size) and the number of its class.
        captions: the texts for each class, of which each image gets one at random.
        device: where to train.

    It has the same seed in every run, as a pretrained model is the same for everybody.
    """
    from transformers import CLIPModel

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = CLIPModel(_config(images[0][0].shape[-1]))
        model.to(device)  # type: ignore[arg-type]  # transformers' decorator hides `self` from mypy
        tokenizer = byte_tokenizer()
        optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_LR)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_LR, total_steps=STEPS, pct_start=WARMUP / STEPS)
        draws = torch.Generator().manual_seed(0)
        for step in range(STEPS):
            batch = [images[i] for i in step_batch(len(images), BATCH, 0, step, drop_last=True)]
            of_batch = [captions[label] for _, label in batch]
            texts = [some[int(torch.randint(len(some), (), generator=draws))] for some in of_batch]
            tokens = tokenizer(texts, padding=True, return_tensors="pt").to(device)
            output = model(pixel_values=torch.stack([image for image, _ in batch]).to(device), **tokens)
            labels = torch.tensor([label for _, label in batch], device=device)
            loss = contrastive_loss(output.logits_per_image, labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def contrastive_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return CLIP's loss, where the captions of all images of one class are right for each of them.

    Args:
        logits: similarities (images, captions), scaled.
        labels: the classes of the images and, in the same order, of the captions.
    """
    right = (labels[:, None] == labels).float()
    right = right / right.sum(dim=1, keepdim=True)
    return (cross_entropy(logits, right) + cross_entropy(logits.T, right)) / 2


@torch.no_grad()
def class_embeddings(clip: Any, tokenizer: Any, captions: Sequence[Sequence[str]]) -> Tensor:
    """Return each class's direction in CLIP's space, the mean of its captions': (classes, dimension), of norm 1."""
    device, longest = clip.text_projection.weight.device, clip.config.text_config.max_position_embeddings
    found = []
    for texts in captions:
        tokens = tokenizer(list(texts), padding=True, truncation=True, max_length=longest, return_tensors="pt")
        tokens = tokens.to(device)
        embeddings = normalize(clip.get_text_features(**tokens).pooler_output, dim=-1)
        found.append(normalize(embeddings.mean(dim=0), dim=-1))
    return torch.stack(found)


def _config(image_size: int) -> Any:
    from transformers import CLIPConfig

    both = {
        "hidden_size": WIDTH, "intermediate_size": 4 * WIDTH, "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS, "projection_dim": WIDTH,
    }  # fmt: skip
    end = VOCAB_SIZE - 1
    tokens = {"vocab_size": VOCAB_SIZE, "bos_token_id": end, "eos_token_id": end, "pad_token_id": end}
    return CLIPConfig(
        text_config={**both, **tokens, "max_position_embeddings": LONGEST_CAPTION},
        vision_config={**both, "image_size": image_size, "patch_size": PATCH},
        projection_dim=WIDTH,
    )
