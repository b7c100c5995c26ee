"""A hash that changes with a model's code and with nothing else.

Belongs here: which code a model consists of, and its normal form. Does not belong here: what is done about
a change (`registry.py`).

A model's code is that of its classes and of the functions, classes and constants of the same package that
they use, however deep. Comments, docstrings and layout do not count, and neither do the parts that all models
share, their interface and the snapshot, nor decorators that change no result.
"""

from __future__ import annotations

import ast
import copy
import functools
import hashlib
import inspect
import json
import linecache
import sys
import sysconfig
import traceback
from collections.abc import Iterable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any, TypeVar

from resources.errors import MedscoreError, PermanentError

_PACKAGE = __package__ or ""
_SHARED = frozenset(
    f"{_PACKAGE}.{name}"
    for name in ("bands", "clock", "fingerprint", "model", "prediction", "running", "snapshot", "visits")
)
_PLAIN = (str, int, float, bool, type(None), timedelta)
_CHANGEABLE = (list, set, frozenset, Mapping)
_CHANGES_NOTHING = "_changes_nothing"

_Decorator = TypeVar("_Decorator")


def changes_nothing(decorator: _Decorator) -> _Decorator:
    """Marks a decorator of functions of a module that changes no result, as one that keeps results."""
    setattr(decorator, _CHANGES_NOTHING, True)
    return decorator


