"""Manifests and configurations of images, as strangers write them (OCI image-spec; Docker's schema 2).

In: raw JSON. Out: checked values, or StepError. What an image says of how it is run is taken where it has the right
form and dropped where it has not; what it says of its content has to be right. Pure.
"""

from __future__ import annotations

import hashlib
import json
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.errors import StepError, UsageError
from orchestrator.model.desired import CommandProbe, Health
from orchestrator.model.images import ImageConfig
from orchestrator.model.signals import signal_name, signal_number

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(:[A-Za-z0-9_][A-Za-z0-9_.-]*)?")
_HIGHEST_ID = 65_535
_MOST = 1000  # words, variables, volumes
_LAYERS = 127  # overlays of ours
_OURS = {"x86_64": "amd64", "aarch64": "arm64", "i686": "386", "armv7l": "arm", "armv6l": "arm"}
# What runs on every machine of that architecture, the best first; others (amd64/v3) need what not all have.
_VARIANTS = {"arm64": ("v8", ""), "arm": ("v7", "v6", "v5", ""), "amd64": ("", "v1")}
_SCHEMA_1 = "application/vnd.docker.distribution.manifest.v1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Blob:
    digest: str
    size: int
    media_type: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageManifest:
    """`layers` bottommost first. `oci`: of the OCI's own form, not Docker's."""

    config: Blob
    layers: tuple[Blob, ...]
    oci: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """An index: the manifest for this host's platform."""

    blob: Blob


def digest_of(raw: bytes) -> str:
    return f"sha256:{hashlib.sha256(raw).hexdigest()}"


def verified(raw: bytes, digest: str, what: str) -> bytes:
    """The same; StepError where it is not what the digest says."""
    if (found := digest_of(raw)) != digest:
        raise StepError(
            f"{what} has the digest {found}, not {digest}", hint="whoever serves it is broken or lies"
        )
    return raw


def read_manifest(raw: bytes, what: str) -> ImageManifest | Choice:
    """An image's manifest, or of an index the one for this host."""
    data = _object(raw, what)
    kind = data.get("mediaType", "")
    if data.get("schemaVersion") == 1 or str(kind).startswith(_SCHEMA_1):
        raise StepError(f"{what} has a manifest of Docker's schema 1", hint="push it again with a newer tool")
    if "manifests" in data:
        return Choice(blob=_chosen(data["manifests"], what))
    layers = data.get("layers")
    if not isinstance(layers, list) or "config" not in data:
        raise StepError(f"{what} is no image: its manifest has no layers and no config")
    if len(layers) > _LAYERS:
        raise StepError(f"{what} has {len(layers)} layers; overlays of more than {_LAYERS} are not made")
    return ImageManifest(
        config=_blob(data["config"], what),
        layers=tuple(_blob(each, what) for each in layers),
        oci="docker" not in str(kind),
    )


def read_config(raw: bytes, what: str, layers: int) -> tuple[ImageConfig, tuple[str, ...]]:
    """How it is run, and the digests of its uncompressed layers, bottommost first."""
    data = _object(raw, what)
    rootfs = data.get("rootfs")
    diff_ids = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
    if not isinstance(diff_ids, list) or not all(
        isinstance(each, str) and _DIGEST.fullmatch(each) for each in diff_ids
    ):
        raise StepError(f"{what} is no image: its configuration names no layers")
    if len(diff_ids) != layers:
        raise StepError(f"{what} has {layers} layers, and its configuration names {len(diff_ids)}")
    here = data.get("architecture")
    if isinstance(here, str) and here not in ("", architecture()):
        raise StepError(f"{what} is for {here[:20]!r}, and this host is {architecture()}")
    said = data.get("config")
    return _config(said if isinstance(said, dict) else {}), tuple(diff_ids)


def architecture() -> str:
    """This host's, in the words of GOARCH."""
    machine = platform.machine()
    return _OURS.get(machine, machine)


def _chosen(entries: Any, what: str) -> Blob:
    found: list[tuple[str, str, Any]] = []
    for each in entries if isinstance(entries, list) else ():
        about = each.get("platform") if isinstance(each, dict) else None
        about = about if isinstance(about, dict) else {}
        name = f"{about.get('os', 'linux')}/{about.get('architecture', architecture())}"
        found.append((name, str(about.get("variant") or ""), each))
    here = f"linux/{architecture()}"
    ours = [
        each
        for wanted in _VARIANTS.get(architecture(), ("",))
        for name, variant, each in found
        if (name, variant) == (here, wanted)
    ]
    if not ours:
        names = {f"{name}/{variant}" if variant else name for name, variant, _ in found}
        there = ", ".join(sorted(each for each in names if "unknown" not in each and each.isprintable()))[
            :200
        ]
        raise StepError(
            f"{what} is not for linux/{architecture()}", hint=f"it is for {there}" if there else "it is empty"
        )
    return _blob(ours[0], what)


