"""param_groups and param_table on real architectures, wrappers and awkward modules."""

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.utils import prune

from nnunet_cpr.optim import AdamCPR, param_groups, param_table


def decided(model, **kwargs):
    """{name: regularized}, after checking that every parameter is in exactly one group."""
    groups = param_groups(model, **kwargs)
    assert len(groups) in (1, 2) and all(set(g) == {"params", "regularize"} and g["params"] for g in groups)
    members = [p for g in groups for _, p in g["params"]]
    assert len({id(p) for p in members}) == len(members)
    assert {id(p) for p in members} == {id(p) for p in model.parameters()}
    return {name: g["regularize"] for g in groups for name, _ in g["params"]}


def regularized(model, **kwargs):
    return {name for name, yes in decided(model, **kwargs).items() if yes}


def by_type(model, types):
    """Names of the weights of these module types: the expectation, found in another way."""
    return {f"{path}.weight" for path, m in model.named_modules() if isinstance(m, types)}


class Named(nn.Module):
    """One module under one name."""

    def __init__(self, **modules):
        super().__init__()
        for name, module in modules.items():
            setattr(self, name, module)


class TestArchitectures:
    def test_a_cnn_with_norms(self):
        model = nn.Sequential(
            nn.Conv2d(3, 8, 3),
            nn.BatchNorm2d(8),
            nn.PReLU(8),
            nn.Conv2d(8, 8, 3, groups=8),
            nn.GroupNorm(2, 8),
            nn.Conv2d(8, 1, 1),
            nn.InstanceNorm2d(1, affine=True),
            nn.ConvTranspose2d(1, 4, 2),
            nn.LayerNorm([4, 5, 5]),
            nn.Flatten(),
            nn.Linear(100, 1),
        )
        assert regularized(model) == by_type(model, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear))

    def test_transformer_encoder(self):
        model = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32), 2, nn.LayerNorm(16), False)
        expected = by_type(model, nn.Linear) | {f"layers.{i}.self_attn.in_proj_weight" for i in range(2)}
        assert regularized(model) == expected

    def test_separate_projections_of_attention(self):
        model = Named(a=nn.MultiheadAttention(16, 2, kdim=8, vdim=4, add_bias_kv=True))
        assert regularized(model) == {"a.q_proj_weight", "a.k_proj_weight", "a.v_proj_weight", "a.out_proj.weight"}

    @pytest.mark.parametrize("cls", [nn.LSTM, nn.GRU, nn.RNN])
    def test_recurrent(self, cls):
        model = Named(r=cls(4, 6, num_layers=2))
        assert regularized(model) == {f"r.weight_{k}_l{i}" for k in ("ih", "hh") for i in range(2)}

    def test_deit(self):
        timm = pytest.importorskip("timm")
        model = timm.create_model("deit_tiny_patch16_224", pretrained=False)
        found = decided(model)
        assert {n for n, yes in found.items() if yes} == by_type(model, (nn.Linear, nn.Conv2d))
        assert not found["cls_token"] and not found["pos_embed"]

    def test_tokens_are_exempt_without_the_models_help(self):
        timm = pytest.importorskip("timm")
        model = timm.create_model("deit_tiny_distilled_patch16_224", pretrained=False, init_values=0.1)
        type(model).no_weight_decay, kept = lambda self: set(), type(model).no_weight_decay
        try:
            assert regularized(model) == by_type(model, (nn.Linear, nn.Conv2d))
        finally:
            type(model).no_weight_decay = kept

    def test_convnext_with_layer_scale(self):
        timm = pytest.importorskip("timm")
        model = timm.create_model("convnext_atto", pretrained=False, ls_init_value=1e-6)
        found = decided(model)
        scales = [n for n in found if n.endswith("gamma")]
        assert scales and not any(found[n] for n in scales)
        assert {n for n, yes in found.items() if yes} == by_type(model, (nn.Linear, nn.Conv2d))

    def test_swin(self):
        timm = pytest.importorskip("timm")
        model = timm.create_model("swin_tiny_patch4_window7_224", pretrained=False)
        assert regularized(model) == by_type(model, (nn.Linear, nn.Conv2d))

    def test_nnunets_unet(self):
        unet = pytest.importorskip("dynamic_network_architectures.architectures.unet")
        model = unet.PlainConvUNet(
            input_channels=2,
            n_stages=3,
            features_per_stage=(4, 8, 8),
            conv_op=nn.Conv3d,
            kernel_sizes=3,
            strides=(1, 2, 2),
            n_conv_per_stage=2,
            num_classes=3,
            n_conv_per_stage_decoder=2,
            conv_bias=True,
            norm_op=nn.InstanceNorm3d,
            norm_op_kwargs={"affine": True},
            nonlin=nn.LeakyReLU,
            deep_supervision=True,
        )
        found = decided(model)  # the decoder holds the encoder, so every encoder weight has two names
        expected = {id(m.weight) for m in model.modules() if isinstance(m, (nn.Conv3d, nn.ConvTranspose3d))}
        by_name = dict(model.named_parameters())
        assert {id(by_name[n]) for n, yes in found.items() if yes} == expected
        assert len(found) == len(list(model.parameters()))

    @pytest.mark.parametrize("head_first", [False, True])
    def test_gpt_with_a_tied_head(self, head_first):
        emb, head = nn.Embedding(50, 16), nn.Linear(16, 50, bias=False)
        head.weight = emb.weight
        pair = {"head": head, "wte": emb} if head_first else {"wte": emb, "head": head}
        model = Named(wpe=nn.Embedding(8, 16), **pair, block=nn.Linear(16, 16), norm=nn.LayerNorm(16))
        assert regularized(model) == {"block.weight"}
        with_embeddings = regularized(model, reg_embedding=True)
        assert len(with_embeddings) == 3
        assert {"block.weight", "wpe.weight"} < with_embeddings


