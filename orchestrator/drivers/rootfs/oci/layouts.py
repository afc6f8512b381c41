"""Images that lie on this host: OCI layout folders, and archives of layouts and of `docker save`.

In: an absolute path and a tag. Out: `Local`: manifest, configuration, and where each layer's blob is. Archives are
read like everything of strangers: small members into memory to look, all of them into a folder of ours to unpack.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from orchestrator.drivers.rootfs.members import Bounds
from orchestrator.drivers.rootfs.oci.manifests import (
    Choice,
    ImageManifest,
    digest_of,
    read_config,
    read_manifest,
    verified,
)
from orchestrator.drivers.rootfs.streams import Stream
from orchestrator.drivers.rootfs.tarball import MemberType, Tarball, TarError
from orchestrator.drivers.rootfs.unpack import sha256, unpack
from orchestrator.errors import StepError

_SMALL = 8 << 20  # bytes of a manifest or configuration
_MEMORY = 64 << 20  # bytes of all of them in one archive
_TAG = "org.opencontainers.image.ref.name"
_DOCKER_NAME = "io.containerd.image.name"
_INDEX, _SAVED = "index.json", "manifest.json"

Reader = Callable[[str], bytes | None]
"""A small file by its path inside; None: there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Local:
    """`manifest` and `config` raw; `paths`: digest of a layer's blob -> its path inside."""

    manifest: bytes
    config: bytes
    paths: Mapping[str, str]


def look(path: str, tag: str, *, archive: bool) -> Local:
    """The image of that tag ("" where there is one alone). Raises StepError."""
    try:
        reader = _members(path) if archive else _folder(path)
        if (index := reader(_INDEX)) is not None:
            return _layout(index, reader, path, tag)
        if (saved := reader(_SAVED)) is not None:
            return _docker(saved, reader, path, tag)
    except OSError as error:
        raise StepError.of(f"{path}: cannot read the image", error) from error
    except TarError as error:
        raise StepError(f"{path}: {error}", argument=path) from error
    raise StepError(
        f"{path} holds no image: there is neither {_INDEX} nor {_SAVED} in it",
        hint="of a plain tar of a root write archive: PATH",
    )


def stamp(path: str, *, archive: bool) -> list[int]:
    """Changes with the file, or with the index of a layout."""
    try:
        found = os.stat(path if archive else f"{path}/{_INDEX}")  # noqa: PTH116
    except OSError as error:
        raise StepError.of(f"{path}: cannot read the image", error) from error
    return [found.st_mtime_ns, found.st_size, found.st_ino]


def extract(path: str, folder: Path) -> None:
    """All of an archive into the empty folder."""
    try:
        with open_file(path) as file:
            unpack(file, os.fspath(folder), sha256(file))
    except OSError as error:
        raise StepError.of(f"{path}: cannot unpack it", error) from error
    except TarError as error:
        raise StepError(f"{path}: {error}", argument=path) from error


def blob(folder: str | Path, inside: str) -> Path:
    """The file of a blob in a folder; StepError where it lies elsewhere, or is none. `docker save` links equal layers."""
    top = os.path.realpath(folder)
    found = os.path.realpath(f"{top}/{inside}")
    if not found.startswith(f"{top}/") or not os.path.isfile(found):  # noqa: PTH113
        raise StepError(f"{folder}: {inside} is missing, or no file of it")
    return Path(found)


def open_file(path: str) -> IO[bytes]:
    """A regular file; a FIFO would make us wait for ever."""
    file = open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb", buffering=0)  # noqa: SIM115 -- the caller's
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise StepError(f"{path} is not a regular file", argument=path)
    return file


def _folder(path: str) -> Reader:
    if not os.path.isdir(path):  # noqa: PTH112
        raise StepError(f"{path} is no folder" if os.path.exists(path) else f"{path}: no such directory")  # noqa: PTH110

    def read(inside: str) -> bytes | None:
        if not os.path.lexists(f"{path}/{inside}"):
            return None
        with open(blob(path, inside), "rb") as file:
            return file.read(_SMALL)

    return read


