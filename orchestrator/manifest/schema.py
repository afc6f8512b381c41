"""The user language as pydantic models: every key with its description and its default.

In: YAML data through `load`. Out: read values for `resolve`, and the JSON Schema. Only what stands within one mapping is
checked here; what needs a look at another part of the stack is `resolve`'s.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, Field, WithJsonSchema, model_validator

from orchestrator.manifest import fields as f
from orchestrator.manifest.codes import Code
from orchestrator.manifest.fields import refuse
from orchestrator.manifest.mounts import Config, Mount, Secret
from orchestrator.manifest.part import Part
from orchestrator.manifest.pieces import (
    RESTART,
    Dependencies,
    Health,
    Job,
    Limits,
    Logs,
    Network,
    Publish,
    Stop,
    Ulimit,
    Volume,
)
from orchestrator.manifest.roots import Rootfs, RootfsHere

_STRING = {"type": "string"}


def _env(value: Any) -> Any:
    if isinstance(value, list):
        raise refuse(Code.TYPE, "expects a mapping, found a list", "write NAME: VALUE, without dashes")
    return value


class ContainerKeys(Part):
    """What a container runs, and how."""

    rootfs: RootfsHere = Field(
        description="The name of a rootfs of this stack, `host` (this machine's own /usr, read-only), or one written here.",
        examples=["base", {"directory": "./rootfs/site"}],
    )
    command: f.Command | None = Field(
        None,
        description="The program and its arguments as a list, after the entrypoint; a string is a line for /bin/sh -c. "
        "What an image says is the default; another entrypoint lets go of the image's command.",
        examples=[["nginx", "-g", "daemon off;"], "echo $HOME && exec sleep infinity"],
    )
    entrypoint: f.Command | None = Field(
        None, description="What comes before the command.", examples=[["/entrypoint.sh"]]
    )
    env: Annotated[dict[f.EnvName, f.EnvValue], BeforeValidator(_env)] = Field(
        default_factory=dict,
        description="Environment variables; they win over env_file.",
        examples=[{"POSTGRES_DB": "shop"}],
    )
    env_file: Annotated[
        tuple[f.HostPath, ...],
        f.ONE_OR_LIST,
        WithJsonSchema({"anyOf": [_STRING, {"type": "array", "items": _STRING}]}),
    ] = Field(
        (),
        description="Files of KEY=VALUE lines, relative to this file; a later one wins.",
        examples=["./app.env"],
    )
    user: f.User | None = Field(
        None,
        description="The user, with a group after a colon; names are looked up in the rootfs. Root by default.",
        examples=["postgres", "1000:1000"],
    )
    workdir: f.InnerPath | None = Field(None, description="The working directory; / by default.")
    mounts: tuple[Mount, ...] = Field(
        (), description="Volumes, files and folders of the host, scratch space, secrets and configs."
    )
    limits: Limits = Field(
        default_factory=Limits, description="Limits of processor, memory, processes and devices."
    )
    ulimits: dict[f.UlimitName, Ulimit] = Field(
        default_factory=dict,
        description="Limits of each process by their lower-case names.",
        examples=[{"nofile": 1024}],
    )
    health: Health | None = Field(None, description="How to find out that it works.")
    restart: f.Restart | None = Field(
        None,
        description="When it is started again: always (default), on-failure or never. A job: on-failure or never.",
    )
    stop: Stop = Field(default_factory=Stop, description="How it is stopped.")
    job: Job | None = Field(
        None, description="Makes it a job: it runs to completion, once for each applied definition."
    )
    init: f.Flag = Field(
        False, description="A small init as process 1 that reaps orphans and passes signals on."
    )
    read_only: f.Flag = Field(False, description="Its root cannot be written to; its mounts can.")
    logs: Logs = Field(default_factory=Logs, description="How much of its output is kept.")
    depends_on: Dependencies = Field(
        default_factory=dict,
        description="What must hold before it starts, of siblings, groups and containers; a list means started.",
        examples=[["db"], {"db": "healthy", "migrate": "completed"}],
    )

    @model_validator(mode="after")
    def _runs(self) -> ContainerKeys:
        if self.job is not None and self.health is not None and not self.health.none:
            raise refuse(
                Code.JOB,
                "is a job, and a job has no health",
                "wait for it with depends_on: {NAME: completed}",
            )
        if self.job is not None and self.restart == "always":
            raise refuse(
                Code.JOB,
                "is a job, which is not restarted always",
                "write on-failure or never, or remove restart",
            )
        if self.restart == "never" and self.health is not None and self.health.on_unhealthy == RESTART:
            raise refuse(
                Code.COMBINATION,
                "is never restarted, so not when it is unhealthy either",
                "remove restart: never, or on_unhealthy: restart",
            )
        return self


class GroupKeys(Part):
    """What the containers of a group share."""

    replicas: f.Replicas = Field(1, description="Number of instances: NAME-1, NAME-2 and so on.")
    networks: tuple[f.Name, ...] | None = Field(
        None,
        description="Networks that it joins; the stack's `default` when left out, loopback only when empty.",
        examples=[["front"]],
    )
    publish: tuple[Publish, ...] = Field(
        (),
        description="Published ports, on 127.0.0.1 unless an address is given.",
        examples=[["8080:80", "127.0.0.1:5353:53/udp"]],
    )
    hostname: f.Hostname | None = Field(None, description="The host name; the instance's name by default.")
    dns: tuple[f.Address, ...] = Field(
        (), description="Name servers instead of the host's.", examples=[["192.0.2.53"]]
    )


_CONTAINER_KEYS = frozenset(ContainerKeys.model_fields)
_GROUP_KEYS = frozenset(GroupKeys.model_fields)


class Container(ContainerKeys):
    """A container of a group."""

    kind = "container"
    elsewhere: ClassVar = dict.fromkeys(_GROUP_KEYS, "it belongs to the group, one level up")


class SingleContainer(GroupKeys, ContainerKeys):
    """A container that is a group of one: it takes the keys of both."""

    kind = "container"
    elsewhere: ClassVar = {"containers": "only groups hold containers: write it under groups:"}


class Group(GroupKeys):
    """Containers that share addresses, host name, IPC and a budget."""

    kind = "group"
    elsewhere: ClassVar = dict.fromkeys(
        _CONTAINER_KEYS, "it belongs to a container of the group, under containers:"
    )
    limits: Limits = Field(
        default_factory=Limits, description="Limits of each instance: its containers together."
    )
    depends_on: Dependencies = Field(
        default_factory=dict,
        description="What must hold before its containers start.",
        examples=[{"db": "healthy"}],
    )
    containers: dict[f.Name, Container] = Field(
        description="The containers by name.", json_schema_extra={"minProperties": 1}
    )

    @model_validator(mode="after")
    def _holds(self) -> Group:
        if not self.containers:
            raise refuse(
                Code.MISSING_KEY,
                "holds no containers",
                "write containers: {NAME: {rootfs: host, command: [PROGRAM]}}",
            )
        return self


class StackFile(Part):
    """A stack: containers, their roots, networks, volumes and limits."""

    kind = "stack"
    stack: f.StackName = Field(
        description="The stack's name. Files with the same name are one stack.", examples=["shop"]
    )
    limits: Limits = Field(default_factory=Limits, description="The budget of the whole stack.")
    rootfs: dict[f.Name, Rootfs] = Field(
        default_factory=dict,
        description="Where containers' roots come from, by name.",
        examples=[{"base": "host"}],
    )
    networks: dict[f.Name, Network] = Field(
        default_factory=dict,
        description="Networks by name.",
        examples=[{"front": {}, "back": {"internal": True}}],
    )
    volumes: dict[f.Name, Volume] = Field(
        default_factory=dict, description="Volumes by name.", examples=[{"data": {}}]
    )
    secrets: dict[f.Name, Secret] = Field(
        default_factory=dict,
        description="Secrets by name.",
        examples=[{"db-password": {"file": "./secrets/db-password"}}],
    )
    configs: dict[f.Name, Config] = Field(
        default_factory=dict,
        description="Configs by name.",
        examples=[{"site-conf": {"file": "./site.conf", "on_change": {"signal": "HUP"}}}],
    )
    containers: dict[f.Name, SingleContainer] = Field(
        default_factory=dict, description="Containers, each a group of one."
    )
    groups: dict[f.Name, Group] = Field(
        default_factory=dict, description="Groups of containers, with replicas."
    )
