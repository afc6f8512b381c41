"""What operators want of single containers or of a whole stack: restart, stop, start, suspend, resume.

In: texts that name them. Each word is recorded in the store, and then the agent, or a reconciler in this process, heeds it;
we follow until it is done, whatever else goes on in the stack.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from orchestrator.app import App
from orchestrator.cli import refs
from orchestrator.cli.commands.ending import Ended, outcome
from orchestrator.cli.exits import ExitCode
from orchestrator.control import orders
from orchestrator.control.events import Event, Following, Waiting
from orchestrator.control.outcome import Settled
from orchestrator.control.probes import HealthChange
from orchestrator.control.reconciler import Planned, Stepped
from orchestrator.errors import UsageError
from orchestrator.execute.executor import Status
from orchestrator.model.ids import Ref
from orchestrator.model.observed import Health, Observation, Phase
from orchestrator.plan.changes import Change, Op, Verb
from orchestrator.state.words import Word

STOPPED = "stopped"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """As `apply` has them. `author`: who says it, by which verb."""

    author: str
    timeout: float
    wait: bool
    once: bool
    cancelled: Callable[[], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """Something that was recorded about the containers `targets` of a stack (none: the stack itself). `reached`: is one of
    them as it should be? `how`: that, in a word. `notes`: what is left out, and why."""

    stack: str
    targets: tuple[Ref, ...] = ()
    reached: Callable[[Observation], bool] = lambda each: False
    how: str = ""
    notes: Mapping[Ref, str]


def restart(app: App, texts: Sequence[str], options: Options) -> list[Told]:
    """A new process for each, in turn; nothing for those that are held."""
    told = []
    for stack, targets in _targets(app, texts).items():
        held = _stopped(app, stack, targets)
        asked = tuple(each for each in targets if each not in held)
        if not asked:
            first = next(iter(held))
            raise UsageError(
                f"{first} is {held[first]}", hint=f"`orchestrator start {stack}:{first.name}` lifts that"
            )
        said = app.say(stack, Word.RESTART, asked, author=options.author)
        moment = said[0].since_boot
        notes = {ref: f"left alone: {why}" for ref, why in held.items()}
        told.append(Told(stack=stack, targets=asked, reached=_renewed(moment), how="restarted", notes=notes))
    return told


def stop(app: App, texts: Sequence[str], options: Options) -> list[Told]:
    """None of them runs until it is started again."""
    told = []
    for stack, targets in _targets(app, texts).items():
        held = _stopped(app, stack, targets)  # whoever was first keeps it
        app.say(stack, Word.HOLD, [each for each in targets if each not in held], author=options.author)
        told.append(Told(stack=stack, targets=targets, reached=_rests, how=STOPPED, notes={}))
    return told


def start(app: App, texts: Sequence[str], options: Options) -> list[Told]:
    """Lifts holds; what has come to its end by itself, or was given up, is started once more."""
    told = []
    for stack, targets in _targets(app, texts).items():
        ended = tuple(
            each.ref for each in app.observe_containers(stack) if each.ref in targets and _ended_itself(each)
        )
        if ended:
            app.say(stack, Word.RESTART, ended, author=options.author)
        app.lift(stack, Word.HOLD, targets, author=options.author)
        told.append(Told(stack=stack, targets=targets, reached=_is_up, how="started", notes={}))
    return told


def suspend(app: App, stack: str, options: Options) -> Told:
    _known(app, stack)
    app.say(stack, Word.SUSPEND, [None], author=options.author)
    return Told(stack=stack, notes={})


def resume(app: App, stack: str, options: Options) -> Told:
    _known(app, stack)
    app.lift(stack, Word.SUSPEND, [None], author=options.author)
    return Told(stack=stack, notes={})


def follow(app: App, told: Told, options: Options) -> Iterator[Event]:
    """Until it is done, or the stack has come to an end otherwise."""
    resident = app.has_agent and not options.once
    if resident and not options.wait:
        app.leave_to_agent(told.stack)
        yield Waiting(pending={})
        return
    following = Following(
        name=told.stack,
        revision=app.revision(told.stack) or 0,
        timeout=options.timeout,
        cancelled=options.cancelled,
    )
    begun: set[Ref] = set()  # whose last step is still to be told
    for event in app.follow(following, command=f"{options.author} {told.stack}", once=options.once):
        if isinstance(event, HealthChange) and told.targets and event.incarnation.ref not in told.targets:
            continue  # what others do meanwhile is not the question
        yield event
        look = isinstance(event, Waiting | HealthChange)
        if isinstance(event, Planned):
            begun |= {each.ref for each in event.plan.changes if _begins(each, told)}
        elif isinstance(event, Stepped) and _ends(event, told):
            begun.discard(event.result.step.ref)
            look = not begun
        # A pass in this process is not left in its midst: there is nobody else to end it.
        look = look and (resident or isinstance(event, Waiting))
        if look and (not options.wait or _done(app, told)):
            return


def _begins(change: Change, told: Told) -> bool:
    """A step that ends it is about to be made."""
    verbs = (Verb.STOP,) if told.how == STOPPED else (Verb.START, Verb.RESTART)
    now = not change.waits and change.not_before is None
    return change.ref in told.targets and change.verb in verbs and now


def _ends(event: Stepped, told: Told) -> bool:
    result = event.result
    return result.status is not Status.STARTED and result.step.op is (
        Op.STOP if told.how == STOPPED else Op.START
    )


def ended(app: App, told: Told, last: Event | None, options: Options) -> Ended:
    if options.wait and _done(app, told):
        return replace(outcome(app, told.stack, Settled()), how=_summary(told), reasons=told.notes)
    found = outcome(app, told.stack, last)
    if not told.targets or not options.wait:
        return found
    held = {ref: why for ref, why in found.held.items() if ref in told.targets}
    found = replace(found, reasons={**told.notes, **found.reasons}, held=held)
    if isinstance(last, Settled):
        return replace(found, code=ExitCode.FAILED, how=f"not {told.how} yet")
    return found


def _done(app: App, told: Told) -> bool:
    found = {each.ref: each for each in app.observe_containers(told.stack) if each.ref in told.targets}
    return bool(told.targets) and all(ref in found and told.reached(found[ref]) for ref in told.targets)


def _summary(told: Told) -> str:
    names = ", ".join(each.name for each in told.targets[:3])
    more = len(told.targets) - 3
    return f"{told.how} {names}" + (f" and {more} more" if more > 0 else "")


def _renewed(since_boot: float) -> Callable[[Observation], bool]:
    return lambda each: orders.fulfilled(since_boot, each) and _is_up(each)


def _is_up(each: Observation) -> bool:
    """It runs, healthy where that is probed; a job may have done its work already."""
    if each.phase is not Phase.RUNNING:
        return each.phase is Phase.EXITED and each.exits[-1].success
    return each.applied.get("health") is None or each.health is Health.HEALTHY


def _rests(each: Observation) -> bool:
    return each.phase is not Phase.RUNNING


def _ended_itself(each: Observation) -> bool:
    return each.phase is Phase.EXITED and not each.exits[-1].forgiven


# what is named


def _targets(app: App, texts: Sequence[str]) -> dict[str, tuple[Ref, ...]]:
    """The wished containers that the texts name, by stack; every name is understood before anything is recorded."""
    existing = [refs.Named(name, ref) for name in app.stacks() for ref in app.wished(name)]
    found: dict[str, dict[Ref, None]] = {}
    for text in texts:
        for each in refs.select(text, existing):
            found.setdefault(each.stack, {})[each.ref] = None
    for stack in found:
        suspended = app.orders(stack, ()).suspended
        if suspended:
            raise UsageError(
                f"stack {stack} is {suspended}", hint=f"`orchestrator resume {stack}` comes first"
            )
    return {stack: tuple(targets) for stack, targets in found.items()}


def _stopped(app: App, stack: str, targets: Sequence[Ref]) -> dict[Ref, str]:
    stopped = app.orders(stack, ()).stopped
    return {ref: stopped[ref] for ref in targets if ref in stopped}


def _known(app: App, stack: str) -> None:
    if app.revision(stack) is None:
        names = ", ".join(sorted(name for name in app.stacks() if app.revision(name) is not None))
        raise UsageError(f"no stack is called {stack!r}", hint=f"there are: {names or 'none'}")