def _blob(data: Any, what: str) -> Blob:
    digest, size = (data.get("digest"), data.get("size")) if isinstance(data, dict) else (None, None)
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
        raise StepError(f"{what} names a blob without a SHA-256")
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size < 1 << 50:
        raise StepError(f"{what} names a blob of an impossible size")
    return Blob(digest=digest, size=size, media_type=str(data.get("mediaType", ""))[:200])


def _object(raw: bytes, what: str) -> dict[str, Any]:
    try:
        data = json.loads(
            raw.decode()
        )  # UTF-8: json alone would take UTF-16 too, which the store's documents cannot hold
    except (ValueError, RecursionError):
        data = None
    if not isinstance(data, dict):
        raise StepError(f"{what} is no image: what it says of itself is no JSON object")
    return data


def _config(data: Mapping[str, Any]) -> ImageConfig:
    return ImageConfig(
        entrypoint=_words(data.get("Entrypoint")),
        command=_words(data.get("Cmd")),
        env=_env(data.get("Env")),
        user=_user(data.get("User")),
        workdir=_path(data.get("WorkingDir")),
        stop_signal=_signal(data.get("StopSignal")),
        health=_health(data.get("Healthcheck")),
        volumes=tuple(sorted(filter(None, map(_path, _keys(data.get("Volumes")))))),
        ports=tuple(
            each for each in _keys(data.get("ExposedPorts")) if re.fullmatch(r"[0-9]{1,5}(/[a-z]+)?", each)
        ),
        labels={
            key: value
            for key, value in (data.get("Labels") or {}).items()
            if _clean(key) and _clean(value) and len(value) < 4096
        }
        if isinstance(data.get("Labels"), dict)
        else {},
    )


def _clean(text: Any) -> bool:
    """No zero byte, and no half of a surrogate pair, which could not be told to execve(2)."""
    if not isinstance(text, str) or "\0" in text or len(text) >= 1 << 17:
        return False
    return not any("\ud800" <= each <= "\udfff" for each in text)


def _words(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) > _MOST or not all(map(_clean, value)):
        return ()
    return tuple(value)


def _keys(value: Any) -> Sequence[str]:
    return [each for each in value if _clean(each)][:_MOST] if isinstance(value, dict) else ()


def _env(value: Any) -> dict[str, str]:
    found = {}
    for each in _words(value):
        name, equals, text = each.partition("=")
        if equals and re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.-]*", name):
            found[name] = text
    return found


def _user(value: Any) -> str | None:
    if not isinstance(value, str) or not _USER.fullmatch(value):
        return None
    if any(part.isdigit() and (len(part) > 9 or int(part) > _HIGHEST_ID) for part in value.split(":")):
        raise StepError(
            f"it runs as user {value[:30]}; ids end at {_HIGHEST_ID}", hint="write user: in the manifest"
        )
    return value


def _path(value: Any) -> str | None:
    """A path inside; none that leads anywhere else."""
    if not _clean(value) or not value.startswith("/") or ".." in value.split("/") or not value.isprintable():
        return None
    return "/" + "/".join(each for each in value.split("/") if each not in ("", "."))


def _signal(value: Any) -> str | None:
    """Its name without SIG."""
    try:
        return signal_name(signal_number(str(value))).removeprefix("SIG") if value else None
    except UsageError:
        return None


def _health(value: Any) -> Health | None:
    """Docker's extension of the configuration; `NONE` and what is no check are none."""
    test = _words(value.get("Test")) if isinstance(value, dict) else ()
    match test:
        case ("CMD", _, *_):
            command = test[1:]
        case ("CMD-SHELL", line):
            command = ("/bin/sh", "-c", line)
        case _:
            return None
    usual = Health(probe=CommandProbe(command=command), interval=30.0, timeout=30.0, retries=3)
    retries = value.get("Retries")
    return Health(
        probe=usual.probe,
        interval=_seconds(value.get("Interval")) or usual.interval,
        timeout=_seconds(value.get("Timeout")) or usual.timeout,
        retries=retries if isinstance(retries, int) and 0 < retries <= 1000 else usual.retries,
        start_period=_seconds(value.get("StartPeriod")) or 0.0,
    )


def _seconds(value: Any) -> float | None:
    """From nanoseconds; at least a millisecond."""
    usable = isinstance(value, int) and not isinstance(value, bool) and 1_000_000 <= value < 10**15
    return value / 1e9 if usable else None
