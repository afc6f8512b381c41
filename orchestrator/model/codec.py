"""Specs to plain JSON data and back: what is kept beside a container, and what the planner compares.

`encode` leaves out every field that equals its default, so a field that an older version did not know compares as its
default. A value of a union type carries its class name under "type". `decode` is the inverse for the same version.
"""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from functools import cache
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from orchestrator.model.ids import Ref

SCHEMA = 1

T = TypeVar("T")


@cache
def _shape(cls: type) -> tuple[tuple[str, Any, Any], ...]:
    """(name, type, default) of each field; MISSING where there is none."""
    hints = get_type_hints(cls)
    shape = []
    for each in fields(cls):
        default = each.default
        if default is MISSING and each.default_factory is not MISSING:
            default = each.default_factory()
        shape.append((each.name, hints[each.name], default))
    return tuple(shape)


@cache
def _tagged(hint: Any) -> Mapping[str, type]:
    """Class name -> class, for a union that has more than one dataclass; empty otherwise."""
    if get_origin(hint) not in (Union, types.UnionType):
        return {}
    found = {arg.__name__: arg for arg in get_args(hint) if isinstance(arg, type) and is_dataclass(arg)}
    return found if len(found) > 1 else {}


def encode(value: Any) -> Any:
    """A spec (or any value inside one) as JSON data."""
    return _encode(value, type(value))


def _encode(value: Any, hint: Any) -> Any:
    if value is None or type(value) in (str, int, float, bool):
        return value
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {str(key): _encode(each, Any) for key, each in value.items()}
    if isinstance(value, tuple | list):
        inner = get_args(hint)[0] if get_origin(hint) is tuple else Any
        return [_encode(each, inner) for each in value]
    data: dict[str, Any] = {"type": type(value).__name__} if _tagged(hint) else {}
    for name, kind, default in _shape(type(value)):  # type: ignore[arg-type]
        each = getattr(value, name)
        if default is MISSING or each != default:
            data[name] = _encode(each, kind)
    return data


def decode(cls: type[T], data: Any) -> T:
    """JSON data back to a `cls`; unknown keys are ignored, missing ones take their default."""
    found: T = _decode(cls, data)
    return found


def _decode(hint: Any, data: Any) -> Any:
    if data is None or hint is Any:
        return data
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        tagged = _tagged(hint)
        if tagged:
            return _decode(tagged[data["type"]], data)
        return _decode(next(arg for arg in args if arg is not type(None)), data)
    if origin is tuple:
        kinds = [args[0]] * len(data) if args[-1] is Ellipsis else args
        return tuple(_decode(kind, each) for kind, each in zip(kinds, data, strict=True))
    if origin is Mapping:
        key, kind = args
        make = key.parse if key is Ref else key
        return {make(each): _decode(kind, value) for each, value in data.items()}
    if is_dataclass(hint) and isinstance(hint, type):
        return hint(**{name: _decode(kind, data[name]) for name, kind, _ in _shape(hint) if name in data})
    if isinstance(hint, type) and issubclass(hint, Enum):
        return hint(data)
    return data
