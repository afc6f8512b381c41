"""What probing has found, published as a file beside each container, and read back by whoever asks.

In: published files, observations. Out: observations with health. The stamp is CLOCK_BOOTTIME: health that nobody
renewed for three intervals and a timeout is `unknown`. A file about an earlier process of the container says nothing.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from orchestrator.model import codec, desired
from orchestrator.model.ids import Kind
from orchestrator.model.observed import Health, Observation, Observed, Phase
from orchestrator.ports.layout import Layout

OUTPUT_LIMIT = 1024
SAME_START = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """`at`, `started` (of the probed process) and `since` (when the health became so): CLOCK_BOOTTIME seconds. `output`: of
    the last probe, at most 1 KiB."""

    health: Health
    at: float
    started: float
    since: float
    failures: int = 0
    output: str = ""


def path(layout: Layout, id: str) -> Path:
    return layout.container_run(id) / "health.json"


def publish(file: Path, found: Published) -> None:
    """Atomically; a container that is being deleted has no folder any more, which is no error."""
    data = {
        "health": found.health.value,
        "at": found.at,
        "started": found.started,
        "since": found.since,
        "failures": found.failures,
        "output": found.output[:OUTPUT_LIMIT],
    }
    path = os.fspath(file)
    try:
        fd = os.open(f"{path}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    except FileNotFoundError:
        return
    try:
        os.write(fd, json.dumps(data).encode())
    finally:
        os.close(fd)
    os.replace(f"{path}.new", path)  # noqa: PTH105


def read(file: Path) -> Published | None:
    """What was published; None when there is nothing readable."""
    try:
        data = json.loads(file.read_bytes())
        return Published(
            health=Health(data["health"]),
            at=float(data["at"]),
            started=float(data["started"]),
            since=float(data["since"]),
            failures=int(data["failures"]),
            output=str(data["output"]),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def judge(
    found: Published | None, *, now: float, wanted: desired.Health, started: float | None
) -> Published | Health:
    """What is known of the process that started at `started`: what was published of it; otherwise `starting` while it is
    young, and `unknown`, as when that is stale."""
    patience = 3 * wanted.interval + wanted.timeout
    if found is None or (started is not None and abs(found.started - started) > SAME_START):
        young = started is not None and now - started <= wanted.start_period + patience
        return Health.STARTING if young else Health.UNKNOWN
    return found if 0 <= now - found.at <= patience else Health.UNKNOWN


def wanted(observation: Observation) -> desired.Health | None:
    """The probe that a running container was applied with."""
    if observation.ref.kind is not Kind.CONTAINER or observation.phase is not Phase.RUNNING:
        return None
    applied = observation.applied.get("health")
    return codec.decode(desired.Health, applied) if isinstance(applied, Mapping) else None


def merge(observed: Observed, layout: Layout, now: float) -> Observed:
    """The observations with published health, where their driver says nothing of it."""
    return tuple(_merged(each, layout, now) for each in observed)


def _merged(each: Observation, layout: Layout, now: float) -> Observation:
    probe = wanted(each)
    if probe is None or each.health is not Health.NONE:
        return each
    found = judge(read(path(layout, each.id)), now=now, wanted=probe, started=each.started)
    if isinstance(found, Health):
        return replace(each, health=found)
    return replace(each, health=found.health, said=found.output, since=found.since)
