"""What is remembered of one stack from pass to pass: failed attempts, what it waits for, whether it settles at all.

In: passes of a reconciler, a clock. Out: events, and a `Look`: how the stack stands and when to look again. Forgotten with
its process: a fresh one comes to the same after a few passes. Must not wait, and must not know who listens.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace

from orchestrator.control.chronicle import Chronicle
from orchestrator.control.outcome import Again, Settled, Stalled, Suspended
from orchestrator.control.probes import targets
from orchestrator.control.reconciler import Pass, PassEvent, Reconciler
from orchestrator.control.retries import Attempts
from orchestrator.control.tracking import Target
from orchestrator.model.ids import Kind, Ref
from orchestrator.plan.changes import Policy, Verb

LOOK_ANYWAY = 9.5  # seconds: drift of which nobody tells is mended within ten
SAME_CHANGES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """After one pass. `again`: at once, for there may be more to do now. `due`: seconds of the clock when to look again
    though nothing told to. `pending`: what each ref waits for. `end`: how it would end for somebody who waits."""

    done: Pass
    again: bool
    due: float
    pending: Mapping[Ref, str]
    end: Settled | Stalled | Suspended | None


class Keeping:
    """`watch(stack, targets)`: who is to be probed from now on."""

    def __init__(self, reconciler: Reconciler, name: str, watch: Callable[[str, list[Target]], None]) -> None:
        self.reconciler = reconciler
        self.name = name
        self.pending: Mapping[Ref, str] = {}
        self.chronicle = Chronicle(reconciler.store, name, wall=reconciler.wall, clock=reconciler.clock)
        self._watch = watch
        self._clock = reconciler.clock
        self._revision = -1
        self.fresh()

    def fresh(self) -> None:
        """Somebody asks anew: what failed is tried again."""
        self._attempts = Attempts()
        self._same: tuple[object, int] = ((), 0)

    def look(
        self, policy: Policy, cancelled: Callable[[], bool], *, timeout: float | None
    ) -> Generator[PassEvent, None, Look]:
        """One pass. ConflictError: somebody else holds the stack for longer than `timeout` seconds."""
        held = {**policy.held, **self._attempts.held(self._clock())}
        events = self.reconciler.one_pass(self.name, replace(policy, held=held), cancelled, timeout=timeout)
        done = yield from self._told(events)
        self._watch(self.name, targets(self.name, done.observed, self.reconciler.layout))
        if done.revision != self._revision:  # an edit: what was before it says nothing any more
            self._revision = done.revision
            self.fresh()
        self._remember(done)
        self.pending = self._pending(done)
        end = self._end(done)
        again = bool(done.plan.steps and done.finished) and not self._unsettled
        self.chronicle.looked(done, end, again=again)
        return Look(
            done=done,
            again=again,
            due=self._due(done),
            pending=self.pending,
            end=end,
        )

    def _told(self, events: Generator[PassEvent, None, Pass]) -> Generator[PassEvent, None, Pass]:
        with closing(events):
            while True:
                try:
                    event = next(events)
                except StopIteration as end:
                    done: Pass = end.value
                    return done
                self.chronicle.heard(event)
                yield event

    @property
    def _unsettled(self) -> bool:
        return self._same[1] >= SAME_CHANGES

    def _remember(self, done: Pass) -> None:
        now = self._clock()
        self._attempts.failed(done.failed, now)
        for ref in done.finished:
            self._attempts.succeeded(ref)
        wants = tuple((each.ref, each.reason) for each in done.plan.changes)
        # A container's starts have a law of their own (`plan.restarts`); all else must hold once it is done.
        settling = bool(done.plan.steps) and all(
            each.verb is Verb.UPDATE or each.ref.kind is not Kind.CONTAINER for each in done.plan.changes
        )
        again = self._same[1] + 1 if settling and self._same[0] == wants else 1
        self._same = (wants, again) if settling else ((), 0)

    def _end(self, done: Pass) -> Settled | Stalled | Suspended | None:
        if self._unsettled:
            return Stalled(
                reasons={each.ref: f"does not settle: {each.reason}" for each in done.plan.changes}
            )
        if isinstance(done.outcome, Settled | Suspended):
            return done.outcome
        if self._attempts.hopeful:
            return None
        if isinstance(done.outcome, Stalled):
            return done.outcome
        if done.failed and not done.finished:
            return Stalled(reasons=self.pending)
        return None

    def _pending(self, done: Pass) -> Mapping[Ref, str]:
        match done.outcome:
            case Again():
                return {**done.outcome.pending, **self._attempts.said}
            case Stalled():
                return done.outcome.reasons
            case Settled() | Suspended():
                return {}

    def _due(self, done: Pass) -> float:
        after = done.outcome.after if isinstance(done.outcome, Again) and not done.failed else None
        bounds = (LOOK_ANYWAY, after, self._attempts.next_due(self._clock()))
        return self._clock() + min(bound for bound in bounds if bound is not None)
