"""One container as written to its `ContainerSpec`: defaults filled in, paths absolute, names looked up.

In: a container's keys and its `Surroundings`. Out: a spec that all replicas share, and what it needs by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from orchestrator.manifest import mounts, pieces, schema
from orchestrator.manifest.codes import Code
from orchestrator.manifest.load import Manifest, absolute
from orchestrator.model import desired as d
from orchestrator.model.images import ImageConfig
from orchestrator.resolve.limits import Level, check_within, limits_of, with_default_pids
from orchestrator.resolve.report import Path, Report, near
from orchestrator.resolve.roots import Pins, config_of, name_of, spec_of
from orchestrator.resolve.units import Unit
from orchestrator.resolve.volumes import asked_for, source_of

HOST = "host"
_FORBIDDEN = ("/proc", "/sys", "/dev")
_ALLOWED = "/dev/shm"


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What containers refer to. `rootfs` grows by those that are written inside containers; `volumes`: name written ->
    that of the ref."""

    manifest: Manifest
    report: Report
    rootfs: dict[str, d.RootfsSpec]
    pins: Pins
    volumes: Mapping[str, str]
    contents: Mapping[str, d.Content]


def container_of(unit: Unit, name: str, outer: tuple[Level, ...], around: Surroundings) -> d.ContainerSpec:
    """The spec of container `name` of every instance of `unit`; `outer` are the limits of its group and stack."""
    keys, path = unit.containers[name], unit.path_of(name)
    limits = limits_of(keys.limits, (*path, "limits"), around.report)
    check_within((f'container "{name}"', limits, (*path, "limits")), outer, around.report)
    mounted = _mounts(keys, path, around)
    rootfs = _rootfs(unit, name, around)
    image = config_of(around.pins.get(rootfs))
    mounted = tuple(
        sorted((*mounted, *asked_for(image.volumes, name, mounted)), key=lambda each: each.target)
    )
    return d.ContainerSpec(
        rootfs=rootfs,
        command=_command(keys, name, path, rootfs, around),
        env={**image.env, **_env(keys, path, around.manifest)},
        user=keys.user or image.user,
        workdir=keys.workdir or image.workdir,
        mounts=mounted,
        contents={
            each.content: around.contents[each.content]
            for each in mounted
            if isinstance(each, d.FileMount) and each.content in around.contents
        },
        bound={
            each.source: around.manifest.bound[each.source]
            for each in mounted
            if isinstance(each, d.BindMount) and each.source in around.manifest.bound
        },
        limits=with_default_pids(limits, outer),
        ulimits=tuple(
            d.Ulimit(name=kind, soft=each.soft, hard=each.hard) for kind, each in sorted(keys.ulimits.items())
        ),
        health=_health(keys, image),
        restart=_restart(keys),
        stop=d.Stop(drain=keys.stop.drain, signal=_stop_signal(keys, image), grace=keys.stop.grace),
        job=d.Job(retries=keys.job.retries) if keys.job else None,
        init=keys.init,
        read_only=keys.read_only,
        logs=d.Logs(max_size=keys.logs.max_size, files=keys.logs.files),
    )


def _rootfs(unit: Unit, container: str, around: Surroundings) -> str:
    written, path = unit.containers[container].rootfs, (*unit.path_of(container), "rootfs")
    if written.name is None:
        inline = name_of(path)
        around.rootfs[inline] = spec_of(written, around.manifest, path, around.pins)
        return inline
    if written.name not in around.rootfs:
        if written.name == HOST:
            around.rootfs[HOST] = d.RootfsSpec(source=d.HostRoot())
        elif not around.report.written("rootfs", written.name):
            around.report.fail(
                Code.UNKNOWN_ROOTFS,
                f'container "{container}" needs rootfs "{written.name}", which is not declared',
                path,
                hint=near(
                    written.name,
                    [*around.rootfs, HOST],
                    otherwise=f"declare it: rootfs: {{{written.name}: host}}",
                ),
            )
    return written.name


def _command(
    keys: schema.ContainerKeys, name: str, path: tuple[str, ...], rootfs: str, around: Surroundings
) -> tuple[str, ...]:
    """Entrypoint and command joined. Who writes an entrypoint of their own does not mean the image's command."""
    image = config_of(around.pins.get(rootfs))
    entrypoint = image.entrypoint if keys.entrypoint is None else keys.entrypoint
    command = keys.command or (image.command if keys.entrypoint is None else ())
    spec = around.rootfs.get(rootfs)
    unknown = spec is None or (isinstance(spec.source, d.ImageRoot) and spec.source.digest is None)
    if not entrypoint and not command and not unknown:
        here = "its image says none" if isinstance(spec and spec.source, d.ImageRoot) else None
        around.report.fail(
            Code.MISSING_KEY,
            f'container "{name}" needs a command{f": {here}" if here else ""}',
            (*path, "[key]"),
            hint="write command: [PROGRAM, ARGUMENT]",
        )
    return entrypoint + command


def _stop_signal(keys: schema.ContainerKeys, image: ImageConfig) -> str:
    written = "signal" in keys.stop.model_fields_set
    return keys.stop.signal if written or image.stop_signal is None else image.stop_signal


def _env(keys: schema.ContainerKeys, path: tuple[str, ...], manifest: Manifest) -> dict[str, str]:
    """`env_file` in order, then `env` over it."""
    env: dict[str, str] = {}
    for name in keys.env_file:
        for entry in manifest.env_files.get(absolute(manifest, name, *path), ()):
            env[entry.name] = entry.value
    return env | keys.env


