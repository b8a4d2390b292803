"""Every public name has an example in its docstring, and the examples run."""

import doctest
import importlib

import pytest

import nnunet_cpr.optim

MODULES = ("constraints", "factory", "fused", "grouping", "optimizer")


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name):
    module = importlib.import_module(f"nnunet_cpr.optim.{name}")
    failed, tried = doctest.testmod(module)
    assert tried and not failed


@pytest.mark.parametrize("name", nnunet_cpr.optim.__all__)
def test_every_public_name_has_one(name):
    assert ">>>" in getattr(nnunet_cpr.optim, name).__doc__
