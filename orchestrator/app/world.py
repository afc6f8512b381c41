"""What an App acts on, put together: the only place that names concrete drivers.

In: the layout of an instance. Out: its drivers by kind, its runtime, how its agent is started. Imports are made where they
are needed, so that looking at what runs loads no more than it uses.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.model.ids import Kind
from orchestrator.ports.layout import Layout

if TYPE_CHECKING:
    from orchestrator.control.attempts import Verdict
    from orchestrator.control.loop import Ends
    from orchestrator.control.probes import RunCommand
    from orchestrator.control.resident import Resident
    from orchestrator.control.tracking import Target
    from orchestrator.model.desired import CommandProbe, RootSource
    from orchestrator.ports.driver import Driver, Runtime
    from orchestrator.ports.images import Images

PROBE_OUTPUT = 1024
TIMED_OUT = 124  # `Runtime.exec`


def boot_clock() -> float:
    """Seconds since boot, suspend included (CLOCK_BOOTTIME, clock_gettime(2)): the time of exits and back-off."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """What an App acts on: a driver of every kind, the one that runs containers, who tells of ended processes, and the
    agent that keeps all this (None: there can be none, everything is done in this process). `images`: where roots come
    from.

    `at_once`: driver calls in flight; most of a start is waiting for the supervisor and the kernel.
    """

    drivers: Mapping[Kind, Driver]
    runtime: Runtime
    images: Images | None = None
    ends: Ends | None = None
    resident: Resident | None = None
    at_once: int = 8


def embedded(layout: Layout) -> World:
    """The world of this machine: namespaces, cgroups, overlays and one nftables table."""
    from orchestrator.drivers.embedded.driver import EmbeddedDriver
    from orchestrator.drivers.network.driver import NetworkDriver
    from orchestrator.drivers.rootfs.driver import RootfsDriver
    from orchestrator.drivers.volumes.driver import VolumeDriver
    from orchestrator.supervisor.client import Supervisor

    roots, volumes = RootfsDriver(layout, partial(_revised, layout)), VolumeDriver(layout)
    supervisor = Supervisor(layout)
    network = NetworkDriver(layout, holder=supervisor, pool=os.environ.get("ORCHESTRATOR_POOL"))
    runtime = EmbeddedDriver(layout, supervisor, roots=roots, volumes=volumes, network=network)
    found: tuple[Driver, ...] = (runtime, roots, volumes, network)
    return World(
        drivers={kind: each for each in found for kind in each.kinds},
        runtime=runtime,
        images=roots.images,
        ends=supervisor,
        resident=resident(layout),
    )


def _revised(layout: Layout) -> Iterator[RootSource]:
    """The roots that kept revisions of stacks name. Raises HostError where the history cannot be read."""
    from orchestrator.model import codec
    from orchestrator.model.desired import RootfsSpec
    from orchestrator.state.blobs import kept_documents
    from orchestrator.state.store import Store

    if not layout.database.exists():
        return
    with Store(layout.database, clock=time.time) as store:
        for stack in store.stacks():
            for document in kept_documents(store, stack):
                for ref, spec in (document or {}).get("resources", {}).items():
                    if ref.startswith(f"{Kind.ROOTFS}/"):
                        yield codec.decode(RootfsSpec, spec).source


# What the agent takes over from whoever starts it: where addresses come from, and how registries are reached.
_KEPT = (
    "ORCHESTRATOR_POOL",
    *("HOME", "REGISTRY_AUTH_FILE", "DOCKER_CONFIG", "CONTAINERS_REGISTRIES_CONF", "XDG_RUNTIME_DIR"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR"),
    *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"),
)

# Isolated (-I): nothing of the environment or folder of whoever calls decides what code the agent is.
_AGENT = (
    "import sys; sys.path.insert(0, sys.argv[1]); from orchestrator.app import agent; agent(*sys.argv[2:])"
)
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def resident(layout: Layout) -> Resident:
    """How the agent of this instance is started and asked."""
    from orchestrator.control.resident import Resident
    from orchestrator.supervisor.version import whole

    library = os.fspath(Path(__file__).parents[2])
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    return Resident(
        layout=layout,
        command=(sys.executable, "-I", "-X", "utf8", "-c", _AGENT, library, *filter(None, [layout.root])),
        env={"PATH": _PATH, **kept},
        version=whole(),
    )


def probing(runtime: Runtime) -> RunCommand:
    """Runs command probes in their containers: exit code 0 is healthy; what it prints is the explanation."""
    from orchestrator.control.attempts import OURS, Verdict

    def run(target: Target, probe: CommandProbe) -> Verdict | None:
        from orchestrator.errors import OrchestratorError, StepError
        from orchestrator.ports.driver import ExecRequest

        request = ExecRequest(command=probe.command, env=target.env)
        output, limit, began = bytearray(), target.probe.timeout, time.monotonic()
        with open(os.devnull, "rb", buffering=0) as null:
            reading, writing = os.pipe()
            reader = threading.Thread(target=_keep_first, args=(reading, output), daemon=True)
            reader.start()
            try:
                code = runtime.exec(target.incarnation, request, (null.fileno(), writing, writing), limit)
            except StepError as error:
                return None if error.errno in OURS else Verdict(False, error.message)
            except OrchestratorError:
                return None  # no supervisor, or the container has ended: nothing is known of its health
            finally:
                os.close(writing)
        reader.join(0.2)  # what the command left behind may hold the pipe for longer
        said = bytes(output).decode(errors="replace").strip()
        if code == TIMED_OUT and time.monotonic() - began >= limit:
            said = f"no end in {limit:g} s{f': {said}' if said else ''}"
        return Verdict(code == 0, said or f"exit {code}")

    return run


def _keep_first(reading: int, output: bytearray) -> None:
    """Reads to the end, so that nobody blocks; keeps the beginning."""
    with os.fdopen(reading, "rb", buffering=0) as pipe:
        while chunk := pipe.read(65536):
            output += chunk[: PROBE_OUTPUT - len(output)]
