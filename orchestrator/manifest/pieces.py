"""The mappings inside containers, groups and stacks: limits, roots, ports, health and the rest.

In: YAML data. Out: read values. `schema` puts them together.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from orchestrator.manifest import fields as f
from orchestrator.manifest.addresses import ports
from orchestrator.manifest.codes import Code
from orchestrator.manifest.fields import refuse
from orchestrator.manifest.part import Part, exactly_one, required_one
from orchestrator.manifest.scalars import Unreadable, describe

_STRING = {"type": "string"}
RESTART = "restart"
Forms = tuple[Mapping[str, Any], ...]


def _alone(key: str, *others: str) -> dict[str, Any]:
    return {"not": {"anyOf": [{"required": [key, each]} for each in others]}}


def _together(*sets: set[str]) -> dict[str, Any]:
    """Only keys of one of the sets stand beside each other."""
    everything = set().union(*sets)
    excluded = [
        {"required": [key, other]}
        for key in sorted(everything)
        for other in sorted(everything)
        if key < other and not any({key, other} <= each for each in sets)
    ]
    return {"patternProperties": {"^x-": {}}, "not": {"anyOf": excluded}}


class Io(Part):
    """Limits of reading and writing on one block device."""

    kind = "io"
    device: f.InnerPath | None = Field(
        None,
        description="The block device's path; by default the one that holds the container's root.",
        examples=["/dev/sda"],
    )
    read: f.Rate | None = Field(None, description="Bytes read a second.", examples=["50MiB/s"])
    write: f.Rate | None = Field(None, description="Bytes written a second.", examples=["10MiB/s"])
    read_iops: f.Iops | None = Field(None, description="Read operations a second.")
    write_iops: f.Iops | None = Field(None, description="Write operations a second.")


class Limits(Part):
    """cgroup limits. They change live: the processes go on."""

    kind = "limits"
    cpus: f.Cpus | None = Field(
        None, description="Processor time in cores; 0.5 is half of one.", examples=[0.5, 2]
    )
    cpu_weight: f.Weight | None = Field(
        None, description="Share of the processors when they are short; 100 is usual."
    )
    cpuset: f.Cpuset | None = Field(
        None, description="Processors that may be used, as a list.", examples=["0-3,5"]
    )
    memory: f.Memory | None = Field(
        None, description="Most memory; past it a process is killed. At least 6MiB.", examples=["512MiB"]
    )
    memory_high: f.Memory | None = Field(
        None, description="Memory past which processes are slowed; at most memory."
    )
    swap: f.Size | None = Field(
        None, description="Most swap, swap alone; 0 by default when memory is set.", examples=[0, "1GiB"]
    )
    pids: f.Pids | None = Field(
        None, description="Most processes and threads; 4096 by default for a container."
    )
    io: Annotated[tuple[Io, ...], f.IO_FORM, f.AlsoAs(None)] = Field(
        (), description="Limits of block devices: one mapping or a list of them."
    )


class Network(Part):
    """A network of this stack, or another stack's."""

    kind = "network"
    forms = ({"type": "null"},)
    model_config = ConfigDict(json_schema_extra=_alone("external", "subnet", "internal"))
    external: f.External | None = Field(
        None,
        description="Another stack's network, as STACK/NETWORK; what joins it waits until it is there.",
        examples=["infra/edge"],
    )
    subnet: f.Subnet | None = Field(
        None, description="Its IPv4 addresses; by default they come from one pool.", examples=["10.86.7.0/24"]
    )
    internal: f.Flag = Field(False, description="No way out of it, to the host's networks or beyond.")

    @classmethod
    def short(cls, data: Any) -> Any:
        return {} if data is None else data

    @model_validator(mode="after")
    def _of_one_stack(self) -> Network:
        others = sorted(self.model_fields_set - {"external"})
        if self.external is not None and others:
            raise refuse(
                Code.COMBINATION,
                f"takes no {others[0]} beside external",
                "its own stack says what it is like",
            )
        return self


