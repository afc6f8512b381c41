"""What differs between a wish and what was applied, field by field.

In: a spec, the encoded spec kept beside the incarnation, what the kernel says. Out: `FieldChange`s with dotted names.
A field that is missing on either side counts as its default, so data written by an older version compares well.
"""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from typing import Any, Union, get_args, get_origin, get_type_hints

from orchestrator.diagnostics import Span
from orchestrator.model import codec
from orchestrator.model.desired import Content, Spec, Update
from orchestrator.model.ids import Ref
from orchestrator.model.observed import LOST
from orchestrator.plan.changes import FieldChange

Places = Mapping[tuple[Ref, str], Span]


def compare(ref: Ref, spec: Spec, applied: Mapping[str, Any], places: Places) -> tuple[FieldChange, ...]:
    """The fields of `spec` that differ from `applied`, in the order of the spec's fields."""
    wanted = codec.encode(spec)
    if wanted == applied:
        return ()
    applied = _served(applied, wanted)
    found = []
    for each in fields(spec):
        for name, old, new in _differences(type(spec), each.name, applied, wanted):
            if each.metadata["known"] and None in (old, new):
                continue
            update = _bytewise(old, new) if each.metadata["bytewise"] else each.metadata["update"]
            found.append(
                FieldChange(name=name, old=old, new=new, update=update, place=place(places, ref, name))
            )
    return tuple(found)


def _bytewise(old: Any, new: Any) -> Update:
    """The class of a changed `Content`: its own where the bytes differ. One that comes or goes does so by its mount."""
    if old is None or new is None or old["digest"] == new["digest"]:
        return Update.LIVE
    return codec.decode(Content, new).update


def _served(applied: Mapping[str, Any], wanted: Mapping[str, Any]) -> Mapping[str, Any]:
    """A secret that was edited between the wish and the start was used as it then was (`asked` keeps what was wished).
    Nobody can bring the old bytes back: who wishes either of the two has what can be had."""
    contents = applied.get("contents", {})
    if not any("asked" in each for each in contents.values()):
        return applied
    wishes = wanted.get("contents", {})
    served = {}
    for key, each in contents.items():
        asked = each.get("asked")
        served[key] = {name: value for name, value in each.items() if name != "asked"}
        if asked is not None and asked == wishes.get(key, {}).get("digest"):
            served[key]["digest"] = asked
    return {**applied, "contents": served}


def drift(ref: Ref, spec: Spec, actual: Mapping[str, Any], places: Places) -> tuple[FieldChange, ...]:
    """Live fields that somebody else changed; what the wish leaves unset should be at its default. What is LOST cannot be
    written to any more: it comes back with a new process."""
    if not actual:
        return ()
    cls: type = type(spec)
    wanted, shape, found = codec.encode(spec), _shape(cls), []
    for name, now in actual.items():
        top, *below = name.split(".")
        new = wanted[top] if top in wanted else shape[top][1]
        for part in below:
            new = new.get(part) if isinstance(new, Mapping) else None
        if new != now:
            span = place(places, ref, name)
            update = Update.RESTART if now == LOST else Update.LIVE
            found.append(FieldChange(name=name, old=now, new=new, update=update, place=span))
    return tuple(found)


def place(places: Places, ref: Ref, name: str) -> Span | None:
    """Where `name` was written: the nearest of it, the fields around it, and the resource."""
    while name:
        span = places.get((ref, name))
        if span:
            return span
        name = name.rpartition(".")[0]
    return places.get((ref, ""))


def _differences(
    cls: type, name: str, old: Any, new: Any, prefix: str = ""
) -> Iterator[tuple[str, Any, Any]]:
    """(dotted name, old, new) below one field of the dataclass `cls`."""
    hint, default = _shape(cls)[name]
    before, after = old.get(name, default), new.get(name, default)
    if before == after:
        return
    dotted = f"{prefix}{name}"
    inner = _dataclass(hint, before, after)
    if inner:
        for each in fields(inner):
            yield from _differences(inner, each.name, before, after, f"{dotted}.")
    elif get_origin(hint) is Mapping or _is_mapping(hint):
        for key in sorted({*before, *after}):
            if before.get(key) != after.get(key):
                yield f"{dotted}.{key}", before.get(key), after.get(key)
    else:
        yield dotted, before, after


@cache
def _shape(cls: type) -> Mapping[str, tuple[Any, Any]]:
    """Field name -> (type, encoded default; None where there is none)."""
    hints = get_type_hints(cls)
    shape = {}
    for each in fields(cls):
        default = each.default_factory() if each.default_factory is not MISSING else each.default
        shape[each.name] = (hints[each.name], None if default is MISSING else codec.encode(default))
    return shape


def _dataclass(hint: Any, before: Any, after: Any) -> type | None:
    """The one class that both encoded values are of; None where they must be shown whole."""
    if not isinstance(before, Mapping) or not isinstance(after, Mapping):
        return None
    args = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    found = {each.__name__: each for each in args if isinstance(each, type) and is_dataclass(each)}
    if len(found) > 1:
        return found.get(before["type"]) if before["type"] == after["type"] else None
    return next(iter(found.values()), None)


def _is_mapping(hint: Any) -> bool:
    origin = get_origin(hint)
    return isinstance(origin, type) and issubclass(origin, Mapping)
