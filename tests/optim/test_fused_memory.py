"""What kernels remember between steps keeps no weights or states alive, and models can still be moved and loaded."""

import gc
import weakref

import pytest
import torch
from fused_backends import kernels
from optim_helpers import CLASSES, Pull, make_fused

pytestmark = kernels
SHAPES = ((7, 5), (13, 7))


@pytest.fixture
def swapping():
    """Models are moved, cast and loaded by swapping their tensors, as FSDP2 has it."""
    torch.__future__.set_swap_module_params_on_conversion(True)
    yield
    torch.__future__.set_swap_module_params_on_conversion(False)


@pytest.mark.parametrize("chunks", [0, 2])
@pytest.mark.parametrize("name", CLASSES)
def test_a_model_can_be_moved_and_loaded_afterwards(name, chunks, swapping, backend):
    """torch refuses it while anything refers to a weight weakly, or as the base of a view."""
    model = torch.nn.Linear(7 + chunks * backend.chunk // 5, 5).to(backend.device)
    opt = make_fused(model.parameters(), name)
    for _ in range(4):
        opt.zero_grad()
        model(torch.ones(2, model.in_features, device=backend.device)).sum().backward()
        opt.step()
    assert len(backend.updated) == 3
    opt.zero_grad()
    model.load_state_dict({key: value.clone() for key, value in model.state_dict().items()})
    assert model.to(torch.float64).weight.dtype is torch.float64


def other_dtype(opt, params):
    for p in params:
        p.data = p.data.double()
    opt.load_state_dict(opt.state_dict())  # casts the states


def not_fused(opt, params):
    for group in opt.param_groups:
        group["fused"] = False
    opt.load_state_dict(opt.state_dict())


@pytest.mark.parametrize("change", [other_dtype, not_fused])
def test_states_of_old_are_not_kept(change, backend):
    """They are as large as the weights."""
    pull = Pull(SHAPES, dtype=torch.float32)
    params = pull.params(backend.device)
    opt = make_fused(params)
    pull.run(opt, params, 0, 5)
    assert len(backend.updated) == 4
    backend.cache = None
    gone = [weakref.ref(opt.state[p]["exp_avg"]) for p in params]
    opt.zero_grad()
    change(opt, params)
    for p in params:
        opt.state[p] = {key: value.clone() for key, value in opt.state[p].items()}
        p.grad = torch.ones_like(p)
    opt.step()
    assert_gone(backend, gone)


def test_parameters_replaced_again_and_again_are_not_kept(backend):
    pull = Pull(SHAPES, dtype=torch.float32)
    params = pull.params(backend.device)
    opt = make_fused(params)
    gone = []
    for step in range(5):
        pull.run(opt, params, 2 * step, 2 * step + 2)
        gone.append(weakref.ref(params[0]))
        replace_first(opt, params, opt.state.pop(params[0]))
    pull.run(opt, params, 10, 12)
    assert len(backend.updated) == 11
    assert_gone(backend, gone)


def test_a_parameter_that_is_gone_is_not_kept(backend):
    """The one in its place has no state, so it takes torch's own step at first."""
    pull = Pull(SHAPES, dtype=torch.float32)
    params = pull.params(backend.device)
    opt = make_fused(params)
    pull.run(opt, params, 0, 5)
    gone = weakref.ref(params[0])
    opt.state.pop(params[0])
    replace_first(opt, params, None)
    opt.zero_grad()
    pull.run(opt, params, 5, 8)
    assert len(backend.updated) == 4 + 2
    assert_gone(backend, [gone])


def replace_first(opt, params, state):
    params[0] = torch.nn.Parameter(torch.ones_like(params[0]))
    opt.param_groups[0]["params"][0] = params[0]
    if state is not None:
        opt.state[params[0]] = state


def assert_gone(backend, references):
    backend.updated.clear()
    gc.collect()
    assert [reference() for reference in references] == [None] * len(references)
