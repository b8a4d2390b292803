"""Lets nnU-Net find our trainers among its own, without a file of ours in nnU-Net's folder.

`nnunet_cpr.pth`, which pip puts beside this package, imports this module whenever Python starts. It registers an import
hook and does nothing else, so it imports nothing that Python has not loaded already. When nnU-Net's module
`nnUNetTrainer` is imported, the hook gives it a `__getattr__` that knows our trainers' names (PEP 562). nnU-Net asks
`hasattr(module, NAME)` of that module first. So training, prediction and every other command find our trainers,
however nnU-Net was installed, and in subprocesses too. All other names are left to nnU-Net.
"""

import os
import sys

TYPE_CHECKING = False  # importing typing would take longer than the rest
if TYPE_CHECKING:
    from collections.abc import Iterator
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any

PACKAGE = "nnunetv2"
MODULE = "nnunetv2.training.nnUNetTrainer.nnUNetTrainer"


class TrainerFinder:
    """A finder for `sys.meta_path`: finds nnU-Net's module as Python would, and adds our trainers to it."""

    def find_spec(self, fullname: str, path: "Any" = None, target: "Any" = None) -> "ModuleSpec | None":
        """Return a spec for the two names that matter here, and None for all others."""
        if fullname == MODULE:
            spec = next(self._others(fullname, path, target), None)
            if spec is not None and spec.loader is not None:
                spec.loader = _ExtendingLoader(spec.loader)  # type: ignore[assignment]
            return spec
        if fullname == PACKAGE:
            return self._find_package(fullname, path, target)
        return None

    def _others(self, *arguments: "Any") -> "Iterator[ModuleSpec]":
        """Yield what the other finders find, in their order."""
        for finder in list(sys.meta_path):
            find_spec = None if finder is self else getattr(finder, "find_spec", None)
            spec = None if find_spec is None else find_spec(*arguments)
            if spec is not None:
                yield spec

    def _find_package(self, *arguments: "Any") -> "ModuleSpec | None":
        """Pass over the empty folders that the first release candidate left in site-packages, and remove them.

        Python takes them for a namespace package called nnunetv2, and never asks the finder of an editable nnU-Net.
        """
        folders: list[str] = []
        for spec in self._others(*arguments):
            if spec.origin is not None:
                for folder in folders:
                    _remove_empty(folder)
                return spec
            folders += spec.submodule_search_locations or []
        return None


class _ExtendingLoader:
    """Loads a module with its own loader, then gives it our `__getattr__`."""

    def __init__(self, loader: "Any") -> None:
        self._loader = loader

    def create_module(self, spec: "ModuleSpec") -> "ModuleType | None":
        module: ModuleType | None = self._loader.create_module(spec)
        return module

    def exec_module(self, module: "ModuleType") -> None:
        if module.__spec__ is not None:  # inspect and others must see the module's own loader
            module.__spec__.loader = self._loader
        module.__loader__ = self._loader
        self._loader.exec_module(module)
        extend(module)


def extend(module: "ModuleType") -> None:
    """Give nnU-Net's module a `__getattr__` that knows our trainers, before one that it may have itself."""
    own = vars(module).get("__getattr__")

    def __getattr__(name: str) -> "Any":
        if name.startswith("nnUNetTrainer"):
            from nnunet_cpr.nnunet.trainer_lookup import trainer_attribute

            try:
                return trainer_attribute(name)
            except AttributeError:
                pass
        if own is not None:
            return own(name)
        raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}")

    module.__getattr__ = __getattr__  # type: ignore[method-assign]


def _remove_empty(folder: str) -> None:
    """Remove a folder if there is no file in it or below it."""
    tree = list(os.walk(folder, topdown=False))
    if any(files for _, _, files in tree):
        return
    for path, _, _ in tree:
        try:
            os.rmdir(path)
        except OSError:
            return


def install() -> None:
    """Register the hook once; nnU-Net's module is extended at once if it is loaded already."""
    if any(isinstance(finder, TrainerFinder) for finder in sys.meta_path):
        return
    sys.meta_path.insert(0, TrainerFinder())
    if MODULE in sys.modules:
        extend(sys.modules[MODULE])


install()
