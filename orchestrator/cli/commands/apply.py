"""`apply`: commit the wish, then follow the agent, or reconcile in this process, until it holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from orchestrator.app import App
from orchestrator.cli.commands.ending import Ended, outcome
from orchestrator.control import neighbours, prune
from orchestrator.control.events import Event, Following, Waiting
from orchestrator.errors import ConflictError
from orchestrator.model.desired import Stack
from orchestrator.plan.changes import Policy
from orchestrator.state.words import Word


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """`timeout` in seconds. `wait`: until healthy and completed. `once`: in this process, without the agent. `resume`: also
    if it is suspended. `author`: for the history. `cancelled`: asked between steps."""

    policy: Policy
    timeout: float
    wait: bool
    once: bool
    resume: bool
    allow_prune: bool
    author: str
    cancelled: Callable[[], bool]


def guard(app: App, stacks: Sequence[Stack], options: Options) -> None:
    """Refuses, before anything is touched, what looks like half a manifest or takes from other stacks what they use; raises
    UsageError."""
    for stack in stacks:
        if app.recorded_as(stack):  # what is wished already was looked at when it was new
            continue
        if not options.allow_prune:
            prune.guard(stack, app.observe_containers(stack.name))
        lent = app.borrowed(stack.name, stack, prune_data=options.policy.prune_data)
        neighbours.guard(stack.name, lent, {each.name: each for each in stacks})


def apply(app: App, stack: Stack, options: Options) -> Iterator[Event]:
    """Events; the last one is an end, or a Waiting where we were told not to wait. ConflictError: not even for others."""
    if not options.wait:
        holder = app.busy(stack.name)
        if holder:
            raise ConflictError(holder, hint="apply without --no-wait takes its turn")
    number = app.commit(stack, prune_data=options.policy.prune_data, author=options.author)
    if options.resume:
        app.lift(stack.name, Word.SUSPEND, [None], author=options.author)
    following = Following(
        name=stack.name,
        revision=number,
        timeout=options.timeout,
        policy=options.policy,
        cancelled=options.cancelled,
    )
    if not options.wait and not options.once and app.has_agent:
        app.leave_to_agent(stack.name)
        yield Waiting(pending={})
        return
    for event in app.follow(following, command=f"apply {stack.name}", once=options.once):
        yield event
        if isinstance(event, Waiting) and not options.wait:
            return


def ended(app: App, stack: Stack, last: Event | None) -> Ended:
    return outcome(app, stack.name, last)