class TestTypesNotNames:
    def test_a_linear_called_embed_is_a_linear(self):
        model = Named(embed_proj=nn.Linear(4, 4), norm_head=nn.Linear(4, 1), pos_embedding=nn.Linear(1, 4))
        assert regularized(model) == {"embed_proj.weight", "norm_head.weight", "pos_embedding.weight"}

    def test_layers_called_as_something_else(self):
        model = Named(weight_proj=nn.LayerNorm(4), linear=nn.Embedding(4, 4), conv=nn.BatchNorm1d(4), x=nn.Linear(2, 2))
        assert regularized(model) == {"x.weight"}

    @pytest.mark.parametrize(
        "module",
        [
            nn.Linear(7, 1),
            nn.Linear(1, 7),
            nn.Linear(1, 1),
            nn.Conv1d(1, 1, 1),
            nn.Conv1d(1, 1, 3),
            nn.Conv2d(1, 8, 1),
            nn.Conv3d(8, 1, 1),
            nn.Conv3d(1, 4, 3),
            nn.Conv2d(8, 8, 1, groups=8),
            nn.ConvTranspose3d(1, 3, 2),
            nn.Bilinear(2, 3, 1),
        ],
        ids=str,
    )
    def test_weights_of_any_shape(self, module):
        assert regularized(Named(m=module)) == {"m.weight"}

    @pytest.mark.parametrize(
        "module",
        [
            nn.LayerNorm(4),
            nn.LayerNorm([3, 4, 5]),
            nn.RMSNorm(4),
            nn.RMSNorm([3, 4]),
            nn.GroupNorm(2, 4),
            nn.BatchNorm3d(4),
            nn.SyncBatchNorm(4),
            nn.InstanceNorm3d(4, affine=True),
            nn.Embedding(5, 4),
            nn.EmbeddingBag(5, 4),
            nn.PReLU(4),
        ],
        ids=str,
    )
    def test_never_regularized(self, module):
        assert regularized(Named(m=module, w=nn.Linear(2, 2))) == {"w.weight"}

    def test_subclasses_count_as_their_base(self):
        class MyLinear(nn.Linear):
            pass

        class MyNorm(nn.LayerNorm):
            pass

        class MyEmbedding(nn.Embedding):
            pass

        assert regularized(Named(a=MyLinear(3, 1), b=MyNorm([3, 4]), c=MyEmbedding(3, 4))) == {"a.weight"}

    @pytest.mark.parametrize(
        "shape, yes",
        [
            ((4,), False),
            ((1, 1, 8), False),
            ((8, 1, 1), False),
            ((1, 8, 1, 1), False),
            ((1, 16, 8), False),
            ((), False),
            ((8, 8), True),
            ((4, 8, 8), True),
            ((8, 4, 3, 3), True),
        ],
    )
    def test_parameters_of_unknown_modules(self, shape, yes):
        model = Named(w=nn.Linear(2, 2))
        model.extra = nn.Parameter(torch.randn(shape))
        assert decided(model)["extra"] is yes

    def test_parameter_lists(self):
        model = nn.ParameterList([nn.Parameter(torch.ones(3, 3)), nn.Parameter(torch.ones(3))])
        assert regularized(Named(p=model)) == {"p.0"}

    @pytest.mark.parametrize(
        "layer", [nn.Linear(6, 4), nn.Linear(6, 1), nn.Conv2d(3, 4, 3), nn.Conv2d(3, 1, 3)], ids=str
    )
    def test_parametrized_layers_are_still_layers(self, layer):
        """spectral_norm moves the weight to `parametrizations.weight.original`."""
        model = Named(m=nn.utils.parametrizations.spectral_norm(layer), w=nn.Linear(2, 2))
        assert regularized(model) == {"m.parametrizations.weight.original", "w.weight"}


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_the_magnitudes_of_weight_norm_are_vectors():
    linear = nn.utils.weight_norm(nn.Linear(4, 3))
    decided = {name: group["regularize"] for group in param_groups(linear) for name, _ in group["params"]}
    assert decided == {"weight_v": True, "weight_g": False, "bias": False}


