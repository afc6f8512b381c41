"""How an apply or delete ended: one exit code, the reasons per ref, and what is there now."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.app import App
from orchestrator.cli.commands import status
from orchestrator.cli.exits import ExitCode
from orchestrator.control.events import Event, Interrupted, Superseded, TimedOut, Waiting
from orchestrator.control.outcome import Settled, Stalled, Suspended
from orchestrator.model.ids import Ref


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """`how`: one line for people; `suspended`: which they must see. `reasons`: refs that are not as wished; `held`: because
    somebody stopped them. `kept`: volumes that stay."""

    code: ExitCode
    how: str
    status: status.StackStatus
    reasons: Mapping[Ref, str]
    held: Mapping[Ref, str]
    kept: tuple[Ref, ...]
    suspended: bool = False


def outcome(app: App, stack: str, last: Event | None) -> Ended:
    """`last`: the last event that was seen; None: the iteration was cut off."""
    code, how, reasons = _meaning(stack, last)
    return Ended(
        code=code,
        how=how,
        status=status.of(app, stack, app.observe_containers(stack)),
        reasons=reasons,
        held=last.held if isinstance(last, Settled) else {},
        kept=app.volumes(stack),
        suspended=isinstance(last, Suspended),
    )


def _meaning(stack: str, last: Event | None) -> tuple[ExitCode, str, Mapping[Ref, str]]:
    match last:
        case Settled():
            return ExitCode.SETTLED, "settled", {}
        case Suspended():
            return ExitCode.SETTLED, f"{last.why}; nothing is done until `orchestrator resume {stack}`", {}
        case Waiting():
            return ExitCode.SETTLED, "not waited for", last.pending
        case Stalled():
            return ExitCode.FAILED, "failed", last.reasons
        case TimedOut():
            return ExitCode.FAILED, "not settled in the time given; what was made stays", last.reasons
        case Superseded():
            return ExitCode.CONFLICT, f"somebody else's revision {last.number} took over", {}
        case Interrupted(agent=True):
            return ExitCode.INTERRUPTED, "not followed any further; the agent goes on with this revision", {}
        case Interrupted() | None:
            return ExitCode.INTERRUPTED, "interrupted; the revision and what was made stay", {}
        case _:
            raise AssertionError(f"not an end: {last}")
