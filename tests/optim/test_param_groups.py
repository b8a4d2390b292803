"""Which parameters are regularised: by module type, every one in exactly one group."""

import pytest
import timm
import timm.optim
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from torch import nn

from nnunet_cpr.optim import AdamCPR, param_groups, param_table


def regularised(model, **kwargs):
    groups = param_groups(model, **kwargs)
    everything = [p for group in groups for _, p in group["params"]]
    assert len(everything) == len(set(everything)) == len(list(model.parameters()))
    return {name for group in groups if group["regularize"] for name, _ in group["params"]}


class RMSNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(8))


class Tokens(nn.Module):
    """The parameters that names mislead about."""

    def __init__(self):
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, 8))
        self.positions = nn.Parameter(torch.zeros(1, 16, 8))
        self.gamma = nn.Parameter(torch.ones(8, 1, 1))
        self.experts = nn.Parameter(torch.zeros(4, 8, 8))
        self.embed_proj = nn.Linear(8, 8)
        self.head = nn.Linear(8, 1)
        self.norms = nn.ModuleList([nn.LayerNorm((2, 3, 4)), nn.RMSNorm(8), RMSNorm(), nn.GroupNorm(2, 8)])
        self.norms.append(nn.InstanceNorm3d(8, affine=True))
        self.norms.append(nn.BatchNorm1d(8))
        self.words = nn.Embedding(10, 8)
        self.attention = nn.MultiheadAttention(8, 2, add_bias_kv=True)
        self.rnn = nn.LSTM(8, 8)
        self.depthwise = nn.Conv1d(1, 1, 1)


EXPECTED = {
    "experts", "embed_proj.weight", "head.weight", "attention.in_proj_weight", "attention.out_proj.weight",
    "rnn.weight_ih_l0", "rnn.weight_hh_l0", "depthwise.weight",
}  # fmt: skip


def test_types_decide():
    assert regularised(Tokens()) == EXPECTED
    assert regularised(Tokens(), reg_embedding=True) == EXPECTED | {"words.weight"}


@pytest.mark.parametrize(
    "wrap", [lambda m: torch.compile(m), nn.DataParallel, lambda m: nn.DataParallel(torch.compile(m))]
)
def test_wrappers_make_no_difference(wrap):
    model = Tokens()
    assert param_table(wrap(model)) == param_table(model)
    assert regularised(wrap(model)) == EXPECTED


def test_a_compiled_sub_module_keeps_its_names():
    model = Tokens()
    model.head = torch.compile(model.head)
    assert regularised(model) == EXPECTED


def test_exemptions_of_the_model_and_of_a_parameter():
    class Exempt(Tokens):
        def no_weight_decay(self):
            return {"experts", "head.weight"}

    model = Exempt()
    model.embed_proj.weight._no_weight_decay = True
    assert regularised(model) == EXPECTED - {"experts", "head.weight", "embed_proj.weight"}


def test_tied_embedding_counts_once_and_as_an_embedding():
    for first in ("embedding", "output"):
        model = nn.Module()
        parts = {"embedding": nn.Embedding(10, 8), "output": nn.Linear(8, 10, bias=False)}
        for name in sorted(parts, key=lambda name: name != first):
            setattr(model, name, parts[name])
        model.output.weight = model.embedding.weight
        model.hidden = nn.Linear(8, 8, bias=False)
        assert regularised(model) == {"hidden.weight"}


def test_deit_as_timm_does():
    model = timm.create_model("deit_tiny_patch16_224")
    decayed = timm.optim.param_groups_weight_decay(model, 0.1, model.no_weight_decay())[1]["params"]
    names = {name for name, p in model.named_parameters() if any(p is q for q in decayed)}
    assert regularised(model) == names


def test_nnunet_regularises_all_convolutions_and_nothing_else():
    model = PlainConvUNet(
        1, 2, (4, 8), nn.Conv3d, 3, (1, 2), 2, 3, 2, conv_bias=True, norm_op=nn.InstanceNorm3d,
        norm_op_kwargs={"affine": True}, deep_supervision=True,
    )  # fmt: skip
    convolutions = [m.weight for m in model.modules() if isinstance(m, (nn.Conv3d, nn.ConvTranspose3d))]
    groups = param_groups(model)
    assert {p for _, p in groups[0]["params"]} == set(convolutions)


def test_nothing_to_regularise_is_an_error_for_a_model():
    with pytest.raises(ValueError, match="no parameter to regularise"):
        AdamCPR(nn.LayerNorm(8))


def test_the_table_says_why():
    table = param_table(Tokens())
    assert "norms.2.weight" in table and "normalisation: RMSNorm" in table and "vector of RMSNorm" in table
    assert table.splitlines()[-1].startswith(f"{len(EXPECTED)} of ")