PARTS = [
    ("weight", lambda: nn.Linear(4, 3)),
    ("weight", lambda: nn.Linear(4, 1)),
    ("weight", lambda: nn.Linear(1, 4)),
    ("weight", lambda: nn.Bilinear(2, 3, 1)),
    ("weight", lambda: nn.Conv1d(8, 1, 7)),
    ("weight", lambda: nn.Conv2d(4, 8, 3)),
    ("weight", lambda: nn.ConvTranspose3d(2, 3, 2)),
    ("weight", lambda: nn.Embedding(10, 4)),
    ("weight", lambda: nn.EmbeddingBag(10, 4)),
    ("weight_hh_l0", lambda: nn.LSTM(4, 5)),
    ("weight_ih", lambda: nn.GRUCell(4, 5)),
    ("in_proj_weight", lambda: nn.MultiheadAttention(4, 2)),
    ("weight", lambda: nn.LayerNorm([3, 4])),
    ("bias", lambda: nn.Linear(4, 3)),
]
parametrized = nn.utils.parametrizations


class Sum(nn.Module):
    """A parametrization with two parts, of no kind that torch knows."""

    def forward(self, a, b):
        return a + b

    def right_inverse(self, whole):
        return whole / 2, whole / 2


def in_two_parts(module, name):
    nn.utils.parametrize.register_parametrization(module, name, Sum())
    return module


class Adapter(nn.Module):
    """A parametrization with weights of its own, as LoRA is often written."""

    def __init__(self, rows, columns):
        super().__init__()
        self.a, self.b, self.scale = (nn.Parameter(torch.ones(s)) for s in ((rows, 1), (1, columns), (1,)))

    def forward(self, whole):
        return whole + self.scale * (self.a @ self.b).reshape(whole.shape)


