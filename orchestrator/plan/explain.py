"""Short reasons for changes, in words of the user; values stay in `FieldChange`s and are formatted by views.

In: facts. Out: lower-case text without a period.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from orchestrator.model.desired import Need, Until
from orchestrator.model.ids import Ref
from orchestrator.plan.changes import FieldChange

NEW = "not there yet"
HALF_MADE = "was left half made"
NOT_IN_EFFECT = "not in effect"
ASKED = "a restart was asked for"
GONE = "not in the manifest any more"
STACK_GONE = "the stack is deleted"
SECOND = "a second incarnation"
DRIFTED = "changed behind our back"
READY = "ready"  # field of a service


def named(name: str) -> str:
    """A field in words of the user: a content is a `secret NAME` or `config NAME`, a bound file its path."""
    head, _, content = name.partition(".")
    if head == "bound":
        return f"the file at {content}"
    return content.replace("/", " ", 1) if head == "contents" else name


def changed(fields: Sequence[FieldChange]) -> str:
    """`limits.memory, env.LEVEL changed`; past three names a count."""
    names = [
        named(each.name) for each in fields if each.name != READY or len(fields) == 1
    ]  # it follows the others
    shown = ", ".join(names[:3])
    return f"{shown} and {len(names) - 3} more changed" if len(names) > 3 else f"{shown} changed"


def readiness(fields: Sequence[FieldChange], why: Mapping[str, str]) -> str | None:
    """`web-2 is unhealthy`, of a service whose instances became ready or unready; None where more than that changed."""
    if [each.name for each in fields] != [READY] or fields[0].old is None:
        return None
    old, new = fields[0].old, fields[0].new
    told = [f"{each} {why[each]}" for each in (*old, *new) if each in why and (each in old) != (each in new)]
    return f"{', '.join(told[:3])} and {len(told) - 3} more" if len(told) > 3 else ", ".join(told) or None


def drifted(fields: Sequence[FieldChange], damage: Sequence[str] = ()) -> str:
    names = [*damage, *(named(each.name) for each in fields)]
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{', '.join(names[:3])}{more} {DRIFTED}"


def replaced(cause: Ref) -> str:
    return f"{cause} is replaced"


def brought_back(cause: Ref) -> str:
    return f"{cause} was not in effect"


def followed(need: Need, *, coming: bool) -> str:
    return f"{need.ref} {'gets' if coming else 'has got'} a new process"


def used(stacks: Sequence[str]) -> str:
    return f"stack {stacks[0]} uses it" if len(stacks) == 1 else f"stacks {', '.join(stacks)} use it"


def held(why: str, fields: Sequence[FieldChange]) -> str:
    """`fields`: what was edited meanwhile and waits for a new process."""
    return f"{why}; {changed(fields)}, taken up when it is started"


def newly_bound(need: Need) -> str:
    return f"needs {need.ref} now"


def waiting(need: Need) -> str:
    """What an unmet need waits for."""
    match need.until:
        case Until.CREATED:
            return f"waits until {need.ref} is there"
        case Until.STARTED:
            return f"waits until {need.ref} runs"
        case Until.HEALTHY:
            return f"waits until {need.ref} is healthy"
        case Until.COMPLETED:
            return f"waits until {need.ref} has completed"
