"""Secrets and configs to what their files hold: a digest, and how a change of it reaches what runs.

In: a manifest with the bytes that were read, and the function that gives a secret's keyed digest. Out: `Content`s and the
configs' bytes by digest. A secret's bytes end here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping

from orchestrator.manifest.load import Manifest
from orchestrator.manifest.mounts import OnChange
from orchestrator.model.desired import Content, Update

Keyed = Callable[[bytes], str]

_WORDS = {"restart": Update.RESTART, "replace": Update.REPLACE, "none": Update.LIVE}


def unkeyed(data: bytes) -> str:
    """For stacks that are looked at and never applied: says nothing of the bytes."""
    return ""


def contents_of(manifest: Manifest, keyed: Keyed) -> dict[str, Content]:
    """`secret/NAME` and `config/NAME` of all that are declared; those that could not be read have an empty digest."""
    found = {}
    for name, secret in manifest.content.secrets.items():
        key = f"secret/{name}"
        read = manifest.contents.get(key)
        found[key] = Content(
            digest=keyed(read.data) if read else "",
            source=read.path if read else None,
            update=_update(secret.on_change),
            signal=secret.on_change.signal,
        )
    for name, config in manifest.content.configs.items():
        key = f"config/{name}"
        read = manifest.contents.get(key)
        found[key] = Content(
            digest=_sha256(read.data) if read else "",
            update=_update(config.on_change),
            signal=config.on_change.signal,
        )
    return found


def blobs_of(manifest: Manifest, used: Iterable[str]) -> Mapping[str, bytes]:
    """The bytes of those of the keys that are configs, by digest."""
    data = [
        manifest.contents[key].data for key in used if key.startswith("config/") and key in manifest.contents
    ]
    return {_sha256(each): each for each in data}


def _update(on_change: OnChange) -> Update:
    return Update.LIVE if on_change.word is None else _WORDS[on_change.word]


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
