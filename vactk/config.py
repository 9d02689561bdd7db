"""YAML and `key=value` text into frozen dataclasses, with every mistake reported at once.

The dataclasses live beside the code that they configure. A field whose metadata holds `table(...)` is a
choice among several dataclasses: its `name` picks the class, its other settings fill that class.
"""

from __future__ import annotations

import dataclasses
import json
import reprlib
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml

from vactk.errors import VactkError, nearest, unknown

C = TypeVar("C")

RENAMED_SETTINGS = {  # full name of a setting in earlier versions -> its name now
    "optim.decayed": "optim.weight_decay_on",
    "optim.first": "optim.warmup_start_factor",
    "optim.last": "optim.min_lr_factor",
    "optim.lr_batch": "optim.base_batch_size",
}

_MISSING = object()


class _Errors(list[str]):
    """A line for each wrong setting of the dataclass `root`."""

    def __init__(self, root: type) -> None:
        super().__init__()
        self.root = root


def table(choices: Mapping[str, type], kind: str) -> dict[str, Any]:
    """Field metadata that makes a field a choice among the dataclasses in `choices`."""
    return {"choices": choices, "kind": kind}


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file. Raises VactkError when the file is absent, not YAML or not a mapping."""
    try:
        values = parse_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise VactkError(f"cannot read '{path}': {error.strerror}") from error
    except ValueError as error:
        line = str(error).replace("\n", " ")
        raise VactkError(f"'{path}' is not valid YAML: {line}") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise VactkError(f"'{path}' must hold settings as `key: value`, not a {type(values).__name__}")
    return values


def parse_yaml(text: str) -> Any:
    """The plain values in YAML text. Raises ValueError where it is not YAML, or nests too deep."""
    try:
        return yaml.safe_load(text)
    except Exception as error:  # of odd numbers and dates, PyYAML's constructors raise nearly anything
        raise ValueError(str(error) or type(error).__name__) from error


def parse_json(text: str | bytes) -> Any:
    """The value in JSON text. Raises ValueError where it is not JSON, or nests too deep."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it nests too deep") from error


def parse_overrides(items: Iterable[str]) -> dict[str, Any]:
    """`["optim.lr=1e-3"]` as nested settings. Values are read as YAML; later items win."""
    values: dict[str, Any] = {}
    wrong = [item for item in items if not item.partition("=")[0].strip() or "=" not in item]
    if wrong:
        raise VactkError(f"settings are given as key=value, got '{wrong[0]}'")
    for item in items:
        key, _, text = item.partition("=")
        try:
            value = parse_yaml(text)
        except ValueError as error:
            raise VactkError(f"cannot read the value of '{item}'") from error
        values = merge(values, _at(key.strip(), value))
    return values


def nest(options: Mapping[str, Any]) -> dict[str, Any]:
    """`{"a.b": 1}` as `{"a": {"b": 1}}`, without the options that were not given (None)."""
    values: dict[str, Any] = {}
    for path, value in options.items():
        if value is not None:
            values = merge(values, _at(path, value))
    return values


def merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `changes` laid over it, key by key through nested mappings.

    Where a change names another choice (`name`), the settings of the former choice go with it.
    """
    merged = dict(base)
    for key, value in changes.items():
        old = merged.get(key)
        # `temporal=st_adapter` is short for `temporal.name=st_adapter`
        if isinstance(old, Mapping) and isinstance(value, str):
            value = {"name": value}
        elif isinstance(old, str) and isinstance(value, Mapping):
            old = {"name": old}
        if isinstance(old, Mapping) and isinstance(value, Mapping):
            other_choice = "name" in old and value.get("name", old["name"]) != old["name"]
            merged[key] = dict(value) if other_choice else merge(old, value)
        else:
            merged[key] = value
    return merged


def build(cls: type[C], values: Mapping[str, Any]) -> C:
    """`cls` filled from nested settings. Raises VactkError with one line for every wrong setting."""
    errors = _Errors(cls)
    config = _build(cls, values, "", errors)
    if errors:
        raise VactkError("\n".join(errors))
    return typing.cast(C, config)


def to_dict(config: Any) -> dict[str, Any]:
    """The plain settings (YAML and JSON types) from which `build` makes an equal config."""
    return {f.name: _plain(getattr(config, f.name), f) for f in dataclasses.fields(config)}


def to_yaml(config: Any) -> str:
    """`to_dict` as YAML text, in the order in which the fields are declared."""
    return yaml.safe_dump(to_dict(config), sort_keys=False)


def _at(path: str, value: Any) -> dict[str, Any]:
    """`value` inside nested mappings, one for each part of `path`."""
    for part in reversed(path.split(".")):
        value = {part: value}
    return value


def _plain(value: Any, field: dataclasses.Field[Any]) -> Any:
    if dataclasses.is_dataclass(value):
        settings = to_dict(value)
        choices = field.metadata.get("choices")
        if choices is None:
            return settings
        name = next(name for name, cls in choices.items() if cls is type(value))
        return {"name": name, **settings}
    return list(value) if isinstance(value, tuple) else value


def _build(cls: type, values: Any, path: str, errors: _Errors) -> Any:
    if not isinstance(values, Mapping):
        errors.append(f"'{path}' holds settings of its own, got {_shown(values)}; write {path}.NAME=VALUE")
        return None
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}
    before = len(errors)
    for key in values:
        if key not in fields:
            siblings = {f"{path}.{name}" if path else name for name in fields}
            full = f"{path}.{key}" if path else str(key)
            errors += [_unknown_setting(name, siblings, errors.root) for name in _leaves(full, values[key])]
    filled = {}
    for name, field in fields.items():
        if name in values:
            full = f"{path}.{name}" if path else name
            filled[name] = _field(field, hints[name], values[name], full, errors)
    if len(errors) > before:
        return None
    try:
        return cls(**filled)
    except (VactkError, TypeError) as error:
        errors.append(f"{path}: {error}" if path else str(error))
        return None


def _unknown_setting(name: str, siblings: Iterable[str], root: type) -> str:
    """Return the message for a setting that does not exist, or no longer under this name.

    Suggests settings of any group: first those with the same last component, or its initials, then the most alike.
    """
    if name in RENAMED_SETTINGS:
        return f"setting '{name}' is now called '{RENAMED_SETTINGS[name]}'"
    known = _paths(root)
    if choices := known.get(name):
        group = name.rpartition(".")[0]
        return f"setting '{name}' is one of {group}={' or '.join(choices)}: add that, or leave it out"
    match = _most_likely(name, siblings, known)
    return (
        f"unknown setting '{name}'; did you mean '{match}'?" if match else unknown(name, siblings, "setting")
    )


def _most_likely(name: str, siblings: Iterable[str], known: Iterable[str]) -> str | None:
    """Return the setting most likely meant by `name`: by its last component, in short or part, or by spelling."""
    last = _last(name).lower()
    words = set(last.split("_"))
    for fits in (
        lambda other: other == last,
        lambda other: other == _initials(last) or last == _initials(other),
        lambda other: set(other.split("_")) <= words,
    ):
        if same := [path for path in known if fits(_last(path))]:
            return nearest(name, same, cutoff=0.0)
    by_last = {_last(path): path for path in known}
    return nearest(name, siblings) or nearest(name, known) or by_last.get(nearest(last, by_last) or "")


def _paths(cls: type, prefix: str = "") -> dict[str, tuple[str, ...]]:
    """Return the full names of all settings below a dataclass, with the choices that each is a setting of."""
    hints = typing.get_type_hints(cls)
    found: dict[str, tuple[str, ...]] = {}
    for field in dataclasses.fields(cls):
        path = f"{prefix}{field.name}"
        found[path] = ()
        for name, choice in field.metadata.get("choices", {}).items():
            for below in _paths(choice, f"{path}."):
                found[below] = (*found.get(below, ()), name)
        if dataclasses.is_dataclass(hints[field.name]):
            found |= _paths(typing.cast(type, hints[field.name]), f"{path}.")
    return found


def _leaves(name: str, value: Any) -> list[str]:
    """Return the full names of the settings in a value."""
    if not isinstance(value, Mapping) or not value:
        return [name]
    return [leaf for key, below in value.items() for leaf in _leaves(f"{name}.{key}", below)]


def _last(path: str) -> str:
    return path.rpartition(".")[2]


def _initials(name: str) -> str:
    """Return "lr" for "learning_rate"; empty for a single word."""
    words = name.split("_")
    return "".join(word[:1] for word in words) if len(words) > 1 else ""


def _field(field: dataclasses.Field[Any], hint: Any, value: Any, path: str, errors: _Errors) -> Any:
    choices = field.metadata.get("choices")
    if choices is not None:
        settings = {"name": value} if isinstance(value, str) else value
        if not isinstance(settings, Mapping):
            errors.append(f"'{path}' must be one of {', '.join(choices)}, got {_shown(value)}")
            return None
        settings = {"name": _default_choice(field), **settings}
        name = settings.pop("name")
        if not isinstance(name, str) or name not in choices:
            errors.append(f"{path}: {unknown(str(name), choices, field.metadata['kind'])}")
            return None
        return _build(choices[name], settings, path, errors)
    if dataclasses.is_dataclass(hint):
        return _build(typing.cast(type, hint), value, path, errors)
    result = _coerce(hint, value)
    if result is _MISSING:
        errors.append(f"'{path}' must be {_describe(hint)}, got {_shown(value)}")
    return result


def _default_choice(field: dataclasses.Field[Any]) -> str:
    """The name of the choice that a field makes when none is named."""
    made = field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default
    return next(name for name, cls in field.metadata["choices"].items() if cls is type(made))


def _coerce(hint: Any, value: Any) -> Any:
    """`value` as the type `hint`, or _MISSING when it is not one."""
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in typing.get_args(hint):
            return None
        options = [_coerce(arg, value) for arg in typing.get_args(hint) if arg is not type(None)]
        return next((option for option in options if option is not _MISSING), _MISSING)
    if origin is typing.Literal:
        return value if value in typing.get_args(hint) else _MISSING
    if origin is tuple:
        return _coerce_tuple(typing.get_args(hint), value)
    return _SCALARS[hint](value)


def _coerce_tuple(args: tuple[Any, ...], value: Any) -> Any:
    if not isinstance(value, list | tuple):
        return _MISSING
    hints = [args[0]] * len(value) if args[-1] is Ellipsis else list(args)
    if len(hints) != len(value):
        return _MISSING
    items = tuple(_coerce(hint, item) for hint, item in zip(hints, value, strict=True))
    return _MISSING if _MISSING in items else items


def _to_bool(value: Any) -> Any:
    return value if isinstance(value, bool) else _MISSING


def _to_int(value: Any) -> Any:
    if isinstance(value, int):
        return _MISSING if isinstance(value, bool) else value
    number = _to_float(value)
    return int(number) if number is not _MISSING and number == number // 1 else _MISSING


def _to_float(value: Any) -> Any:
    """PyYAML reads `1e-4` (no dot) as text, so text that is a finite number is one."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return _MISSING
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return _MISSING
    return number if abs(number) < float("inf") else _MISSING


def _to_str(value: Any) -> Any:
    """A label or a file may be named `8`: numbers pass as text, other types do not."""
    return str(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else _MISSING


_SCALARS = {bool: _to_bool, int: _to_int, float: _to_float, str: _to_str}

_NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


def _shown(value: Any) -> str:
    """A value in a message: YAML's aliases can make a few lines of it endless."""
    short = reprlib.Repr()
    short.maxlevel, short.maxstring, short.maxother = 2, 200, 200
    return short.repr(value)


def _describe(hint: Any) -> str:
    origin = typing.get_origin(hint)
    args = typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join("null" if arg is type(None) else _describe(arg) for arg in args)
    if origin is typing.Literal:
        return "one of " + ", ".join(str(arg) for arg in args)
    if origin is tuple:
        item = _describe(args[0]).removeprefix("a ")
        return f"a list of {item}s" if args[-1] is Ellipsis else f"a list of {len(args)} {item}s"
    return _NAMES[hint]