def _members(path: str) -> Reader:
    """The small files of an archive, by name."""
    found: dict[str, bytes] = {}
    held = 0
    with open_file(path) as file:
        stream = Stream(file, Bounds().most(os.fstat(file.fileno()).st_size))
        try:
            tarball = Tarball(stream)
            for member in tarball:
                if member.type is not MemberType.FILE or member.size > _SMALL:
                    continue
                start = tarball.read(512)
                if start.lstrip()[:1] not in (b"{", b"["):
                    continue  # no JSON: a small layer
                if (held := held + member.size) > _MEMORY:
                    raise TarError(f"its descriptions are larger than {_MEMORY} bytes")
                name = "/".join(each for each in member.name.split("/") if each not in ("", "."))
                found[name] = start + b"".join(iter(lambda: tarball.read(1 << 20), b""))
        finally:
            stream.close()
    return found.get


def _layout(raw: bytes, reader: Reader, path: str, tag: str) -> Local:
    """An index may name indexes, which may name one for our platform."""
    entries = _json(raw, path).get("manifests")
    entries = [each for each in entries if isinstance(each, dict)] if isinstance(entries, list) else []
    named = {name: each for each in entries for name in _names(each)}
    if tag:
        if tag not in named:
            raise StepError(f"{path} holds no image {tag}", hint=_there(named))
        chosen = json.dumps({"manifests": [named[tag]]}).encode()
    elif len(named) > 1:
        raise StepError(f"{path} holds several images", hint=f"write its tag after the path: {_there(named)}")
    else:
        chosen = raw
    for _ in range(4):
        found = read_manifest(chosen, path)
        if isinstance(found, ImageManifest):
            paths = {each.digest: _inside(each.digest) for each in found.layers}
            return Local(manifest=chosen, config=_blob(found.config.digest, reader, path), paths=paths)
        assert isinstance(found, Choice)
        chosen = _blob(found.blob.digest, reader, path)
    raise StepError(f"{path}: an index of indexes of indexes")


def _names(entry: Mapping[str, Any]) -> tuple[str, ...]:
    said = entry.get("annotations")
    said = said if isinstance(said, dict) else {}
    return tuple(str(said[key]) for key in (_TAG, _DOCKER_NAME) if key in said)


def _there(named: Mapping[str, object]) -> str:
    return f"there is {', '.join(sorted(named))[:200]}" if named else "none in it has a tag"


def _inside(digest: str) -> str:
    return f"blobs/sha256/{digest.removeprefix('sha256:')}"


def _blob(digest: str, reader: Reader, path: str) -> bytes:
    found = reader(_inside(digest))
    if found is None:
        raise StepError(f"{path}: blob {digest} is missing")
    return verified(found, digest, path)


def _docker(raw: bytes, reader: Reader, path: str, tag: str) -> Local:
    """What `docker save` wrote before it wrote layouts: layers are plain tars, named by folders."""
    try:
        entries = json.loads(raw)
    except (ValueError, RecursionError):
        entries = None
    images = [each for each in entries if isinstance(each, dict)] if isinstance(entries, list) else []
    wanted = [each for each in images if not tag or tag in _tags(each)]
    if len(wanted) != 1:
        names = {name: each for each in images for name in _tags(each)}
        raise StepError(
            f"{path} holds {f'no image {tag}' if tag else f'{len(images)} images'}", hint=_there(names)
        )
    layers, name = wanted[0].get("Layers"), wanted[0].get("Config")
    config = reader(name) if isinstance(name, str) else None
    if config is None or not isinstance(layers, list) or not all(isinstance(each, str) for each in layers):
        raise StepError(
            f"{path} is damaged: its {_SAVED} names no layers, or a configuration that is missing"
        )
    _, diff_ids = read_config(config, path, len(layers))
    if not layers:
        raise StepError(f"{path} is damaged: its {_SAVED} names no layers")
    composed = {
        "schemaVersion": 2,
        "config": {"digest": digest_of(config), "size": len(config)},
        "layers": [
            {"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": each, "size": 0}
            for each in diff_ids
        ],
    }
    manifest = json.dumps(composed, sort_keys=True).encode()
    return Local(manifest=manifest, config=config, paths=dict(zip(diff_ids, layers, strict=True)))


def _tags(image: Mapping[str, Any]) -> tuple[str, ...]:
    said = image.get("RepoTags")
    return tuple(each for each in said if isinstance(each, str)) if isinstance(said, list) else ()


def _json(raw: bytes, path: str) -> dict[str, Any]:
    try:
        found = json.loads(raw)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise StepError(f"{path} is damaged: one of its descriptions is no JSON object")
    return found
