"""Recipes in the store: built once, known by key, kept by content.

In: recipes. Out: pins; contents named by the digest of what was built, a `names` document `recipe/KEY` with the versions of
all packages, the log of the last build in `.logs/KEY`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orchestrator.drivers.rootfs.debian import apt, beneath, building
from orchestrator.drivers.rootfs.debian.normal import normalise
from orchestrator.drivers.rootfs.listing import listing
from orchestrator.drivers.rootfs.store import ContentStore, tree_name
from orchestrator.errors import StepError
from orchestrator.model import codec
from orchestrator.model.images import Pin, Recipe
from orchestrator.ports.images import Progress, Watch

_TELL = 0.2  # seconds between two words of progress


class Recipes:
    """All recipes of one store."""

    def __init__(self, store: ContentStore) -> None:
        self._store = store

    def pin(self, wish: Recipe) -> Pin:
        """The digest of what was built; None: it has to be built first."""
        found = self._built(wish)
        return _pin(found) if found else Pin(digest=None)

    def fetch(self, wish: Recipe, pin: Pin, watch: Watch) -> Pin:
        try:
            return self._fetch(wish, pin, watch)
        except OSError as error:
            raise StepError.of(f"{wish.name}: cannot build it", error) from error

    def renew(self, wish: Recipe, watch: Watch) -> Pin:
        """Build it, whether or not it was built before."""
        try:
            with self._store.making(f"recipe-{wish.key[:24]}") as folder:
                self._build(wish, Pin(digest=None), folder, watch)
        except OSError as error:
            raise StepError.of(f"{wish.name}: cannot build it", error) from error
        return self._fetch(wish, self.pin(wish), watch)

    def _fetch(self, wish: Recipe, pin: Pin, watch: Watch) -> Pin:
        if pin.digest is not None and self._store.has(tree_name(pin.digest)):
            self._remember(wish, pin.digest, self._packages(wish, pin.digest))
            watch(Progress(wish=wish, stage="ready"))
            return pin
        with self._store.making(f"recipe-{wish.key[:24]}") as folder:
            found = self._built(wish)  # by somebody else, while we waited
            if found is None or pin.digest not in (None, found["digest"]):
                self._build(wish, pin, folder, watch)
                found = self._built(wish)
        assert found is not None
        watch(Progress(wish=wish, stage="ready"))
        return _pin(found)

    def _build(self, wish: Recipe, pin: Pin, folder: Path, watch: Watch) -> None:
        told = [0.0]

        def line(text: str) -> None:
            if time.monotonic() - told[0] >= _TELL:
                told[0] = time.monotonic()
                watch(Progress(wish=wish, stage="build", line=text))

        line("")
        scratch = self._store.making(f"recipe-{wish.key[:24]}-scratch")  # collected as what is half made is
        with scratch as temporary, self._store.log(wish.key) as log:
            building.build(wish, folder, temporary, log, line)
        packages = installed(folder)
        normalise(folder, apt.public(apt.sources_of(wish.suite)))
        found = listing(folder)
        if pin.digest not in (None, found.digest):
            raise StepError(
                f"{wish.name}: what is built now is {found.digest}, not {pin.digest}",
                hint=_moved(self._packages(wish, str(pin.digest)), packages),
            )
        about = {"what": "recipe", "recipe": wish.name, "key": wish.key, "packages": packages}
        with self._store.held():  # until it has a name
            self._store.keep_listed(folder, tree_name(found.digest), about, found)
            self._remember(wish, found.digest, packages)

    def _built(self, wish: Recipe) -> Mapping[str, Any] | None:
        found = self._store.document("names", f"recipe/{wish.key}")
        return found if found and self._store.has(tree_name(str(found["digest"]))) else None

    def _packages(self, wish: Recipe, digest: str) -> Mapping[str, str]:
        """What is known of the packages of a content, or else of the recipe's last build."""
        known = (
            self._store.about(tree_name(digest)) or self._store.document("names", f"recipe/{wish.key}") or {}
        )
        packages: Mapping[str, str] = known.get("packages", {})
        return packages

    def _remember(self, wish: Recipe, digest: str, packages: Mapping[str, str]) -> None:
        key = f"recipe/{wish.key}"
        known = self._store.document("names", key)
        if known is not None and known["digest"] == digest:
            return
        document = {
            "name": wish.name,
            "kind": "recipe",
            "key": wish.key,
            "digest": digest,
            "recipe": codec.encode(wish),
            "packages": dict(packages),
            "at": time.time(),
        }
        self._store.put("names", key, document)


def _pin(built: Mapping[str, Any]) -> Pin:
    return Pin(digest=str(built["digest"]), packages=built.get("packages", {}))


def installed(folder: Path) -> dict[str, str]:
    """Package -> version, of a built root (dpkg(1))."""
    found: dict[str, str] = {}
    try:
        root = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return found
    try:
        text = (beneath.read(root, "var/lib/dpkg/status") or b"").decode("utf-8", "replace")
    finally:
        os.close(root)
    for stanza in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in stanza.splitlines() if ": " in line and line[:1] != " ")
        if fields.get("Status", "").endswith(" installed"):
            found[fields["Package"]] = fields.get("Version", "")
    return dict(sorted(found.items()))


def _moved(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """Which packages make the difference, as far as it is known."""
    names = [each for each in sorted(before.keys() | now.keys()) if before.get(each) != now.get(each)]
    words = [f"{each} {before.get(each, 'none')} -> {now.get(each, 'none')}" for each in names]
    told = ", ".join(words[:5]) + (f" and {len(words) - 5} more" if len(words) > 5 else "")
    return f"{told or 'the same packages, made differently'}: `orchestrator lock --update` takes what is there now"