def _mounts(keys: schema.ContainerKeys, path: tuple[str, ...], around: Surroundings) -> tuple[d.Mount, ...]:
    """Sorted by target: a folder is mounted before what lies in it."""
    found: dict[str, tuple[d.Mount, int]] = {}
    for number, written in enumerate(keys.mounts):
        place: Path = (*path, "mounts", number, "target")
        target = written.target
        if target != _ALLOWED and (
            target == "/" or any(target == each or target.startswith(f"{each}/") for each in _FORBIDDEN)
        ):
            around.report.fail(
                Code.MOUNT_TARGET,
                f"nothing can be mounted on {target}",
                place,
                hint="write rootfs: {directory: PATH} for a root of your own"
                if target == "/"
                else "/proc, /sys and /dev are made for each container",
            )
        elif target in found:
            around.report.fail(
                Code.MOUNT_TWICE,
                f"two mounts on {target}",
                place,
                hint="mount one of them elsewhere",
                first=(*path, "mounts", found[target][1], "target"),
            )
        else:
            found[target] = _mount(written, path, number, around), number
    _check_below_files(found, path, around.report)
    return tuple(found[target][0] for target in sorted(found))


def _check_below_files(found: Mapping[str, tuple[d.Mount, int]], path: Path, report: Report) -> None:
    files = {target: number for target, (each, number) in found.items() if isinstance(each, d.FileMount)}
    for target, (_, number) in found.items():
        parent = target
        while files and (parent := parent.rpartition("/")[0]):
            if parent in files:
                report.fail(
                    Code.MOUNT_BELOW_FILE,
                    f"{target} lies below {parent}, which is a file",
                    (*path, "mounts", number, "target"),
                    hint="mount one of them elsewhere",
                    first=(*path, "mounts", files[parent], "target"),
                )


def _mount(written: mounts.Mount, path: tuple[str, ...], number: int, around: Surroundings) -> d.Mount:
    if written.volume is not None:
        if written.volume not in around.volumes and not around.report.written("volumes", written.volume):
            around.report.fail(
                Code.UNKNOWN_VOLUME,
                f'volume "{written.volume}" is not declared',
                (*path, "mounts", number, "volume"),
                hint=near(
                    written.volume,
                    around.volumes,
                    otherwise=f"declare it: volumes: {{{written.volume}: {{}}}}",
                ),
            )
        volume = around.volumes.get(written.volume, written.volume)
        return d.VolumeMount(
            volume=volume,
            target=written.target,
            read_only=written.read_only,
            copy=written.copy_,
            source=source_of(around.manifest, written.volume),
        )
    if written.bind is not None:
        source = absolute(around.manifest, written.bind, *path)
        return d.BindMount(source=source, target=written.target, read_only=written.read_only)
    if written.secret is not None:
        secret = d.SecretMount(secret=written.secret, target=written.target, owner=written.owner)
        _check_declared(Code.UNKNOWN_SECRET, "secret", written.secret, (*path, "mounts", number), around)
        return secret if written.mode is None else replace(secret, mode=written.mode)
    if written.config is not None:
        config = d.ConfigMount(config=written.config, target=written.target, owner=written.owner)
        _check_declared(Code.UNKNOWN_CONFIG, "config", written.config, (*path, "mounts", number), around)
        return config if written.mode is None else replace(config, mode=written.mode)
    return d.TmpfsMount(target=written.target, size=written.tmpfs or 0, read_only=written.read_only)


def _check_declared(code: Code, kind: str, name: str, path: Path, around: Surroundings) -> None:
    if f"{kind}/{name}" in around.contents:
        return
    options = [each.partition("/")[2] for each in around.contents if each.startswith(f"{kind}/")]
    around.report.fail(
        code,
        f'{kind} "{name}" is not declared',
        (*path, kind),
        hint=near(name, options, otherwise=f"declare it: {kind}s: {{{name}: {{file: PATH}}}}"),
    )


def probed(unit: Unit, name: str, around: Surroundings) -> bool:
    """Whether the container has a health check; also where its image was not looked up and may say of one."""
    keys = unit.containers[name]
    if keys.health is not None or keys.job:
        return keys.health is not None and not keys.health.none
    rootfs = keys.rootfs.name or name_of((*unit.path_of(name), "rootfs"))
    pin = around.pins.get(rootfs)
    if pin is not None:
        return pin.config.health is not None
    declared = around.manifest.content.rootfs.get(rootfs)
    return (keys.rootfs if keys.rootfs.name is None else declared or keys.rootfs).image is not None


def _health(keys: schema.ContainerKeys, image: ImageConfig) -> d.Health | None:
    """The image's, unless the manifest says something of it; a job has none."""
    written = keys.health
    if written is None:
        return None if keys.job else image.health
    return None if written.none else _probed(written)


def _probed(written: pieces.Health) -> d.Health:
    probe: d.Probe
    if written.http is not None:
        http = written.http
        probe = d.HttpProbe(
            port=http.port, path=http.path, status=http.status, headers=http.headers, body=http.body
        )
    elif written.tcp is not None:
        probe = d.TcpProbe(port=written.tcp.port)
    else:
        probe = d.CommandProbe(command=written.command or ())
    return d.Health(
        probe=probe,
        interval=written.interval,
        timeout=written.timeout,
        retries=written.retries,
        start_period=written.start_period,
        on_unhealthy=d.OnUnhealthy(written.on_unhealthy),
        inside=written.from_ == "inside",
    )


def _restart(keys: schema.ContainerKeys) -> d.RestartPolicy:
    if keys.restart is not None:
        return d.RestartPolicy(keys.restart)
    return d.RestartPolicy.ON_FAILURE if keys.job else d.RestartPolicy.ALWAYS
