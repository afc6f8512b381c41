"""The guard against an apply of half a manifest: what it would end because it is not written any more."""

from __future__ import annotations

import re
from collections.abc import Iterable

from orchestrator.errors import UsageError
from orchestrator.model.desired import Stack
from orchestrator.model.ids import Kind, Ref
from orchestrator.model.observed import Observation, Phase

_SHOWN = 6


def guard(stack: Stack, observed: Iterable[Observation]) -> None:
    """Raises UsageError when more than half of the running containers left the manifest.

    Fewer `replicas` of a group that is still written are meant, and do not count.
    """
    running = [
        each.ref for each in observed if each.ref.kind is Kind.CONTAINER and each.phase is Phase.RUNNING
    ]
    written = {_written(ref) for ref in stack.resources if ref.kind is Kind.CONTAINER}
    gone = sorted(ref for ref in running if _written(ref) not in written)
    if 2 * len(gone) <= len(running):
        return
    names = ", ".join(map(str, gone[:_SHOWN])) + (
        f" and {len(gone) - _SHOWN} more" if len(gone) > _SHOWN else ""
    )
    raise UsageError(
        f"this would delete {len(gone)} of the {len(running)} running containers of stack {stack.name}, "
        f"which are not in the manifest any more: {names}",
        hint="add --allow-prune if that is meant, or use `orchestrator delete` to end the whole stack",
    )


def _written(ref: Ref) -> tuple[str, str]:
    """The names that stand in the manifest: (group, container)."""
    instance, _, container = ref.name.partition("/")
    return re.sub(r"-\d+$", "", instance), container