class Volume(Part):
    """Data that outlives its containers; kept when the stack is deleted. A folder of ours, unless it says otherwise."""

    kind = "volume"
    forms = ({"type": "null"},)
    model_config = ConfigDict(
        json_schema_extra=_together({"size", "per"}, {"tmpfs", "per"}, {"bind"}, {"external"})
    )
    external: f.External | None = Field(
        None,
        description="Another stack's volume, as STACK/VOLUME; what mounts it waits until it is there.",
        examples=["infra/data"],
    )
    tmpfs: f.TmpfsSize | None = Field(
        None,
        description="Memory of this size that its containers share; gone with the host's next start.",
        examples=["64MiB"],
    )
    bind: f.HostPath | None = Field(
        None, description="A folder of the host, relative to this file; its data is never removed."
    )
    size: f.Size | None = Field(
        None,
        description="Most bytes of it, where the file system has project quotas (ext4, xfs).",
        examples=["10GiB"],
    )
    per: f.Per = Field(
        "stack",
        description="Whether all share it (stack), or each instance of a group has its own (instance).",
    )

    @model_validator(mode="after")
    def _own(self) -> Volume:
        for key, hint in (
            ("external", "its own stack says what it is like"),
            ("bind", "the folder is the host's, as it is"),
            ("tmpfs", "tmpfs says its size itself"),
        ):
            others = sorted(self.model_fields_set - {key, *({"per"} if key == "tmpfs" else ())})
            if key in self.model_fields_set and others:
                raise refuse(Code.COMBINATION, f"takes no {others[0]} beside {key}", hint)
        return self

    @classmethod
    def short(cls, data: Any) -> Any:
        return {} if data is None else data


class Publish(Part):
    """A published port or range of ports."""

    kind = "publish"
    forms = ({"type": "string", "pattern": rf"{f._PORTS}|\$\{{"},)
    port: f.PortRange = Field(description="The host's port or range of ports.", examples=[8080, "8000-8010"])
    target: f.PortRange = Field(
        description="The port or range inside, of the same length.", examples=[80, "80-90"]
    )
    address: f.Address = Field("127.0.0.1", description="The host's address; 0.0.0.0 is all of them.")
    protocol: f.Protocol = Field("tcp", description="tcp or udp.")

    @classmethod
    def short(cls, data: Any) -> Any:
        if isinstance(data, dict):
            return data
        try:
            form = ports(data)
        except Unreadable as error:
            raise refuse(error.code, error.message, error.hint) from error
        span = form.count - 1
        return {
            "port": f"{form.host}-{form.host + span}",
            "target": f"{form.target}-{form.target + span}",
            "address": form.address,
            "protocol": form.protocol,
        }

    @model_validator(mode="after")
    def _same_length(self) -> Publish:
        if len(self.port) != len(self.target):
            raise refuse(
                Code.VALUE,
                f"expects ranges of equal length, found {len(self.port)} and {len(self.target)} ports",
            )
        return self


class Http(Part):
    """GET of a path; healthy when the status lies in the range and the text, if any, is in the answer."""

    kind = "http"
    forms = ({"type": "string", "pattern": r"^:[0-9]+(/.*)?$|\$\{"},)
    port: f.Port = Field(description="The port inside.")
    path: f.InnerPath = Field("/", description="The path, with its query.")
    status: f.Status = Field(
        (200, 399), description="The status, or a range of them, that is healthy.", examples=["200-399"]
    )
    headers: dict[f.Text, f.AnyText] = Field(default_factory=dict, description="Headers to send.")
    body: f.Text | None = Field(None, description="Text that the answer must hold.")

    @classmethod
    def short(cls, data: Any) -> Any:
        if isinstance(data, dict):
            return data
        found = re.fullmatch(r":([0-9]+)(/\S*)?", data) if isinstance(data, str) else None
        if found is None:
            hint = (
                f'did you mean ":{data}"?' if isinstance(data, int) and not isinstance(data, bool) else None
            )
            raise refuse(
                Code.VALUE, f'expects a port and path such as ":80/healthz", found {describe(data)}', hint
            )
        return {"port": found[1], "path": found[2] or "/"}


class Tcp(Part):
    """Healthy when a connection is accepted."""

    kind = "tcp"
    forms = ({"type": "string", "pattern": r"^:[0-9]+$|\$\{"},)
    port: f.Port = Field(description="The port inside.")

    @classmethod
    def short(cls, data: Any) -> Any:
        if isinstance(data, dict):
            return data
        if isinstance(data, str) and re.fullmatch(r":[0-9]+", data):
            return {"port": data[1:]}
        hint = f'did you mean ":{data}"?' if isinstance(data, int) and not isinstance(data, bool) else None
        raise refuse(Code.VALUE, f'expects a port such as ":5432", found {describe(data)}', hint)