class LowRank(nn.Module):
    """A parametrization with parts of several shapes: left and right vectors, and singular values."""

    def forward(self, u, s, v):
        return u @ torch.diag(s) @ v

    def right_inverse(self, whole):
        return torch.linalg.svd(whole, full_matrices=False)


@pytest.mark.filterwarnings("ignore::FutureWarning")
class TestParametrizedWeights:
    """What stands for a weight is treated as the weight would be."""

    def plain(self, name, make, **kwargs):
        return f"m.{name}" in regularized(Named(m=make(), w=nn.Linear(2, 2)), **kwargs)

    def parts(self, module, **kwargs):
        found = decided(Named(m=module, w=nn.Linear(2, 2)), **kwargs)
        return {key.split(".")[-1]: yes for key, yes in found.items() if "original" in key or key[-2:] in ("_g", "_v")}

    @pytest.mark.parametrize("kwargs", [{}, {"reg_embedding": True}])
    @pytest.mark.parametrize("name, make", PARTS, ids=lambda x: x if isinstance(x, str) else str(x()))
    def test_the_direction_of_weight_norm(self, name, make, kwargs):
        expected = self.plain(name, make, **kwargs)
        if name != "bias":  # torch cannot take the norm of its rows
            assert self.parts(parametrized.weight_norm(make(), name), **kwargs) == {
                "original0": False,
                "original1": expected,
            }
            old = self.parts(nn.utils.weight_norm(make(), name), **kwargs)
            assert old == {f"{name}_g": False, f"{name}_v": expected}

    @pytest.mark.parametrize("name, make", PARTS, ids=lambda x: x if isinstance(x, str) else str(x()))
    def test_the_parts_of_any_other(self, name, make):
        expected = self.plain(name, make)
        assert self.parts(in_two_parts(make(), name)) == {"original0": expected, "original1": expected}

    @pytest.mark.parametrize("wrap", [parametrized.spectral_norm, parametrized.orthogonal])
    @pytest.mark.parametrize("name, make", PARTS[:5] + PARTS[7:10], ids=lambda x: x if isinstance(x, str) else str(x()))
    def test_the_one_part_of_spectral_norm_and_orthogonal(self, wrap, name, make):
        assert self.parts(wrap(make(), name)) == {"original": self.plain(name, make)}

    @pytest.mark.parametrize("name, make", PARTS[:-1], ids=lambda x: x if isinstance(x, str) else str(x()))
    def test_what_a_parametrization_holds_of_its_own(self, name, make):
        module = make()
        weight = getattr(module, name)
        nn.utils.parametrize.register_parametrization(module, name, Adapter(len(weight), weight[0].numel()))
        found, expected = decided(Named(m=module, w=nn.Linear(2, 2))), self.plain(name, make)
        of_the_adapter = {key.split(".")[-1]: yes for key, yes in found.items() if f"parametrizations.{name}.0" in key}
        assert of_the_adapter == {"a": expected, "b": expected, "scale": False}

    def test_a_layer_inside_a_parametrization_is_a_layer(self):
        class Hyper(nn.Sequential):
            pass

        module = nn.Embedding(10, 4)
        nn.utils.parametrize.register_parametrization(module, "weight", Hyper(nn.Linear(4, 4), nn.LayerNorm(4)))
        assert regularized(module) == {"parametrizations.weight.0.0.weight"}

    @pytest.mark.parametrize("make", [lambda: nn.Linear(6, 4), lambda: nn.Embedding(6, 4)], ids=["Linear", "Embedding"])
    def test_parts_that_are_vectors(self, make):
        module = make()
        nn.utils.parametrize.register_parametrization(module, "weight", LowRank())
        expected = self.plain("weight", make)
        assert self.parts(module) == {"original0": expected, "original1": False, "original2": expected}

    @pytest.mark.parametrize("name, make", PARTS, ids=lambda x: x if isinstance(x, str) else str(x()))
    def test_pruned(self, name, make):
        expected, module = self.plain(name, make), make()
        prune.l1_unstructured(module, name, amount=0.5)
        found = decided(Named(m=module, w=nn.Linear(2, 2)))
        assert found[f"m.{name}_orig"] is expected

    @pytest.mark.parametrize("wrap", [nn.utils.spectral_norm, nn.utils.weight_norm])
    @pytest.mark.parametrize("name, make", PARTS[:5] + PARTS[7:10], ids=lambda x: x if isinstance(x, str) else str(x()))
    def test_the_older_forms(self, wrap, name, make):
        found = decided(Named(m=wrap(make(), name), w=nn.Linear(2, 2)))
        (yes,) = [yes for key, yes in found.items() if key in (f"m.{name}_orig", f"m.{name}_v")]
        assert yes is self.plain(name, make)

    def test_of_the_model_itself(self):
        found = decided(parametrized.weight_norm(nn.Linear(4, 1)))
        assert found == {
            "bias": False,
            "parametrizations.weight.original0": False,
            "parametrizations.weight.original1": True,
        }

    def test_compiled(self):
        model = Named(m=torch.compile(parametrized.weight_norm(nn.Linear(4, 1))))
        assert regularized(model) == {"m.parametrizations.weight.original1"}

    def test_an_exemption_by_the_name_of_the_weight(self):
        class Model(Named):
            def no_weight_decay(self):
                return {"a.weight"}

        model = Model(a=parametrized.weight_norm(nn.Linear(4, 3)), b=parametrized.weight_norm(nn.Linear(4, 3)))
        assert regularized(model) == {"b.parametrizations.weight.original1"}
        older = (
            nn.utils.weight_norm,
            nn.utils.spectral_norm,
            lambda m: prune.random_unstructured(m, "weight", 1),
        )
        for wrap in older:
            assert not regularized(Model(a=wrap(nn.Linear(4, 3)), b=nn.Linear(4, 3))) - {"b.weight"}

    def test_the_table_names_the_layer(self):
        table = param_table(parametrized.weight_norm(nn.Conv1d(8, 1, 7)))
        assert "magnitude of Conv1d under weight_norm" in table
        assert "weight of Conv1d" in table


