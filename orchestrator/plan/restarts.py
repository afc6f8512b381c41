"""The law of restarts: what becomes of a container that has ended, or is unhealthy, from its exits and the time alone.

In: a spec, an observation, `now` (CLOCK_BOOTTIME seconds). Out: start now, start at t, or stay with or without a complaint.
First restart at once, then after 1 s doubling to 60 s; 60 s up resets; 10 starts in 10 min without success end it. An edit
(`Observation.edited`) resets too. Jobs stop after their retries. Of an earlier boot only the last end of a service counts,
and only for whether it is started at all.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from orchestrator.model.desired import ContainerSpec, RestartPolicy
from orchestrator.model.observed import Exit, Observation, Phase

STEADY = 60.0
LONGEST = 60.0
BURST = 10
WINDOW = 600.0
KEPT = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """`start` with its `reason`, not before `not_before`; otherwise it stays, and `failure` tells a user why not."""

    start: bool
    reason: str = ""
    not_before: float | None = None
    failure: str | None = None


def completed(observation: Observation) -> bool:
    """Its last run ended well and by itself: what `completed` waits for."""
    last = observation.exits[-1] if observation.exits else None
    return observation.phase is not Phase.RUNNING and last is not None and last.success and not last.stopped


def decide(spec: ContainerSpec, observation: Observation, now: float) -> Verdict:
    """For a container that is created or exited and whose spec needs no new process."""
    if not observation.exits:
        return Verdict(start=True, reason="not running")
    last = observation.exits[-1]
    if last.forgiven:
        return Verdict(start=True, reason="was stopped")
    if spec.job is not None:
        runs = len(_since_reset(spec, observation))
        if runs == len(observation.exits) >= KEPT:  # older ends are not kept
            runs = max(runs, observation.restarts + 1)
        return _job(spec.job.retries, last, runs, now)
    match spec.restart:
        case RestartPolicy.NEVER:
            failure = None if last.success else f"{last}, restart: never"
            return Verdict(start=False, failure=failure)
        case RestartPolicy.ON_FAILURE if last.success:
            return Verdict(start=False)
        case RestartPolicy.ON_FAILURE | RestartPolicy.ALWAYS if last.earlier:
            return Verdict(start=True, reason="not running")
        case RestartPolicy.ON_FAILURE | RestartPolicy.ALWAYS:
            return _service(last, _since_reset(spec, observation), now)


def liveness(spec: ContainerSpec, observation: Observation, now: float) -> Verdict:
    """For a container that runs and is unhealthy: a new process as if it had ended when it fell ill.

    While it waits for that, and when it has had its starts, it goes on running: it may recover.
    """
    if observation.started is None or spec.restart is RestartPolicy.NEVER:
        return Verdict(start=False)
    reason = f"is unhealthy: {observation.said}" if observation.said else "is unhealthy"
    ill = now if observation.since is None else max(observation.started, observation.since)
    due = Exit(started=observation.started, ended=ill, fault=reason)
    return _service(due, _since_reset(spec, replace(observation, exits=(*observation.exits, due))), now)


def _steady(spec: ContainerSpec, end: Exit) -> float:
    """Seconds up that make good what was before. Of a run that ended for its health, the time in which that was found
    out, and the wait, do not count."""
    probe = spec.health
    if probe is None or end.fault is None:
        return STEADY
    found = max(probe.start_period, probe.interval) + probe.retries * (probe.interval + probe.timeout)
    return STEADY + LONGEST + found


def _job(retries: int, last: Exit, runs: int, now: float) -> Verdict:
    if last.success:
        return Verdict(start=False)
    if runs > retries:
        return Verdict(start=False, failure=f"job failed: {last} after {runs} run{'s' if runs > 1 else ''}")
    return _again(last, runs, now)


def _service(last: Exit, ends: tuple[Exit, ...], now: float) -> Verdict:
    quick = ends[-BURST:]
    burst = len(quick) == BURST and quick[-1].ended - quick[0].started <= WINDOW
    if burst and not any(each.success for each in quick):
        return Verdict(start=False, failure=f"gave up after {BURST} starts in 10 min: {last}")
    return _again(last, len(ends), now)


def _again(last: Exit, ends: int, now: float) -> Verdict:
    due = last.ended + back_off(ends)
    return Verdict(start=True, reason=str(last), not_before=due if due > now else None)


def back_off(ends: int) -> float:
    """Seconds to wait after the `ends`-th end in a row: 0, 1, 2, 4, ... 60."""
    return 0.0 if ends <= 1 else min(LONGEST, 2.0 ** min(ends - 2, 16))


def _since_reset(spec: ContainerSpec, observation: Observation) -> tuple[Exit, ...]:
    """The ends in a row that count, oldest first: back to a stop of ours or an edit; of a service, also to a steady run or
    the boot."""
    counted: list[Exit] = []
    for each in reversed(observation.exits):
        if each.forgiven or (observation.edited is not None and each.started < observation.edited):
            break
        if spec.job is None and each.earlier:
            break
        counted.append(each)
        if spec.job is None and each.ended - each.started >= _steady(spec, each):
            break
    return tuple(reversed(counted))