def fingerprint(kinds: Iterable[type], parameters: Mapping[str, Any], apart: Iterable[str]) -> str:
    """SHA-256 of the code of classes and of parameters that fit into JSON, in hexadecimal.

    Attributes that are told `apart` are not part of the code: a name, a version, a time limit. Raises
    PermanentError where the source of a class cannot be read.
    """
    code: dict[str, str] = {}
    for kind in kinds:
        code |= _code(kind, frozenset(apart))
    text = json.dumps([code, dict(parameters)], sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def raised_in(error: BaseException) -> str:
    """A sentence about an error: its kind and where it came up; its own words may quote a record."""
    if isinstance(error, MedscoreError):
        return f"{type(error).__name__}: {error}"[:200]
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return type(error).__name__
    ours = next((frame for frame in reversed(frames) if not _is_library(frame.filename)), frames[-1])
    return f"{type(error).__name__} in {ours.name}, line {ours.lineno} of {Path(ours.filename).name}"


def _is_library(file: str) -> bool:
    return file.startswith(("<", sysconfig.get_path("stdlib"))) or "site-packages" in file


@functools.cache
def _code(kind: type, apart: frozenset[str]) -> dict[str, str]:
    """The normal form of a class and of all that it uses, by qualified name."""
    packages = tuple(f"{name}." for name in (kind.__module__.rpartition(".")[0], _PACKAGE) if name)
    found: dict[str, str] = {}
    todo: list[tuple[str, str, ast.AST]] = [(kind.__module__, kind.__qualname__, _definition(kind))]
    while todo:
        module, name, tree = todo.pop()
        if f"{module}.{name}" in found:
            continue
        found[f"{module}.{name}"] = _normal(tree, apart)
        for used, value in _used(tree, vars(sys.modules[module])):
            home = getattr(value, "__module__", module) if isinstance(value, type | FunctionType) else module
            if home in _SHARED or not (home == kind.__module__ or home.startswith(packages)):
                continue
            if isinstance(value, type | FunctionType):
                tree = _undecorated(_definition(value), vars(sys.modules[home]))
                todo.append((home, value.__qualname__, tree))
            elif _is_constant(value):
                found[f"{module}.{used}"] = repr(value)
            elif isinstance(value, _CHANGEABLE):
                # As it is written: what is in it at this moment may have been put in by a run.
                todo.extend(
                    (at, used, written) for at, written in _assigned(module, used) if at not in _SHARED
                )
    return found


def _is_constant(value: object) -> bool:
    return all(map(_is_constant, value)) if isinstance(value, tuple) else isinstance(value, _PLAIN)


def _assigned(module: str, name: str) -> Iterator[tuple[str, ast.AST]]:
    """The value that a module gives to a name at its top level, or that it imports, and where it is given."""
    for node in ast.parse(_source(module)).body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        if isinstance(node, ast.AnnAssign):
            targets = [node.target]
        if any(isinstance(target, ast.Name) and target.id == name for target in targets):
            yield module, node
        elif isinstance(node, ast.ImportFrom) and node.module in sys.modules:
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    yield from _assigned(node.module, alias.name)


def _source(module: str) -> str:
    file = getattr(sys.modules.get(module), "__file__", None) or ""
    linecache.checkcache(file)
    return "".join(linecache.getlines(file))


def _definition(part: type | FunctionType) -> ast.AST:
    """The code of a class or function. Raises PermanentError where its source cannot be read."""
    found = _definitions(_source(part.__module__)).get(part.__qualname__, [])
    if isinstance(part, FunctionType):
        found = [node for node in found if part.__code__.co_firstlineno in _lines(node)] or found
    if not found:
        raise PermanentError(
            "The source of a model cannot be read",
            where=f"{part.__module__}.{part.__qualname__}",
            mend="Keep the model in a file of a package.",
        )
    return found[-1]


def _undecorated(tree: ast.AST, scope: Mapping[str, Any]) -> ast.AST:
    """The same without decorators that change nothing."""
    decorators: list[ast.expr] = getattr(tree, "decorator_list", [])
    kept = [
        decorator
        for decorator in decorators
        if not (isinstance(decorator, ast.Name) and getattr(scope.get(decorator.id), _CHANGES_NOTHING, False))
    ]
    if len(kept) == len(decorators):
        return tree
    plain = copy.copy(tree)
    vars(plain)["decorator_list"] = kept
    return plain


def _lines(node: ast.AST) -> range:
    """From the first decorator on to the name."""
    decorators: list[ast.expr] = getattr(node, "decorator_list", [])
    name: int = getattr(node, "lineno", 0)
    return range(min([name, *(decorator.lineno for decorator in decorators)]), name + 1)


@functools.lru_cache(maxsize=64)
def _definitions(source: str) -> dict[str, list[ast.AST]]:
    """The classes and functions of a module by qualified name, in the order in which they are defined."""
    found: dict[str, list[ast.AST]] = {}

    def collect(node: ast.AST, scope: str) -> None:
        for child in ast.iter_child_nodes(node):
            inner = scope
            if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                name = scope + child.name
                found.setdefault(name, []).append(child)
                inner = f"{name}." if isinstance(child, ast.ClassDef) else f"{name}.<locals>."
            collect(child, inner)

    collect(ast.parse(source), "")
    return found


def _used(tree: ast.AST, scope: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Names of the module's scope that the code reads, and attributes of modules in it, with their values."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id in scope and not isinstance(scope[node.id], ModuleType):
            yield node.id, inspect.unwrap(scope[node.id])
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            module = scope.get(node.value.id)
            if isinstance(module, ModuleType) and module.__name__.startswith(_PACKAGE):
                yield f"{node.value.id}.{node.attr}", getattr(module, node.attr, None)


def _normal(node: object, apart: frozenset[str]) -> str:
    """A syntax tree as text: without positions, documentation, and fields that some Pythons lack."""
    if isinstance(node, ast.AST):
        fields = [(name, value) for name, value in ast.iter_fields(node) if value not in (None, [])]
        inner = ",".join(
            f"{name}={_normal(value, apart)}" for name, value in fields if name != "type_comment"
        )
        return f"{type(node).__name__}({inner})"
    if isinstance(node, list):
        counted = [part for part in node if not _says_nothing(part, apart)]
        return f"[{','.join(_normal(part, apart) for part in counted)}]"
    return repr(node)


def _says_nothing(statement: object, apart: frozenset[str]) -> bool:
    """Whether it is a text for readers, or states one of the attributes that are told apart."""
    if isinstance(statement, ast.Expr):
        return isinstance(statement.value, ast.Constant) and isinstance(statement.value.value, str)
    targets = statement.targets if isinstance(statement, ast.Assign) else []
    if isinstance(statement, ast.AnnAssign):
        targets = [statement.target]
    return bool(targets) and all(isinstance(target, ast.Name) and target.id in apart for target in targets)
