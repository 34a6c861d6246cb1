"""Reads the config.yml of a nerfstudio run as data.

nerfstudio reads it by PyYAML's unsafe loader, which calls any function that the file names. This
loader knows the classes of nerfstudio's and our own options, and calls none but paths and enums.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import importlib
import typing
from collections.abc import Iterator
from pathlib import Path, PureWindowsPath
from types import FunctionType, UnionType
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

_PACKAGES = ("nerfstudio", "csd_nerf", "torch.optim")
"""Packages whose classes a config may name."""
_FUNCTIONS = ("nerfstudio.data.utils", "csd_nerf.methods")
"""Packages whose functions a config may name; none is called while a config is read."""
_PATHS = ("PosixPath", "WindowsPath", "Path", "PurePosixPath", "PureWindowsPath", "PurePath")
_GROUPS = (typing.Union, UnionType, tuple, list, dict)
_PYTHON = "tag:yaml.org,2002:python/"


def read_run_config(path: Path) -> Any:
    """Read a run's config; fields that an older release lacked have their defaults.

    Raises:
        FileNotFoundError: If there is no file.
        ValueError: If it is no such config, or names code that isn't nerfstudio's or ours. Nothing
            of it was run.
    """
    if not path.is_file():
        raise FileNotFoundError(f"A run needs its config.yml, got {path}, which does not exist.")
    try:
        config = yaml.load(path.read_text("utf8"), Loader=_ConfigLoader)
    except (yaml.YAMLError, ValueError, TypeError, LookupError, OSError, RecursionError) as error:
        raise ValueError(
            f"{path} must be the config of a nerfstudio run, but can't be read: {_reason(error)}."
        ) from None
    _complete(config, set())
    for place, told, given in _wrong_fields(config, "", set()):
        raise ValueError(
            f"{path} must be the config of a nerfstudio run, but {place} is wrong: {told}, got "
            f"{given!r}; write it as it was."
        )
    return config


def _reason(error: Exception) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"{error.problem} (line {error.problem_mark.line + 1})"
    return str(error).strip().splitlines()[0]


class _ConfigLoader(yaml.SafeLoader):
    """Plain YAML, and the tags by which PyYAML writes options."""


def _find(name: str, node: yaml.Node) -> Any:
    """A class or function by its full name."""
    module, _, attribute = name.rpartition(".")
    if not _is_in(module, _PACKAGES):
        raise _refused(name, node)
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError):
        raise yaml.constructor.ConstructorError(
            None, None, f"it names {name}, which the installed release lacks", node.start_mark
        ) from None
    # A module's attributes include what it imports from elsewhere.
    home = getattr(found, "__module__", "")
    if isinstance(found, type) and _is_in(home, _PACKAGES):
        return found
    if isinstance(found, FunctionType) and _is_in(home, _FUNCTIONS):
        return found
    raise _refused(name, node)


def _is_in(module: str, packages: tuple[str, ...]) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def _refused(name: str, node: yaml.Node) -> yaml.YAMLError:
    return yaml.constructor.ConstructorError(
        None,
        None,
        f"it names {name}, and only options of nerfstudio and csd_nerf are read; no code runs from "
        "a config",
        node.start_mark,
    )


def _tuple(loader: _ConfigLoader, node: yaml.Node) -> tuple[Any, ...]:
    if not isinstance(node, yaml.SequenceNode):
        raise _refused("tuple", node)
    return tuple(loader.construct_sequence(node, deep=True))


def _name(loader: _ConfigLoader, suffix: str, node: yaml.Node) -> Any:
    del loader
    return _find(suffix, node)


def _object(loader: _ConfigLoader, suffix: str, node: yaml.Node) -> Iterator[Any]:
    """Options with the fields that the file gives."""
    kind: Any = _find(suffix, node)
    if not (dataclasses.is_dataclass(kind) and isinstance(node, yaml.MappingNode)):
        raise _refused(suffix, node)
    options: Any = object.__new__(kind)  # pyright: ignore[reportArgumentType]
    # PyYAML completes it later, since its fields may refer to it.
    yield options
    options.__dict__.update(loader.construct_mapping(node))


def _applied(loader: _ConfigLoader, suffix: str, node: yaml.Node) -> Any:
    """The only values that are written as calls: paths, members of enums, and generic classes."""
    if not isinstance(node, yaml.SequenceNode):
        raise _refused(suffix, node)
    arguments = loader.construct_sequence(node, deep=True)
    module, _, attribute = suffix.rpartition(".")
    if module in ("pathlib", "pathlib._local") and attribute in _PATHS:
        words = [str(argument) for argument in arguments]
        # A config that was written under Windows names folders of that machine.
        return Path(*PureWindowsPath(*words).parts) if "Windows" in attribute else Path(*words)
    if suffix == "_operator.getitem" and all(isinstance(kind, type) for kind in arguments):
        # Such as VanillaDataManager[DepthDataset]; both were found by `_find`.
        generic, of = arguments
        return generic[of]
    kind = _find(suffix, node)
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return kind(*arguments)
    raise _refused(suffix, node)


def _other(loader: _ConfigLoader, suffix: str, node: yaml.Node) -> Any:
    del loader
    raise _refused(suffix, node)


_ConfigLoader.add_constructor(f"{_PYTHON}tuple", _tuple)
_ConfigLoader.add_multi_constructor(f"{_PYTHON}name:", _name)
_ConfigLoader.add_multi_constructor(f"{_PYTHON}object:", _object)
_ConfigLoader.add_multi_constructor(f"{_PYTHON}object/apply:", _applied)
_ConfigLoader.add_multi_constructor(_PYTHON, _other)


def _complete(value: Any, seen: set[int]) -> None:
    """Give options that were written by an older release the defaults of newer fields."""
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, dict):
        for inner in value.values():
            _complete(inner, seen)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        given = value.__dict__
        for spec in dataclasses.fields(value):
            if spec.name not in given and spec.default is not dataclasses.MISSING:
                given[spec.name] = spec.default
            elif spec.name not in given and spec.default_factory is not dataclasses.MISSING:
                given[spec.name] = spec.default_factory()
            _complete(given.get(spec.name), seen)


def _wrong_fields(value: Any, place: str, seen: set[int]) -> Iterator[tuple[str, str, Any]]:
    """The fields of options whose values are of another type: name, the rule, and the value."""
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _wrong_fields(inner, f"{place}.{key}".strip("."), seen)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for name, rule in _rules(type(value)).items():
            inner, where = getattr(value, name, None), f"{place}.{name}".strip(".")
            yield from _wrong_fields(inner, where, seen)
            try:
                rule.validate_python(inner, strict=True)
            except ValidationError as error:
                yield where, error.errors(include_url=False)[0]["msg"], inner


@functools.cache
def _rules(kind: type) -> dict[str, Any]:
    """Pydantic adapters of the fields of a class of options; those of classes take anything."""
    try:
        hints = typing.get_type_hints(kind)
    except NameError:
        # Some annotations name what is imported for type checkers only.
        return {}
    fields = {spec.name: hints.get(spec.name, Any) for spec in dataclasses.fields(kind)}
    return {name: TypeAdapter(hint if _is_plain(hint) else Any) for name, hint in fields.items()}


def _is_plain(hint: Any) -> bool:
    if typing.get_origin(hint) is typing.Literal:
        return True
    parts = [part for part in typing.get_args(hint) if part is not ...]
    if parts:
        return typing.get_origin(hint) in _GROUPS and all(map(_is_plain, parts))
    return hint in (int, float, bool, str, Path, type(None))
