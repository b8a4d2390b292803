"""Muon, which is for the matrices of hidden layers only: with a second optimizer, as the documentation shows it."""

import warnings

import pytest
import torch
from optim_helpers import documented
from reference import algorithm1
from torch import nn

from nnunet_cpr.optim import AdamCPR, cpr, param_groups

if not hasattr(torch.optim, "Muon"):
    pytest.skip("this torch has no Muon", allow_module_level=True)
MuonCPR = cpr(torch.optim.Muon)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv1d(4, 6, 1), nn.Flatten(), nn.Linear(6, 6), nn.LayerNorm(6), nn.Linear(6, 2))


@pytest.mark.parametrize(
    "model, name",
    [
        (network, r"0.weight of shape \(6, 4, 1\)"),
        (lambda: nn.Linear(4, 4), r"bias of shape \(4,\)"),
        (lambda: nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 9, bias=False)), r"0.weight of shape \(9, 4\)"),
    ],
    ids=["kernels", "bias", "embedding"],
)
def test_a_model_with_other_parameters_is_refused_with_advice(model, name):
    with pytest.raises(ValueError, match=f'the model has {name}, too: give Muon the matrices and .*under "Muon"'):
        MuonCPR(model(), lr=0.02)


def test_a_model_of_matrices_alone_is_taken():
    assert len(MuonCPR(nn.Sequential(nn.Linear(4, 4, bias=False)), lr=0.02).constraints()) == 1


def test_torchs_default_weight_decay_is_off_and_one_that_is_asked_for_refused():
    matrices = [nn.Parameter(torch.randn(4, 4))]
    assert torch.optim.Muon(matrices).param_groups[0]["weight_decay"] > 0
    assert MuonCPR(matrices).param_groups[0]["weight_decay"] == 0
    with pytest.raises(ValueError, match="CPR replaces weight decay"):
        MuonCPR(matrices, weight_decay=0.1)


@pytest.mark.parametrize("step_form", ["explicit", "proximal"])
def test_a_step_is_algorithm_1(step_form):
    """The constraint's weights by the reference, then torch's own Muon at these."""
    torch.manual_seed(0)
    settings = {"kappa_init_method": "dependent", "kappa_init_param": 0.9, "kappa_update": 2.0, "step_form": step_form}
    ours, theirs = (nn.Parameter(torch.full((5, 3), 0.5)) for _ in range(2))
    optimizer, plain = MuonCPR([ours], lr=0.02, **settings), torch.optim.Muon([theirs], lr=0.02, weight_decay=0)
    constraint = algorithm1.Constraint(algorithm1.Settings(**settings))
    for _ in range(10):
        grad = torch.randn(5, 3) - ours.detach()
        ours.grad, theirs.grad = grad.clone(), grad.clone()
        theirs.data.copy_(constraint.step(theirs.detach().double()))
        optimizer.step()
        plain.step()
        torch.testing.assert_close(ours.detach(), theirs.detach(), rtol=1e-5, atol=1e-6)
        theirs.data.copy_(ours.data)
    assert optimizer.constraints()[0].lagmul == pytest.approx(constraint.lam, rel=1e-4)
    assert constraint.lam > 0


class TestTheDocumentedWay:
    def example(self, model):
        (code,) = documented("reference/optim.md", "### Muon")
        space = {"model": model}
        exec(code, space)
        return space["muon"], space["rest"]

    def test_bounds_every_weight_that_param_groups_chooses(self):
        model = network()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            optimizers = self.example(model)
        muon, rest = optimizers
        assert type(muon) is MuonCPR and type(rest) is AdamCPR
        assert [row.name for row in muon.constraints()] == ["2.weight", "4.weight"]
        assert [row.name for row in rest.constraints()] == ["0.weight"]
        members = [p for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]]
        assert sorted(map(id, members)) == sorted(map(id, model.parameters()))
        before = [p.detach().clone() for p in model.parameters()]
        for _ in range(3):
            for optimizer in optimizers:
                optimizer.zero_grad()
            model(torch.randn(8, 4, 1)).square().mean().backward()
            for optimizer in optimizers:
                optimizer.step()
        assert not any(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))

    def test_of_a_model_whose_matrices_are_all_of_its_weights(self):
        """The rest is then without a weight to bound, which AdamCPR says."""
        model = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 4), nn.LayerNorm(4))
        with pytest.warns(UserWarning, match="AdamCPR has nothing to regularize"):
            muon, rest = self.example(model)
        assert [row.name for row in muon.constraints()] == ["1.weight"]
        assert {p for g in param_groups(model) for _, p in g["params"]} - set(muon.param_groups[0]["params"]) == {
            p for g in rest.param_groups for p in g["params"]
        }
