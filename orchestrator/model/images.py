"""Roots that come from elsewhere: what is asked for, and what that came down to here.

In: built by `resolve` (wishes) and by whoever looks them up (pins). Out: a revision holds pins alone, so what it names
never moves by itself. Digests are `sha256:` and 64 hex digits.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from orchestrator.model import codec
from orchestrator.model.desired import Health


class Pull(StrEnum):
    """When a registry is asked for what a tag names."""

    ALWAYS = "always"
    MISSING = "missing"  # only where it is not known here
    NEVER = "never"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageWish:
    """An image by its name: `docker://HOST/PATH[:TAG][@DIGEST]`, `oci:DIR[:TAG]`, `oci-archive:FILE[:TAG]` or
    `docker-archive:FILE[:TAG]`; folders and files absolute, names with everything that is usually left out."""

    name: str
    pull: Pull = Pull.MISSING


@dataclass(frozen=True, slots=True, kw_only=True)
class RecipeFile:
    """A file that a recipe puts into the root. `content`: one character a byte (latin-1), so that it is JSON text."""

    target: str
    content: str
    mode: int = 0o644
    owner: str = "root"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A root made of Debian's packages; then `files` are put in, then each line of `run` is run inside by /bin/sh."""

    suite: str
    packages: tuple[str, ...] = ()
    files: tuple[RecipeFile, ...] = ()
    run: tuple[str, ...] = ()
    variant: str = "essential"

    @property
    def name(self) -> str:
        """For people: `debian:bookworm + nginx, curl`."""
        return f"debian:{self.suite}{' + ' if self.packages else ''}{', '.join(self.packages)}"

    @property
    def key(self) -> str:
        """Hex; changes with every word of the recipe."""
        return hashlib.sha256(json.dumps(codec.encode(self), sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchiveWish:
    """A tar file of which the manifest does not say what it holds; it is pinned to what it holds now."""

    path: str

    @property
    def name(self) -> str:
        return self.path


Wish = ImageWish | Recipe | ArchiveWish


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageConfig:
    """How an image says that it is run; the manifest's own words come before each of these (OCI image-spec, config.md).

    Read from strangers: `volumes`, `user` and `workdir` are paths and names inside the image and never the host's.
    """

    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    user: str | None = None
    workdir: str | None = None
    stop_signal: str | None = None
    health: Health | None = None
    volumes: tuple[str, ...] = ()
    ports: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pin:
    """What a wish came down to. `digest`: of an image's manifest for this host's platform, or of a recipe's content;
    None: a recipe that was not built here yet. `size`: bytes to fetch, where it is known before. `packages`: name ->
    version, of a recipe that was built, as far as they are known."""

    digest: str | None
    config: ImageConfig = field(default_factory=ImageConfig)
    size: int | None = None
    packages: Mapping[str, str] = field(default_factory=dict)
