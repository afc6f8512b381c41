"""Runs a plan's steps against drivers, as many at once as the plan and the pool allow.

In: a Plan, drivers by kind, the observations it was made from. Out: `StepResult`s as they happen, each step's last one
being done, failed or skipped. A failed step skips its dependents by name and nothing else. No retries, no waiting.
"""

from __future__ import annotations

import heapq
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from enum import StrEnum
from queue import SimpleQueue

from orchestrator.errors import OrchestratorError, StepError
from orchestrator.model.ids import Incarnation, Kind, Ref
from orchestrator.model.observed import Observed
from orchestrator.plan.changes import Op, Plan, Step
from orchestrator.ports.driver import Bound, Driver

log = logging.getLogger(__name__)


class Status(StrEnum):
    STARTED = "started"
    DONE = "done"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """What became of one step. `seconds`: how long it took. `errno` and `hint` as the driver gave them; `blocked_by`: the
    ref whose failure skipped this step (None: the run was interrupted)."""

    step: Step
    status: Status
    id: str
    seconds: float = 0.0
    error: str | None = None
    errno: int | None = None
    hint: str | None = None
    blocked_by: Ref | None = None


Message = tuple[Step, float, BaseException | None, bool]  # bool: it has ended


def execute(
    plan: Plan,
    drivers: Mapping[Kind, Driver],
    *,
    observed: Observed,
    pool: Executor,
    width: int,
    ids: Callable[[], str],
    clock: Callable[[], float],
    cancelled: Callable[[], bool],
) -> Iterator[StepResult]:
    """Yields results until every step has one; at most `width` run at once.

    `cancelled` is asked at each step boundary: what runs is finished, the rest is skipped. When the caller stops
    iterating, running steps are waited for. Errors of drivers become results.
    """
    run = _Run(plan, drivers, _incarnations(plan, observed, ids), clock, width)
    try:
        while run.ready or run.running:
            if run.ready and cancelled():
                yield from run.skip_all("interrupted")
            for step in run.next():
                pool.submit(run.work, step)
            if run.running:
                yield from run.receive()
    finally:
        run.drain()


def _incarnations(plan: Plan, observed: Observed, ids: Callable[[], str]) -> dict[Ref, Incarnation]:
    """The incarnation that each ref will have: new ones for CREATE steps, else the one that the plan keeps."""
    leaving = {(step.ref, step.id) for step in plan.steps if step.op is Op.DELETE}
    leaving |= {(each.ref, each.id) for each in plan.changes if each.verb == "delete"}
    named = {
        each.ref: each.id
        for each in observed
        if (each.ref, each.id) not in leaving or each.ref.kind is Kind.VOLUME
    }
    for step in plan.steps:
        if step.op is Op.CREATE:
            named[step.ref] = step.id or ids()
        elif step.op is not Op.DELETE and step.id is not None and (step.ref, step.id) not in leaving:
            named[step.ref] = step.id
    return {ref: Incarnation(plan.stack, ref, id) for ref, id in named.items()}


