"""The GPT2 of scripts/train_gpt2.py against hand arithmetic and plain formulas."""

import math

import pytest
import torch
import torch._dynamo  # which torch 2.8 cannot import inside `with torch.device`
from harness.optimizers import build_optimizer
from harness.parsing import make
from train_gpt2 import GPT2Settings, build_model, sequence_loss


def settings(**given):
    return make(GPT2Settings, given)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return build_model(settings(), 256).eval()


@pytest.mark.parametrize(
    ("size", "parameters"),
    [
        # vocabulary 50257 x width (tied, no learned positions); a block has 12 width^2 + 13 width: two norms (4 w),
        # query, key, value (3 w^2 + 3 w), their output (w^2 + w), MLP (8 w^2 + 5 w); the last norm has 2 width
        ("s", 50257 * 768 + 12 * (12 * 768**2 + 13 * 768) + 2 * 768),  # 123,653,376
        ("m", 50257 * 1024 + 24 * (12 * 1024**2 + 13 * 1024) + 2 * 1024),
        ("l", 50257 * 1280 + 36 * (12 * 1280**2 + 13 * 1280) + 2 * 1280),
        ("xl", 50257 * 1600 + 36 * (12 * 1600**2 + 13 * 1600) + 2 * 1600),
    ],
)
def test_parameter_counts_by_hand(size, parameters):
    with torch.device("meta"):
        model = build_model(settings(size=size, context=1024), 50257)
        model.tie_weights()  # transformers 5.0 does not tie what has no memory
    assert sum(p.numel() for p in model.parameters()) == parameters


def test_no_token_sees_a_later_one(model):
    tokens = torch.randint(256, (1, 40))
    changed = tokens.clone()
    changed[0, 25:] = (changed[0, 25:] + 1) % 256
    before, after = model(input_ids=tokens).logits, model(input_ids=changed).logits
    assert torch.equal(before[:, :25], after[:, :25])
    assert not torch.allclose(before[:, 25:], after[:, 25:])


def test_the_attention_is_a_plain_softmax_with_rotary_positions_on_half_of_each_head(model):
    attention = model.gpt_neox.layers[0].attention
    heads, size = 4, 32
    x = torch.randn(1, 9, heads * size)
    query, key, value = (
        attention.query_key_value(x).view(9, heads, 3, size).unbind(2)  # one row of the weight after another, by head
    )

    def rotated(vectors):  # pairs (i, i + 8) of the first 16 numbers turn by position * 10000 ** (-i / 8)
        turned = vectors.clone()
        for position in range(9):
            for i in range(8):
                angle = position * 10000 ** (-i / 8)
                a, b = vectors[position, :, i], vectors[position, :, i + 8]
                turned[position, :, i] = a * math.cos(angle) - b * math.sin(angle)
                turned[position, :, i + 8] = b * math.cos(angle) + a * math.sin(angle)
        return turned

    query, key = rotated(query), rotated(key)
    expected = torch.zeros(9, heads, size)
    for t in range(9):
        for h in range(heads):
            scores = (key[: t + 1, h] @ query[t, h] / math.sqrt(size)).softmax(0)
            expected[t, h] = scores @ value[: t + 1, h]
    positions = model.gpt_neox.rotary_emb(x, torch.arange(9)[None])
    actual, _ = attention(x, attention_mask=None, position_embeddings=positions)
    torch.testing.assert_close(actual[0], attention.dense(expected.flatten(1)), rtol=1e-4, atol=1e-6)


def test_a_block_is_sequential_and_normalizes_first(model):
    block, x = model.gpt_neox.layers[0], torch.randn(1, 5, 128)
    positions = model.gpt_neox.rotary_emb(x, torch.arange(5)[None])
    middle = x + block.attention(block.input_layernorm(x), None, position_embeddings=positions)[0]
    inner = block.mlp.dense_h_to_4h(block.post_attention_layernorm(middle))
    gelu = inner * 0.5 * (1 + torch.erf(inner / math.sqrt(2)))
    out = block(x, attention_mask=None, position_embeddings=positions)
    out = out[0] if isinstance(out, tuple) else out  # as in transformers 5.0
    torch.testing.assert_close(out, middle + block.mlp.dense_4h_to_h(gelu))


def test_weights_start_with_standard_deviation_002_and_biases_with_zero(model):
    for name, param in model.named_parameters():
        if name.endswith("bias"):
            assert not param.any()
        elif "norm" in name:
            assert (param == 1).all()
        else:
            assert param.std().item() == pytest.approx(0.02, rel=0.05), name
    assert model.get_output_embeddings().weight is model.gpt_neox.embed_in.weight


def test_dropout_acts_on_embeddings_attention_and_residuals():
    model = build_model(settings(dropout=0.1), 256)
    rates = [m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)]
    assert rates == [0.1] * (1 + 2 * 4)  # after the embedding, and after attention and MLP of four blocks
    assert all(block.attention.attention_dropout == 0.1 for block in model.gpt_neox.layers)


def test_the_untrained_loss_is_that_of_guessing(model):
    assert sequence_loss(model, torch.randint(256, (4, 65))).item() == pytest.approx(math.log(256), abs=0.05)


def test_the_loss_is_that_of_the_next_token(model):
    sequences = torch.randint(256, (2, 7))
    logits = model(input_ids=sequences).logits
    expected = [
        -logits[b, t].log_softmax(0)[sequences[b, t + 1]].item() for b in range(2) for t in range(6)
    ]  # fmt: skip
    assert sequence_loss(model, sequences).item() == pytest.approx(sum(expected) / 12, rel=1e-5)


@pytest.mark.parametrize("reg_embedding", [False, True])
def test_weight_decay_and_cpr_act_on_the_same_tensors(model, reg_embedding):
    chosen = {}
    for name in ("adamw", "adamcpr"):
        optimizer = build_optimizer(model, settings(optimizer=name, reg_embedding=reg_embedding))
        chosen[name] = {
            parameter
            for group in optimizer.param_groups
            for parameter in group["param_names"]
            if group.get("weight_decay") == 0.1 or group.get("regularize") is True
        }
    matrices = {n for n, p in model.named_parameters() if p.ndim == 2 and (reg_embedding or "embed" not in n)}
    assert chosen["adamw"] == chosen["adamcpr"] == matrices


def test_adam_decays_nothing(model):
    optimizer = build_optimizer(model, settings(optimizer="adam"))
    assert type(optimizer) is torch.optim.Adam
    assert all(group["weight_decay"] == 0 and group["betas"] == (0.9, 0.99) for group in optimizer.param_groups)
