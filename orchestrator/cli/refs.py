"""From what people type to one thing: `web-1`, `web-1/server`, `container/web-1/server`, `shop:web-1`.

In: the text and what exists. Out: one candidate, or a `UsageError` that lists the candidates.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from orchestrator.errors import UsageError
from orchestrator.model.ids import Kind, Ref


@dataclass(frozen=True, slots=True, order=True)
class Named:
    """A thing of a stack, as a person names it."""

    stack: str
    ref: Ref

    def __str__(self) -> str:
        return f"{self.stack}:{self.ref}"


def find(text: str, existing: Iterable[Named]) -> Named:
    """The one thing that `text` names. Containers come first; other kinds by their whole name."""
    stack, _, rest = text.rpartition(":")
    scope = sorted(each for each in set(existing) if not stack or each.stack == stack)
    containers = _closest(rest, [each for each in scope if each.ref.kind is Kind.CONTAINER], _CONTAINER)
    if len(containers) == 1:
        return containers[0]
    others = _closest(rest, [each for each in scope if each.ref.kind is not Kind.CONTAINER], _WHOLE)
    if len(others) == 1 and {each.stack for each in containers} <= {others[0].stack}:
        return others[0]
    found = containers or others
    if found:
        raise UsageError(f"{text!r} names more than one thing", hint=f"write one of: {_listed(found)}")
    raise UsageError(f"nothing is called {text!r}", hint=_near(rest, scope))


def find_container(text: str, existing: Iterable[Named]) -> Named:
    """The one container that `text` names."""
    return find(text, [each for each in existing if each.ref.kind is Kind.CONTAINER])


def select(text: str, existing: Iterable[Named]) -> tuple[Named, ...]:
    """The containers that `text` names: one, those of an instance (`web-1`), or of all instances of a group (`web`)."""
    stack, _, rest = text.rpartition(":")
    rest = re.sub(r"^(group|service)/", "", rest)
    containers = (each for each in set(existing) if each.ref.kind is Kind.CONTAINER)
    scope = sorted((each for each in containers if not stack or each.stack == stack), key=_in_order)
    found = _closest(rest, scope, _CONTAINER)
    if not found:
        raise UsageError(f"nothing is called {text!r}", hint=_near(rest, scope))
    if len({(each.stack, _group(each.ref)) for each in found}) > 1:
        raise UsageError(f"{text!r} names more than one thing", hint=f"write one of: {_listed(found)}")
    return tuple(found)


def names(text: str, ref: Ref) -> bool:
    """Whether `text` may mean `ref`, or a group or an instance that it is of."""
    rest = re.sub(r"^(group|service)/", "", text)
    return any(matches(ref, text) or matches(ref, rest) for matches in _CONTAINER)


def natural(name: str) -> tuple[str, int, str]:
    """A key that puts web-2 before web-10; `name` is INSTANCE/CONTAINER."""
    instance, _, container = name.partition("/")
    group, _, number = instance.rpartition("-")
    return group or instance, int(number) if number.isdigit() else 0, container


def _in_order(each: Named) -> tuple[str, tuple[str, int, str]]:
    return each.stack, natural(each.ref.name)


def _group(ref: Ref) -> str:
    return re.sub(r"-\d+$", "", ref.name.partition("/")[0])


_Match = Callable[[Ref, str], bool]

_WHOLE: tuple[_Match, ...] = (
    lambda ref, text: str(ref) == text,
    lambda ref, text: ref.name == text,
)
# The nearer matches first: the whole ref, its name, its instance (`web-1`), its group or its own last part.
_CONTAINER: tuple[_Match, ...] = (
    *_WHOLE,
    lambda ref, text: ref.name.partition("/")[0] == text,
    lambda ref, text: text in (_group(ref), ref.name.partition("/")[2]),
)


def _closest(text: str, scope: Sequence[Named], levels: Sequence[_Match]) -> list[Named]:
    for matches in levels:
        found = [each for each in scope if matches(each.ref, text)]
        if found:
            return found
    return []


def _listed(found: Sequence[Named]) -> str:
    stacks = {each.stack for each in found}
    names = [str(each) if len(stacks) > 1 else str(each.ref) for each in found]
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def _near(text: str, scope: Sequence[Named]) -> str:
    if not scope:
        return "see `orchestrator ls` for what is applied here"
    names = {
        name: each
        for each in scope
        for name in (str(each.ref), each.ref.name, each.ref.name.partition("/")[0])
    }
    near = difflib.get_close_matches(text, names, n=1)
    return f"did you mean {names[near[0]].ref}?" if near else "see `orchestrator ps` for what there is"