@dataclass
class _Run:
    plan: Plan
    drivers: Mapping[Kind, Driver]
    incarnations: Mapping[Ref, Incarnation]
    clock: Callable[[], float]
    width: int
    ready: list[tuple[int, int]] = field(default_factory=list)  # (rank, number)
    running: int = 0
    busy: set[Ref] = field(default_factory=set)
    messages: SimpleQueue[Message] = field(default_factory=SimpleQueue)

    def __post_init__(self) -> None:
        self.steps = {step.number: step for step in self.plan.steps}
        self.missing = {step.number: len(step.after) for step in self.plan.steps}
        self.followers: dict[int, list[int]] = {number: [] for number in self.steps}
        for step in self.plan.steps:
            for other in step.after:
                self.followers[other].append(step.number)
        self.ready = [
            (_rank(self.steps[number]), number) for number, count in self.missing.items() if not count
        ]
        heapq.heapify(self.ready)

    def next(self) -> list[Step]:
        """Takes the steps that may run now: the most urgent first, at most one a ref at a time."""
        chosen: list[Step] = []
        deferred: list[tuple[int, int]] = []
        while self.ready and self.running + len(chosen) < self.width:
            entry = heapq.heappop(self.ready)
            step = self.steps[entry[1]]
            if step.ref in self.busy:
                deferred.append(entry)
                continue
            self.busy.add(step.ref)
            chosen.append(step)
        for entry in deferred:
            heapq.heappush(self.ready, entry)
        self.running += len(chosen)
        return chosen

    def work(self, step: Step) -> None:
        """In the pool: one driver call."""
        began = self.clock()
        self.messages.put((step, began, None, False))
        failure: BaseException | None = None
        try:
            self._call(step)
        except BaseException as error:  # handed to `receive`, which raises what no driver may raise
            failure = error
        self.messages.put((step, self.clock() - began, failure, True))

    def _call(self, step: Step) -> None:
        driver, target = self.drivers[step.ref.kind], self.target(step)
        match step.op:
            case Op.CREATE:
                assert step.spec is not None
                driver.create(target, step.spec, self._bound(step))
            case Op.START:
                driver.start(target)
            case Op.STOP:
                driver.stop(target, fault=step.fault)
            case Op.UPDATE:
                assert step.spec is not None
                driver.update(target, step.spec, step.fields, self._bound(step))
            case Op.DELETE:
                driver.delete(target)

    def target(self, step: Step) -> Incarnation:
        return Incarnation(self.plan.stack, step.ref, step.id) if step.id else self.incarnations[step.ref]

    def _bound(self, step: Step) -> Sequence[Bound]:
        # What runs goes on without that for which only a start would wait.
        required = [need for need in step.needs if need.structural or step.op is Op.CREATE]
        absent = [need.ref for need in required if need.ref not in self.incarnations]
        if absent:
            raise StepError(f"{step.op} {step.ref}: {absent[0]} is not there", hint="apply again")
        there = [need for need in step.needs if need.ref in self.incarnations]
        return [Bound(need=need, target=self.incarnations[need.ref]) for need in there]

    def receive(self) -> Iterator[StepResult]:
        """Waits for one message and passes it on, with the skips that a failure brings."""
        step, seconds, failure, ended = self.messages.get()
        id = self.target(step).id
        if not ended:
            yield StepResult(step=step, status=Status.STARTED, id=id)
            return
        self.running -= 1
        self.busy.discard(step.ref)
        if failure is None:
            for number in self.followers[step.number]:
                self.missing[number] -= 1
                if not self.missing[number]:
                    heapq.heappush(self.ready, (_rank(self.steps[number]), number))
            yield StepResult(step=step, status=Status.DONE, id=id, seconds=seconds)
            return
        failure = _as_step_error(step, failure)
        yield StepResult(
            step=step,
            status=Status.FAILED,
            id=id,
            seconds=seconds,
            error=_bare(step, failure.message),
            errno=failure.errno if isinstance(failure, StepError) else None,
            hint=failure.hint,
        )
        yield from self._skip_followers(step)

    def _skip_followers(self, failed: Step) -> Iterator[StepResult]:
        todo, seen = list(self.followers[failed.number]), set[int]()
        while todo:
            number = todo.pop(0)
            if number in seen or self.missing[number] < 0:
                continue
            seen.add(number)
            self.missing[number] = -1  # never ready any more
            step = self.steps[number]
            yield self._skipped(step, f"{failed.op} of {failed.ref} failed", failed.ref)
            todo += self.followers[number]

    def skip_all(self, why: str) -> Iterator[StepResult]:
        """Everything that has not begun; what runs goes on to its end."""
        waiting = {number for number, count in self.missing.items() if count > 0} | {
            number for _, number in self.ready
        }
        self.ready.clear()
        for number in sorted(waiting):
            self.missing[number] = -1
            yield self._skipped(self.steps[number], why, None)

    def _skipped(self, step: Step, why: str, cause: Ref | None) -> StepResult:
        return StepResult(
            step=step, status=Status.SKIPPED, id=self.target(step).id, error=why, blocked_by=cause
        )

    def drain(self) -> None:
        """After the caller gave up: no step may still run when it lets go of the lock."""
        while self.running:
            if self.messages.get()[3]:
                self.running -= 1


# What others wait for first, then each container to its end before the next group begins: groups are the work of this
# process, launches that of the supervisor, and so both are busy. Services last: they are cheapest all at once.
_BRING_UP = {Kind.CONTAINER: 1, Kind.GROUP: 2, Kind.SERVICE: 3}


def _rank(step: Step) -> int:
    rank = _BRING_UP.get(step.ref.kind, 0)
    return -rank if step.op in (Op.STOP, Op.DELETE) else rank


def _bare(step: Step, message: str) -> str:
    """Without the ref, and the operation, that it begins with: a result is always told with its step."""
    ref = str(step.ref)
    heads = (f"{step.op} of {ref}: ", f"{step.op} {ref}: ", f"{ref}: ")
    return next((message.removeprefix(head) for head in heads if message.startswith(head)), message)


def _as_step_error(step: Step, failure: BaseException) -> OrchestratorError:
    """A driver raises nothing but ours; a fault of its own fails its step alone. A crash of the process goes on up."""
    if isinstance(failure, OrchestratorError):
        return failure
    if isinstance(failure, OSError):
        return StepError.of(f"{step.op} of {step.ref}", failure)
    if isinstance(failure, Exception):
        log.error("driver fault", exc_info=failure)
        return StepError(f"{step.op} of {step.ref}: fault in the driver: {type(failure).__name__}: {failure}")
    raise failure
