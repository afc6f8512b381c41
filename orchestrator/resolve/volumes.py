"""Volumes that each instance has for itself: those that say `per: instance`, and those that an image asks for.

In: declared volumes, mounts of a container. Out: names, in which INSTANCE stands for the instance until `named` puts it in.
No declared name holds a dot or a brace, so none of these is ever taken for another.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace

from orchestrator.manifest.load import Manifest, absolute
from orchestrator.manifest.pieces import Volume
from orchestrator.model.desired import ContainerSpec, Mount, VolumeMount, VolumeSpec

INSTANCE = "{instance}"
_NEVER = ("/proc", "/sys", "/dev")


def names_of(declared: Mapping[str, Volume], shared: Mapping[str, str]) -> dict[str, str]:
    """The name written -> that of the ref. `shared`: as if all were of the whole stack."""
    return {
        name: f"{name}.{INSTANCE}" if declared[name].per == "instance" else ref
        for name, ref in shared.items()
    }


def spec_of(manifest: Manifest, name: str) -> VolumeSpec:
    """As declared; relative paths by the file that writes them."""
    written = manifest.content.volumes[name]
    bind = absolute(manifest, written.bind, "volumes", name) if written.bind is not None else None
    return VolumeSpec(tmpfs=written.tmpfs, bind=bind, size=written.size)


def source_of(manifest: Manifest, name: str) -> str:
    """For `VolumeMount.source`."""
    if name not in manifest.content.volumes:
        return ""
    spec = spec_of(manifest, name)
    return "tmpfs" if spec.tmpfs is not None else f"bind:{spec.bind}" if spec.bind is not None else ""


def asked_for(volumes: Iterable[str], container: str, mounts: Iterable[Mount]) -> tuple[VolumeMount, ...]:
    """A volume for each path that an image wants kept, unless a mount covers it, also one from further up: what an image
    says must not hide what the manifest says."""
    taken = [each.target for each in mounts]
    found = []
    for path in volumes:
        if path == "/" or any(_within(path, each) for each in (*_NEVER, *taken)):
            continue
        slug = re.sub("[^a-z0-9]+", "-", path.lower()).strip("-")
        found.append(VolumeMount(volume=f"{container}.{slug}.{INSTANCE}", target=path))
    return tuple(found)


def named(spec: ContainerSpec, instance: str) -> ContainerSpec:
    """The same for one instance."""
    if not any(isinstance(each, VolumeMount) and INSTANCE in each.volume for each in spec.mounts):
        return spec
    mounts = (
        replace(each, volume=each.volume.replace(INSTANCE, instance))
        if isinstance(each, VolumeMount)
        else each
        for each in spec.mounts
    )
    return replace(spec, mounts=tuple(mounts))


def own_of(spec: ContainerSpec, instances: Iterable[str]) -> dict[str, str]:
    """The name of each volume that an instance has for itself -> the name that was written, "" where an image asks."""
    return {
        each.volume.replace(INSTANCE, instance): each.volume.partition(".")[0]
        if each.volume.count(".") == 1
        else ""
        for each in spec.mounts
        if isinstance(each, VolumeMount) and INSTANCE in each.volume
        for instance in instances
    }


def _within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(f"{folder.rstrip('/')}/")
