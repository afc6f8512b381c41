"""The plan as a value: why (`Change`) apart from how (`Step`).

In: built by `planner`. Out: read by `execute`, shown by the CLI. Plain data; the same input gives an equal plan.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from orchestrator.diagnostics import Span
from orchestrator.model.desired import Need, Spec, Update
from orchestrator.model.ids import Ref


class Verb(StrEnum):
    KEEP = "keep"
    CREATE = "create"
    START = "start"  # it exists and is not in effect
    UPDATE = "update"  # live: same process
    STOP = "stop"  # an operator holds it: it is not started until that is lifted
    RESTART = "restart"  # same incarnation, new process
    REPLACE = "replace"  # new incarnation
    DELETE = "delete"


class Op(StrEnum):
    CREATE = "create"
    START = "start"
    STOP = "stop"
    UPDATE = "update"
    DELETE = "delete"


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldChange:
    """One dotted field, encoded old and new value (None: not there), its update class and where it was written."""

    name: str
    old: Any
    new: Any
    update: Update
    place: Span | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What becomes of one ref and why. `id` is the incarnation that it acts on (None for a create).

    `cause` is the ref whose replacement cascades to this one. `waits` are needs that do not hold yet: the change has no
    steps in this plan, a later pass makes them. `not_before`: CLOCK_BOOTTIME seconds, restart back-off. `fault`: what the
    container is to blame for, so that its stop counts as a failure; `forgive`: what it failed before counts no more;
    `rests`: what is made is not started.
    """

    ref: Ref
    verb: Verb
    reason: str = ""
    id: str | None = None
    fields: tuple[FieldChange, ...] = ()
    cause: Ref | None = None
    waits: tuple[Need, ...] = ()
    not_before: float | None = None
    fault: str | None = None
    forgive: bool = False
    rests: bool = False
    place: Span | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One operation. `id` None means the incarnation that this plan's CREATE step of the same ref makes.

    `after`: numbers of steps that must have succeeded first. `spec`, `needs`: for CREATE and UPDATE; `fields`: the dotted
    names that an UPDATE changes; `fault`: what a STOP is for, where the container is to blame.
    """

    number: int
    op: Op
    ref: Ref
    id: str | None = None
    after: tuple[int, ...] = ()
    spec: Spec | None = None
    needs: tuple[Need, ...] = ()
    fields: tuple[str, ...] = ()
    fault: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Words of the user that change what a plan may do. `prune_data`: volumes that left the manifest are deleted too.

    `force`: refs to be restarted whatever their state. `held`: refs whose last attempt failed, with what was said: they are
    not tried again in this plan and stand among its failures. `stopped`: containers that an operator holds, with who and
    when in words: they are stopped, and not started.

    And what other stacks of this host have to say: `absent`: networks and volumes of theirs that are wished for and are not
    there; `borrowed`: those of this stack that others use, and who: they are not deleted.
    """

    prune_data: bool = False
    force: frozenset[Ref] = frozenset()
    held: Mapping[Ref, str] = field(default_factory=dict)
    stopped: Mapping[Ref, str] = field(default_factory=dict)
    absent: frozenset[Ref] = frozenset()
    borrowed: Mapping[Ref, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """`changes` in creation order (deletions after them, dependents first), without KEEP; `steps` by number.

    `failures`: refs that stay as they are, with the reason a user must act on (`gave up after 10 starts ...`, `exit 1,
    restart: never`). `holds`: refs that an operator holds, with who and when; what holds is no change. A plan without
    changes and failures means: settled, or waiting on health alone.
    """

    stack: str
    changes: tuple[Change, ...] = ()
    steps: tuple[Step, ...] = ()
    failures: Mapping[Ref, str] = field(default_factory=dict)
    holds: Mapping[Ref, str] = field(default_factory=dict)

    @property
    def empty(self) -> bool:
        return not self.changes
