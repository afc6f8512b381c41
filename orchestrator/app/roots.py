"""The store of roots as people ask for it: what is there, from where, for whom; pull, build, verify, prune.

In: names of images, manifests, digests. Out: values of the store. Loaded by the `rootfs` verbs alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from orchestrator.app.pinning import AT_ONCE
from orchestrator.drivers.rootfs.collecting import Removed
from orchestrator.drivers.rootfs.driver import RootfsDriver
from orchestrator.drivers.rootfs.survey import Entry, survey
from orchestrator.errors import OrchestratorError, UsageError
from orchestrator.manifest.image_names import canonical
from orchestrator.model.images import ImageWish, Pin, Pull, Wish
from orchestrator.ports.images import Watch


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """One wish: its pin, or why it could not be had."""

    wish: Wish
    pin: Pin | None
    error: OrchestratorError | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Details:
    """An entry with what is known of it: an image's `manifest` and `config` (as they were served), a recipe's document,
    and each content with its size and its stacks."""

    entry: Entry
    manifest: str | None
    config: str | None
    recipe: Mapping[str, Any] | None
    contents: tuple[tuple[str, int, tuple[str, ...]], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """`damage`: what is not as it was made, in words; nothing: it is whole."""

    entry: Entry
    content: str
    damage: tuple[str, ...]


class Roots:
    """The store of one instance."""

    def __init__(self, driver: RootfsDriver) -> None:
        self._driver = driver
        self._store = driver.store

    def entries(self) -> tuple[Entry, ...]:
        return survey(self._store, self._driver.users())

    def pull(self, names: Sequence[str], folder: str, watch: Watch) -> tuple[Fetched, ...]:
        """What the names stand for now, asked for and fetched. `folder`: where relative paths start from."""
        return self.fetch([self._wish(each, folder) for each in names], watch)

    def fetch(self, wishes: Sequence[Wish], watch: Watch) -> tuple[Fetched, ...]:
        """Side by side; in the order given."""

        def one(wish: Wish) -> Fetched:
            try:
                pin = self._driver.images.fetch(wish, self._driver.images.pin(wish), watch)
                return Fetched(wish=wish, pin=pin)
            except OrchestratorError as error:
                return Fetched(wish=wish, pin=None, error=error)

        with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="fetch") as pool:
            return tuple(pool.map(one, dict.fromkeys(wishes)))

    def details(self, name: str, folder: str) -> Details:
        """Of the entry of that name, digest (or its beginning) or content. UsageError: there is none, or several."""
        entry = self._one(name, folder)
        image = self._store.document("images", entry.digest)
        users = self._driver.users()
        recipe = next(
            (each for each in self._store.documents("names") if each.get("digest") == entry.digest), None
        )
        return Details(
            entry=entry,
            manifest=image["manifest"] if image else None,
            config=image["config"] if image else None,
            recipe=recipe if entry.kind == "recipe" else None,
            contents=tuple(
                (each, int(self._store.about(each).get("bytes", 0)), tuple(sorted(users.get(each, ()))))
                for each in entry.contents
            ),
        )

    def verify(self, names: Sequence[str], folder: str) -> Iterable[Verified]:
        """Each content of these entries, or of all, once."""
        seen = set()
        for entry in [self._one(each, folder) for each in names] or self.entries():
            for content in entry.contents:
                if content not in seen:
                    seen.add(content)
                    there = self._store.has(content)
                    damage = self._store.damage(content) if there else ("it is not there",)
                    yield Verified(entry=entry, content=content, damage=damage)

    def repair(self, found: Verified) -> str | None:
        """Remove a damaged content, to be fetched again; why not, where a stack uses it."""
        users = self._driver.users().get(found.content, frozenset())
        if users:
            return f"stack {', '.join(sorted(users))} runs on it: delete or change the stack first"
        self._store.remove(found.content)
        image = self._store.document("images", found.entry.digest)
        if image is not None:
            self._store.put("images", found.entry.digest, {**image, "whole": False})
        return None

    def prune(self, *, dry: bool) -> tuple[Removed, ...]:
        """Forget the names that nothing uses, then remove what is left without a use; raises OSError."""
        removed = list(self._driver.collect(unnamed=True, dry=dry))
        for key, size in self._store.partials():
            if self._store.discard_partial(key, dry=dry):
                removed.append(Removed(name=f"half fetched: {key}", bytes=size))
        return tuple(removed)

    def _one(self, name: str, folder: str) -> Entry:
        entries = self.entries()
        tests: tuple[Callable[[Entry], bool], ...] = (
            lambda each: name in each.names or _named(name, folder) in each.names,
            lambda each: each.digest == name or name in each.contents,
            lambda each: (
                len(name) >= 6
                and each.digest.removeprefix("sha256:").startswith(name.removeprefix("sha256:"))
            ),
        )
        for test in tests:
            found = [each for each in entries if test(each)]
            if len(found) == 1:
                return found[0]
            if found:
                digests = ", ".join(each.digest[:19] for each in found)
                raise UsageError(f"{name} is several", hint=f"say which digest: {digests}")
        raise UsageError(f"nothing in the store is called {name!r}", hint="see `orchestrator rootfs ls`")

    @staticmethod
    def _wish(name: str, folder: str) -> ImageWish:
        try:
            return ImageWish(name=canonical(name, folder), pull=Pull.ALWAYS)
        except ValueError as error:
            raise UsageError(f"{name!r} is no image: {error}") from error


def _named(name: str, folder: str) -> str:
    try:
        return canonical(name, folder)
    except ValueError:
        return name
