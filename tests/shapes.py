"""Checks of the array shapes in Vita's signatures at every call, while the tests run.

After the import of a module of Vita, jaxtyping and beartype wrap its functions with array annotations. Other
annotations are left to pyright, so that a fake may replace a model; while `torch.compile` traces, the plain function is
traced.
"""

from __future__ import annotations

import functools
import importlib.abc
import importlib.machinery
import inspect
import re
import sys
import types
from collections.abc import Callable, Sequence
from typing import Any

from beartype import beartype
from jaxtyping import jaxtyped

ARRAYS = re.compile(r"\b(Float|Float32|BFloat16|Int|Int64|UInt16|UInt32|Integer|Bool|Num|Real|Shaped)\[")


def check_shapes(package: str) -> None:
    """Check all modules of `package` that are imported from now on."""
    sys.meta_path.insert(0, _Finder(package))


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return `function` with checks of its array annotations, or the function itself if it has none."""
    annotations = dict(function.__annotations__)
    arrays = {name: hint for name, hint in annotations.items() if ARRAYS.search(str(hint))}
    if not arrays or inspect.isgeneratorfunction(function):
        return function
    function.__annotations__ = arrays
    checked_function = jaxtyped(function, typechecker=beartype)
    function.__annotations__ = annotations

    @functools.wraps(function)
    def call(*args: Any, **keywords: Any) -> Any:
        from torch.compiler import is_compiling

        return function(*args, **keywords) if is_compiling() else checked_function(*args, **keywords)

    return call


class _Finder(importlib.abc.MetaPathFinder):
    def __init__(self, package: str) -> None:
        self.package = package

    def find_spec(self, name: str, path: Sequence[str] | None, target: Any = None) -> Any:
        if name != self.package and not name.startswith(f"{self.package}."):
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec and isinstance(spec.loader, importlib.machinery.SourceFileLoader):
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


class _Loader(importlib.machinery.SourceFileLoader):
    def exec_module(self, module: types.ModuleType) -> None:
        super().exec_module(module)
        _wrap_all(module, module.__name__)


def _wrap_all(owner: Any, module: str) -> None:
    for name, value in list(vars(owner).items()):
        if getattr(value, "__module__", None) != module:
            continue
        if isinstance(value, types.FunctionType):
            wrapped = checked(value)
        elif isinstance(value, (staticmethod, classmethod)):
            wrapped = type(value)(checked(value.__func__))
        elif inspect.isclass(value) and value.__qualname__.startswith(getattr(owner, "__qualname__", "")):
            _wrap_all(value, module)
            continue
        else:
            continue
        if wrapped is not value:
            setattr(owner, name, wrapped)
