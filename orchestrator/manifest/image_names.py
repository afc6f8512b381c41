"""Names of images: what users leave out is filled in, as Docker and Podman do it.

In: a name as written and the folder that relative paths start from. Out: one of `docker://HOST/PATH:TAG`,
`docker://HOST/PATH@DIGEST`, `docker://HOST/PATH:TAG@DIGEST`, `oci:DIR[:TAG]`, `oci-archive:FILE[:TAG]`,
`docker-archive:FILE[:TAG]` (containers-transports(5); the grammar of names is distribution's reference.go). Pure.
"""

from __future__ import annotations

import posixpath
import re

HUB = "docker.io"
FILES = ("oci", "oci-archive", "docker-archive")
"""Transports of folders and files."""

_REGISTRY = "docker://"
_HOST = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9a-fA-F:]+\])(?::[0-9]{1,5})?")
_PATH = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_LONGEST = 255


def canonical(text: str, folder: str) -> str:
    """The whole name. Raises ValueError with what is wrong, in words."""
    if not text.isprintable() or any(each.isspace() for each in text):
        raise ValueError(f"{text!r} holds blanks or control characters")
    transport, colon, rest = text.partition(":")
    if colon and transport in FILES:
        return f"{transport}:{_file(rest, transport, folder)}"
    if text.startswith(_REGISTRY):
        text = text.removeprefix(_REGISTRY)
    elif "://" in text:
        raise ValueError(f"{text} is an address: write it without {text.partition('://')[0]}://")
    return _REGISTRY + _registry(text)


def path_of(name: str) -> str | None:
    """The folder or file of a whole name; None: it is a registry's."""
    transport, _, rest = name.partition(":")
    return _split(transport, rest)[0] if transport in FILES else None


def _registry(text: str) -> str:
    name, at, digest = text.partition("@")
    if at and not _DIGEST.fullmatch(digest):
        raise ValueError(
            f"{digest or 'nothing'} after @ is no digest: it is sha256: and 64 hexadecimal digits"
        )
    head, slash, tail = name.rpartition("/")
    last, colon, tag = tail.partition(":")
    if colon and not _TAG.fullmatch(tag):
        raise ValueError(f"{tag or 'nothing'} after : is no tag")
    host, path = _host(f"{head}{slash}{last}")
    if not _HOST.fullmatch(host) or ".." in host:
        raise ValueError(f"{host or 'nothing'} is no registry")
    if not _PATH.fullmatch(path):
        lower = f": write {path.lower()}" if path != path.lower() and _PATH.fullmatch(path.lower()) else ""
        raise ValueError(f"{path or 'nothing'} is no repository's name{lower}")
    if len(path) > _LONGEST:
        raise ValueError(f"a name of {len(path)} characters")
    shown = f":{tag}" if colon else ("" if at else ":latest")
    return f"{host}/{path}{shown}{at}{digest}"


def _host(name: str) -> tuple[str, str]:
    """The first part is a registry if it looks like a machine's name: with a dot, a port, or localhost."""
    first, slash, rest = name.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost"):
        if first in (HUB, "index.docker.io", "registry-1.docker.io"):
            return HUB, rest if "/" in rest else f"library/{rest}"
        return first, rest
    return HUB, name if slash else f"library/{name}"


def _file(rest: str, transport: str, folder: str) -> str:
    path, colon, tag = _split(transport, rest)
    if not path:
        raise ValueError(f"{transport}: needs a path")
    if (colon and not tag) or (transport != "docker-archive" and colon and not _TAG.fullmatch(tag)):
        raise ValueError(f"{tag or 'nothing'} after : is no tag")
    return f"{posixpath.normpath(posixpath.join(folder, path))}{colon}{tag}"


def _split(transport: str, rest: str) -> tuple[str, str, str]:
    """Path, colon and tag. In an archive of `docker save` the tag is a name with colons and slashes of its own, so a path
    has no colon."""
    if transport == "docker-archive":
        return rest.partition(":")
    path, colon, tag = rest.rpartition(":")
    return (path, colon, tag) if colon and "/" not in tag else (rest, "", "")
