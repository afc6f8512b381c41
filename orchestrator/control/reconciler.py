"""One pass over one stack under its lock: what is wished, what is, plan, execute, record.

In: a stack's name. Out: events as they happen, then a Pass with its Outcome. It reads the wish and what operators said from
the store, and the world from the drivers, each time; it never waits for health and keeps nothing between passes that it
could not read again.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace

from orchestrator.control import health, neighbours, orders
from orchestrator.control.outcome import Again, Outcome, Settled, Suspended, judge
from orchestrator.errors import ConflictError, HostError
from orchestrator.execute.executor import Status, StepResult, execute
from orchestrator.model.desired import Stack
from orchestrator.model.ids import Kind, Ref
from orchestrator.model.observed import Observed
from orchestrator.plan.changes import Plan, Policy, Verb
from orchestrator.plan.planner import plan as make_plan
from orchestrator.ports.driver import Driver
from orchestrator.ports.layout import Layout
from orchestrator.state import document
from orchestrator.state.locks import StackLock
from orchestrator.state.store import Run, StepRow, Store
from orchestrator.supervisor import facts

ASK_STORE_EVERY = 0.05  # seconds between looks for a newer revision
BRIEFLY = 0.3  # seconds that a pass without much to do may hold the lock, which is told to nobody


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """A plan with work or complaints in it was made, for this revision."""

    plan: Plan
    revision: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Stepped:
    """A step has started, or has ended."""

    result: StepResult


@dataclass(frozen=True, slots=True, kw_only=True)
class Unrecorded:
    """A pass is missing in the history, because of `reason` (a full disk)."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Queued:
    """Somebody else is at work on the stack, as `holder` says: its turn comes first."""

    holder: str


PassEvent = Planned | Queued | Stepped | Unrecorded


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """One pass. `observed`: the world before it. `failed`: the last word on each ref whose step failed; `finished`: refs
    whose steps all went well. `superseded`: a newer revision cut it short."""

    revision: int
    plan: Plan
    observed: Observed
    outcome: Outcome
    failed: Mapping[Ref, StepResult] = field(default_factory=dict)
    finished: frozenset[Ref] = frozenset()
    superseded: bool = False


@dataclass(frozen=True, slots=True)
class _Quiet:
    """What a plan without changes and complaints was made from."""

    stack: Stack | None
    policy: Policy
    observed: Observed
    plan: Plan


