"""`delete`: wish nothing of a stack any more, then follow until nothing is left of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from orchestrator.app import App
from orchestrator.cli.commands.ending import Ended, outcome
from orchestrator.control import neighbours
from orchestrator.control.events import Event, Following
from orchestrator.errors import UsageError
from orchestrator.graph import order
from orchestrator.plan.changes import Policy


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    prune_data: bool
    timeout: float
    once: bool
    author: str
    cancelled: Callable[[], bool]


def targets(app: App, names: Sequence[str], *, known: bool) -> tuple[str, ...]:
    """Those of `names` of which anything is here. `known`: one that is not is a UsageError, not a job well done."""
    existing = app.stacks()
    missing = [each for each in names if each not in existing]
    if missing and known:
        raise UsageError(
            f"no stack is called {missing[0]!r}", hint=f"there are: {', '.join(sorted(existing)) or 'none'}"
        )
    return tuple(dict.fromkeys(each for each in names if each in existing))


def guarded(app: App, names: Sequence[str], *, prune_data: bool) -> tuple[str, ...]:
    """`names`, those who use things of others first. Raises UsageError, before anything is touched, where a stack that is
    none of them would go on using something."""
    users: dict[str, set[str]] = {}
    for each in names:
        lent = app.borrowed(each, None, prune_data=prune_data)
        neighbours.guard(each, lent, dict.fromkeys(names))
        users[each] = {user for found in lent.values() for user in found}
    return tuple(order.order_anyway(names, users))


def delete(app: App, stack: str, options: Options) -> Iterator[Event]:
    """Events; the last one is an end."""
    following = Following(
        name=stack,
        revision=app.forget(stack, prune_data=options.prune_data, author=options.author),
        timeout=options.timeout,
        policy=Policy(prune_data=options.prune_data),
        cancelled=options.cancelled,
    )
    yield from app.follow(following, command=f"delete {stack}", once=options.once)


def ended(app: App, stack: str, last: Event | None) -> Ended:
    return outcome(app, stack, last)
