"""What a stack and the other stacks of this host have of each other: external networks and volumes.

In: a wish, its observations, drivers. Out: a Policy that knows what is absent and what is borrowed. It looks at the owners,
or the borrowers, only where the wish or its deletions are about such things.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from orchestrator.errors import UsageError
from orchestrator.graph import order
from orchestrator.model.desired import Stack
from orchestrator.model.ids import Kind, Ref
from orchestrator.model.observed import Observed, Phase
from orchestrator.plan import explain
from orchestrator.plan.changes import Policy
from orchestrator.ports.driver import Driver

Drivers = Mapping[Kind, Driver]
LENT = frozenset({Kind.NETWORK, Kind.VOLUME})


def aware(policy: Policy, name: str, stack: Stack | None, observed: Observed, drivers: Drivers) -> Policy:
    """`policy` for the stack `name`, with what its neighbours have to say."""
    return replace(
        policy,
        absent=absent(stack, drivers) if stack else frozenset(),
        borrowed=borrowed(name, doomed(stack, observed, prune_data=policy.prune_data), drivers),
    )


def absent(stack: Stack, drivers: Drivers) -> frozenset[Ref]:
    """External refs of the wish whose owner does not have them in effect."""
    wanted = [ref for ref in stack.resources if ref.kind in LENT and ref.owner is not None]
    there: dict[tuple[str, Kind], set[str]] = {}
    for ref in wanted:
        owner = ref.owner or ""
        if (owner, ref.kind) not in there:
            there[owner, ref.kind] = {
                f"{owner}/{each.ref.name}"
                for each in drivers[ref.kind].observe(owner)
                if each.ref.kind is ref.kind and each.phase is Phase.RUNNING
            }
    return frozenset(ref for ref in wanted if ref.name not in there[ref.owner or "", ref.kind])


def doomed(stack: Stack | None, observed: Observed, *, prune_data: bool) -> frozenset[Ref]:
    """Own networks and volumes that a plan for the wish would delete."""
    wished = stack.resources if stack else {}
    kinds = LENT if prune_data else LENT - {Kind.VOLUME}
    return frozenset(
        each.ref
        for each in observed
        if each.ref.kind in kinds and each.ref.owner is None and each.ref not in wished
    )


def borrowed(name: str, refs: frozenset[Ref], drivers: Drivers) -> Mapping[Ref, tuple[str, ...]]:
    """Those of `refs`, things of the stack `name`, that other stacks use, and which."""
    found = {}
    for kind in sorted({ref.kind for ref in refs}):
        users: dict[str, list[str]] = {}
        for other in sorted(drivers[kind].stacks() - {name}):
            for each in drivers[kind].observe(other):
                if each.ref.kind is kind and each.ref.owner == name:
                    users.setdefault(each.ref.name.partition("/")[2], []).append(other)
        for ref in sorted(refs):
            if ref.kind is kind and ref.name in users:
                found[ref] = tuple(users[ref.name])
    return found


def guard(name: str, found: Mapping[Ref, tuple[str, ...]], others: Mapping[str, Stack | None]) -> None:
    """Raises UsageError for the first thing of the stack `name` that somebody goes on using.

    `others`: what the same command makes of the other stacks, None for those that it deletes.
    """
    for ref, users in found.items():
        there = Ref(ref.kind, f"{name}/{ref.name}")
        using = [each for each in users if each not in others or there in _wished(others[each])]
        if using:
            raise UsageError(
                f"{ref} of stack {name} cannot be deleted: {explain.used(using)}",
                hint=f"take {there.name} out of {using[0]} first, or delete {using[0]}",
            )


def owners(refs: Iterable[Ref]) -> frozenset[str]:
    """The other stacks whose things these are."""
    return frozenset(ref.owner for ref in refs if ref.owner is not None)


def owners_first(stacks: Iterable[Stack]) -> tuple[Stack, ...]:
    """Those of whose networks and volumes others make use before these; otherwise in the order given."""
    known = {each.name: each for each in stacks}
    after = {name: owners(each.resources) for name, each in known.items()}
    return tuple(known[name] for name in order.order_anyway(list(known), after))


def _wished(stack: Stack | None) -> Mapping[Ref, object]:
    return stack.resources if stack else {}