class Reconciler:
    """`drivers`: one for each Kind (the same one may serve several). `pool` runs driver calls, at most `width` at once;
    `ids` gives ids of new incarnations; `clock` is CLOCK_BOOTTIME in seconds; `wall` Unix time; `command` stands in the
    lock for messages."""

    def __init__(
        self,
        *,
        store: Store,
        drivers: Mapping[Kind, Driver],
        layout: Layout,
        pool: Executor,
        width: int,
        ids: Callable[[], str],
        clock: Callable[[], float],
        wall: Callable[[], float],
        command: str,
    ) -> None:
        self.store = store
        self.drivers = drivers
        self.layout = layout
        self.pool = pool
        self.width = width
        self.ids = ids
        self.clock = clock
        self.wall = wall
        self.command = command
        self._decoded: dict[str, tuple[tuple[int, str], Stack]] = {}
        self._quiet: dict[str, _Quiet] = {}

    def desired(self, name: str) -> tuple[int, Stack | None, bool]:
        """(revision number, wish, whether data may be pruned) from the store; the wish is None for a deleted stack, and for
        one that no revision is about (number 0)."""
        mark = self.store.mark(name)
        if mark is None or mark.deleted:
            self._decoded.pop(name, None)
            self._quiet.pop(name, None)
            return (mark.number, None, mark.prune_data) if mark else (0, None, False)
        key = (mark.number, mark.digest)
        known = self._decoded.get(name)
        if known is None or known[0] != key:
            revision = self.store.revision(name, mark.number)
            assert revision is not None, f"revision {mark.number} of {name} is gone"
            known = self._decoded[name] = (key, document.decode(revision.document))
        return mark.number, known[1], mark.prune_data

    def observe(self, name: str) -> Observed:
        """The stack's incarnations as every driver sees them, with published health."""
        distinct = {id(driver): driver for driver in self.drivers.values()}.values()
        found = [each for driver in distinct for each in driver.observe(name)]
        return health.merge(tuple(found), self.layout, self.clock())

    def reconcile(self, name: str) -> Outcome:
        """One pass, its events dropped. ConflictError: somebody else holds the stack."""
        events = self.one_pass(name, Policy(), lambda: False, timeout=0.0)
        while True:
            try:
                next(events)
            except StopIteration as end:
                found: Pass = end.value
                return found.outcome

    def one_pass(
        self, name: str, policy: Policy, cancelled: Callable[[], bool], *, timeout: float | None
    ) -> Generator[PassEvent, None, Pass]:
        """One plan + execute under the lock, for which it waits `timeout` seconds (None: for ever). What is wished of a
        stack that no revision is about is unknown, not nothing: it is looked at and left alone."""
        lock = StackLock(self.layout.lock(name), stack=name, command=self.command)
        try:
            lock.acquire(wait=True, timeout=BRIEFLY if timeout is None else min(BRIEFLY, timeout))
        except ConflictError as error:
            if timeout == 0.0:
                raise
            yield Queued(holder=error.message)
            lock.acquire(wait=True, timeout=timeout)
        with lock:
            revision, stack, prune_data = self.desired(name)
            observed = self.observe(name)
            now = self.clock()
            if not revision:
                return Pass(revision=0, plan=Plan(stack=name), observed=observed, outcome=Settled())
            said = orders.read(self.store.words.of(name), observed, boot=facts.boot_id())
            if stack is not None and said.suspended:
                left = Suspended(why=said.suspended)
                return Pass(revision=revision, plan=Plan(stack=name), observed=observed, outcome=left)
            policy = said.policy(replace(policy, prune_data=policy.prune_data or prune_data))
            policy = neighbours.aware(policy, name, stack, observed, self.drivers)
            plan = self._planned(name, stack, observed, policy, now)
            blocked = self._blocked(stack, plan)
            if blocked:
                policy = replace(policy, held={**policy.held, **blocked})
                plan = make_plan(stack, observed, policy, now, name=name)
            if not plan.empty or plan.failures:
                yield Planned(plan=plan, revision=revision)
            if not plan.steps:
                outcome = judge(stack, plan, observed, now)
                return Pass(revision=revision, plan=plan, observed=observed, outcome=outcome)
            return (yield from self._execute(plan, observed, revision, cancelled))

    def _planned(
        self, name: str, stack: Stack | None, observed: Observed, policy: Policy, now: float
    ) -> Plan:
        """A plan without changes and complaints is the same at any time: it is made again only when what it was made from
        is not equal any more."""
        quiet = self._quiet.get(name)
        if quiet and quiet.stack is stack and quiet.policy == policy and quiet.observed == observed:
            return quiet.plan
        plan = make_plan(stack, observed, policy, now, name=name)
        if plan.empty and not plan.failures:
            self._quiet[name] = _Quiet(stack, policy, observed, plan)
        else:
            self._quiet.pop(name, None)
        return plan

    def _blocked(self, stack: Stack | None, plan: Plan) -> Mapping[Ref, str]:
        """Containers that this host could not start again (a secret or a bound folder is missing), with why: what runs is
        not stopped for a start that must fail."""
        if stack is None:
            return {}
        again = {
            each.ref: stack.resources[each.ref]
            for each in plan.changes
            if each.ref.kind is Kind.CONTAINER
            and each.verb in (Verb.RESTART, Verb.REPLACE)
            and not each.waits
        }
        if not again:
            return {}
        asked = Stack(name=plan.stack, resources=again, needs={})
        problems = self.drivers[Kind.CONTAINER].check(asked)
        return {each.ref: each.message for each in problems if each.ref in again}

    def _execute(
        self, plan: Plan, observed: Observed, revision: int, cancelled: Callable[[], bool]
    ) -> Generator[Stepped | Unrecorded, None, Pass]:
        watch = _Newer(self, plan.stack, revision, cancelled)
        began = self.wall()
        ends: list[StepResult] = []
        try:
            for result in execute(
                plan,
                self.drivers,
                observed=observed,
                pool=self.pool,
                width=self.width,
                ids=self.ids,
                clock=self.clock,
                cancelled=watch,
            ):
                if result.status is not Status.STARTED:
                    ends.append(result)
                yield Stepped(result=result)
        finally:
            unrecorded = self._record(plan.stack, revision, began, ends)
        if unrecorded:
            yield unrecorded
        failed = {each.step.ref: each for each in ends if each.status is Status.FAILED}
        return Pass(
            revision=revision,
            plan=plan,
            observed=observed,
            outcome=Again(after=0.0, pending={ref: each.error or "" for ref, each in failed.items()}),
            failed=failed,
            finished=frozenset(each.step.ref for each in ends)
            - {e.step.ref for e in ends if e.status is not Status.DONE},
            superseded=watch.superseded,
        )

    def _record(self, stack: str, revision: int, began: float, ends: list[StepResult]) -> Unrecorded | None:
        """One transaction for the whole pass, so that history costs no step a wait for the disk. What was done stands,
        whether it can be recorded or not: a full disk must not keep anybody from ending what fills it."""
        counts = {status: sum(each.status is status for each in ends) for status in Status}
        rows = tuple(
            StepRow(
                number=each.step.number,
                op=each.step.op.value,
                ref=str(each.step.ref),
                id=each.id,
                status=each.status.value,
                seconds=each.seconds,
                error=each.error,
            )
            for each in ends
        )
        outcome = (
            ", ".join(f"{counts[status]} {status}" for status in Status if counts[status]) or "interrupted"
        )
        run = Run(stack=stack, revision=revision, began=began, ended=self.wall(), outcome=outcome, steps=rows)
        try:
            self.store.record_run(run)
        except HostError as error:
            return Unrecorded(reason=error.message)
        return None


class _Newer:
    """Asked at each step boundary: did the user interrupt, or is there a newer revision? Looks into the store seldom."""

    def __init__(self, owner: Reconciler, stack: str, revision: int, cancelled: Callable[[], bool]) -> None:
        self.owner, self.stack, self.revision, self.cancelled = owner, stack, revision, cancelled
        self.superseded = False
        self._asked = owner.clock()

    def __call__(self) -> bool:
        now = self.owner.clock()
        if not self.superseded and now - self._asked >= ASK_STORE_EVERY:
            self._asked = now
            self.superseded = self.owner.store.number(self.stack) != self.revision
        return self.superseded or self.cancelled()