class TestLazyLayers:
    """Before the first forward pass nobody knows how many dimensions their parameters will have."""

    MESSAGE = "no shape before the first forward pass.*run the model on one batch, then make the optimizer"

    @pytest.mark.parametrize("layer", [nn.LazyLinear(3), nn.LazyConv2d(3, 3), nn.LazyBatchNorm1d()], ids=str)
    @pytest.mark.parametrize("use", [AdamCPR, param_groups, param_table])
    def test_are_refused_in_a_model(self, layer, use):
        with pytest.raises(ValueError, match=f"m.weight of {type(layer).__name__} has {self.MESSAGE}"):
            use(Named(m=layer, w=nn.Linear(2, 2)))

    @pytest.mark.parametrize("regularize", [None, True])
    def test_are_refused_in_a_list(self, regularize):
        with pytest.raises(ValueError, match=f"param 0 of the group has {self.MESSAGE}"):
            AdamCPR(nn.LazyLinear(3).parameters(), regularize=regularize)

    def test_may_be_in_a_group_that_is_not_regularized(self):
        layer = nn.LazyLinear(3)
        opt = AdamCPR([{"params": layer.parameters(), "regularize": False}, {"params": nn.Linear(2, 2).parameters()}])
        layer(torch.ones(2, 4)).sum().backward()
        opt.step()

    def test_are_layers_like_others_after_it(self):
        model = Named(m=nn.LazyLinear(3), n=nn.LazyBatchNorm1d())
        model.n(model.m(torch.ones(2, 4)))
        assert regularized(model) == {"m.weight"}