class Health(Part):
    """How to find out that a container works: exactly one of command, http and tcp; or the word `none`, where an image
    says how and is not to be asked."""

    kind = "health"
    forms = ({"const": "none"},)
    hidden = frozenset({"none"})
    model_config = ConfigDict(json_schema_extra=required_one("command", "http", "tcp"))
    none: bool = Field(False, description="The short form `none`.")
    command: f.Command | None = Field(
        None, description="Run inside the container; exit 0 is healthy. A string is a line for /bin/sh."
    )
    http: Http | None = Field(
        None, description="A GET from the host to the group's address.", examples=[":80/healthz"]
    )
    tcp: Tcp | None = Field(
        None, description="A connection from the host to the group's address.", examples=[":5432"]
    )
    interval: f.SomeDuration = Field(10.0, description="Time between two checks.", examples=["10s"])
    timeout: f.SomeDuration = Field(5.0, description="Time after which a check has failed.", examples=["5s"])
    retries: f.ProbeRetries = Field(3, description="Failed checks in a row that make it unhealthy.")
    start_period: f.Duration = Field(
        0.0, description="Time after the start in which failed checks do not count."
    )
    on_unhealthy: f.OnUnhealthy = Field(
        "none",
        description="What is done when it becomes unhealthy: restart it, by the same delays as after an exit, or none.",
    )
    from_: f.ProbeFrom = Field(
        "host",
        alias="from",
        description="Where http and tcp connect from: the host, to the group's address, or inside, to 127.0.0.1.",
    )

    @classmethod
    def short(cls, data: Any) -> Any:
        return {"none": True} if data == "none" else data

    @model_validator(mode="after")
    def _one(self) -> Health:
        if self.none:
            return self
        exactly_one(self, "command", "http", "tcp")
        if self.command is not None and "from_" in self.model_fields_set:
            raise refuse(
                Code.COMBINATION,
                "takes from only with http or tcp",
                "a command always runs inside: remove from",
            )
        return self


class Stop(Part):
    """How a container is stopped."""

    kind = "stop"
    drain: f.Duration = Field(
        1.0,
        description="Most time for connections that are open, once no new ones come; then it is asked to end.",
        examples=["1s", "30s"],
    )
    signal: f.Signal = Field("TERM", description="The signal that asks it to end.", examples=["TERM", "QUIT"])
    grace: f.Duration = Field(10.0, description="Time that it has, before it is killed.", examples=["10s"])


class Logs(Part):
    """How much of a container's output is kept: a ring of files."""

    kind = "logs"
    max_size: f.LogSize = Field(10 * 2**20, description="Most bytes of one file.", examples=["10MiB"])
    files: f.LogFiles = Field(3, description="Number of files.")


class Job(Part):
    """Makes a container run to completion, once for each applied definition."""

    kind = "job"
    retries: f.Retries = Field(3, description="How often it is started again after a failure.")

    @classmethod
    def short(cls, data: Any) -> Any:
        if data is True or data is None or data == "":
            raise refuse(Code.TYPE, f"expects a mapping, found {describe(data or None)}", "write job: {}")
        return data


class Ulimit(Part):
    """One limit of each process (setrlimit(2))."""

    kind = "ulimit"
    forms = ({"type": "integer", "minimum": -1}, _STRING)
    soft: f.UlimitBound = Field(description="The limit in force; -1 or unlimited for none.")
    hard: f.UlimitBound = Field(description="The most to which a process can raise it.")

    @classmethod
    def short(cls, data: Any) -> Any:
        return data if isinstance(data, dict | list) or data is None else {"soft": data, "hard": data}

    @model_validator(mode="after")
    def _order(self) -> Ulimit:
        if self.hard != -1 and (self.soft == -1 or self.soft > self.hard):
            raise refuse(Code.VALUE, "expects soft to be at most hard")
        return self


class Dependency(Part):
    """What must hold before a start."""

    kind = "depends_on"
    forms = ({"type": "string", "pattern": r"^(started|healthy|completed)$|\$\{"},)
    until: f.UntilWord = Field(
        "started", description="started, healthy, or completed (a job with exit code 0)."
    )
    on_restart: f.OnRestart = Field(
        "ignore",
        description="What a new process of the dependency does to this: restart (once the condition holds) or ignore.",
    )

    @classmethod
    def short(cls, data: Any) -> Any:
        if isinstance(data, str):
            word = {
                "service_healthy": "healthy",
                "service_started": "started",
                "service_completed_successfully": "completed",
            }
            if data in word:
                raise refuse(Code.COMPOSE_KEY, f'"{data}" is a word of Docker Compose', f"write {word[data]}")
            return {"until": data}
        return data


Dependencies = Annotated[
    dict[str, Dependency],
    BeforeValidator(f.dependencies),
    f.AlsoAs({"type": "array", "items": _STRING}),
]