class TestExemptions:
    def test_of_a_parameter(self):
        model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
        model[0].weight._no_weight_decay = True
        assert regularized(model) == {"1.weight"}

    def test_an_attribute_that_is_false_exempts_nothing(self):
        model = nn.Sequential(nn.Linear(3, 3))
        model[0].weight._no_weight_decay = False
        assert regularized(model) == {"0.weight"}

    @pytest.mark.parametrize("answer", [{"a.weight"}, ["a.weight"], ("a.weight",)])
    def test_of_the_model(self, answer):
        class Model(Named):
            def no_weight_decay(self):
                return answer

        assert regularized(Model(a=nn.Linear(2, 2), b=nn.Linear(2, 2))) == {"b.weight"}

    def test_names_are_whole_names(self):
        class Model(Named):
            def no_weight_decay(self):
                return {"a"}

        assert regularized(Model(a=nn.Linear(2, 2), b=nn.Linear(2, 2))) == {"a.weight", "b.weight"}


def example():
    class Model(Named):
        def no_weight_decay(self):
            return {"b.weight"}

    torch.manual_seed(0)
    return Model(a=nn.Linear(4, 4), b=nn.Linear(4, 4), n=nn.LayerNorm(4), module=nn.Sequential(nn.Linear(4, 2)))


class TestWrappers:
    @pytest.fixture
    def one_process(self):
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        yield
        dist.destroy_process_group()

    def test_compiled(self):
        assert decided(torch.compile(example())) == decided(example())

    def test_compiled_twice_and_inside(self):
        model = example()
        model.a = torch.compile(model.a)
        model.module = torch.compile(model.module)
        assert decided(model) == decided(example())
        assert decided(torch.compile(model)) == decided(example())

    def test_data_parallel(self):
        assert decided(nn.DataParallel(example())) == decided(example())

    def test_ddp_and_compile_in_any_order(self, one_process):
        ddp = nn.parallel.DistributedDataParallel
        for wrapped in (ddp(example()), torch.compile(ddp(example())), ddp(torch.compile(example()))):
            assert decided(wrapped) == decided(example())

    def test_names_in_the_optimizer_and_the_table(self):
        assert param_table(torch.compile(example())) == param_table(example())
        names = [row.name for row in AdamCPR(torch.compile(example())).constraints()]
        assert names == ["a.weight", "module.0.weight"]

    def test_a_module_called_module_keeps_its_name(self):
        assert "module.0.weight" in decided(example())


class TestUse:
    def test_torchs_own_optimizers_take_the_groups(self):
        torch.optim.SGD(param_groups(example()), lr=0.1)

    def test_groups_left_out_when_empty(self):
        (group,) = param_groups(nn.Linear(3, 3, bias=False))
        assert group["regularize"] is True

    def test_order_and_settings_of_groups_do_not_matter_to_cpr(self):
        model = example()
        groups = param_groups(model)
        for group in groups:
            group["weight_decay"] = 0.0
        opt = AdamCPR(groups[::-1])
        assert {row.name for row in opt.constraints()} == {"a.weight", "module.0.weight"}

    def test_modules_used_twice_count_once(self):
        layer = nn.Linear(3, 3)
        assert decided(nn.Sequential(layer, nn.ReLU(), layer)) == {"0.weight": True, "0.bias": False}

    def test_the_table_names_everything_once_with_shape_and_reason(self):
        model = example()
        table = param_table(model)
        for name, p in model.named_parameters():
            (line,) = [line for line in table.splitlines() if line.split()[:1] == [name]]
            assert all(str(n) in line for n in p.shape)
        lines = {line.split()[0]: line for line in table.splitlines() if line.strip()}
        assert "norm" in lines["n.weight"].lower()
        assert "bias" in lines["a.bias"].lower()
        assert "no_weight_decay" in lines["b.weight"]
        assert lines["a.weight"] != lines["b.weight"].replace("b.weight", "a.weight")
        assert table.isprintable() or "\n" in table

    def test_the_table_follows_reg_embedding(self):
        model = Named(e=nn.Embedding(3, 4), w=nn.Linear(2, 2))
        assert param_table(model) != param_table(model, reg_embedding=True)
