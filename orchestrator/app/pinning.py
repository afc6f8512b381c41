"""What a manifest's images, recipes and archives come down to here, looked up side by side.

In: roots as wished, and what a lock file says of them. Out: pins by the name of the rootfs, diagnostics where one cannot be
had.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from orchestrator.diagnostics import Diagnostic
from orchestrator.errors import HostError, OrchestratorError
from orchestrator.manifest.codes import Code
from orchestrator.manifest.load import Manifest
from orchestrator.model.images import ImageWish, Pin, Recipe, Wish
from orchestrator.ports.images import Images, Watch
from orchestrator.resolve.locked import KEYS
from orchestrator.resolve.roots import Pins, Wanted

AT_ONCE = 4  # lookups and fetches; more only share the line

Locked = Callable[[Wanted], str | None]
"""The digest that a lock file names for it; None: it is not locked."""


def pins_of(
    images: Images, manifest: Manifest, wanted: Sequence[Wanted], *, locked: Locked, fetch: Watch | None
) -> tuple[Pins, tuple[Diagnostic, ...]]:
    """The pins of all that could be had. `fetch`: also have their contents here, and be told how far that is."""
    digests = {each: locked(each) for each in wanted}
    todo = list(dict.fromkeys((each.wish, digests[each]) for each in wanted))
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="pin") as pool:
        results = pool.map(lambda each: _had(images, each[0], each[1], fetch), todo)
        had = dict(zip(todo, results, strict=True))
    pins, found = {}, []
    for each in wanted:
        result = had[each.wish, digests[each]]
        if isinstance(result, Pin):
            pins[each.name] = result
        else:
            found.append(told(result, manifest, each))
    return pins, tuple(found)


def _had(images: Images, wish: Wish, locked: str | None, fetch: Watch | None) -> Pin | OrchestratorError:
    """One wish looked up, and fetched. An error is handed back, so that all of them are told."""
    try:
        if locked is not None and isinstance(wish, Recipe):
            pin = Pin(digest=locked)
        else:
            pin = images.pin(_exactly(wish, locked))
            if locked not in (None, pin.digest):
                raise HostError(
                    f"{wish.name} is {pin.digest} now, and the lock says {locked}",
                    hint="`orchestrator lock --update` takes what is there now",
                )
        return images.fetch(_exactly(wish, locked), pin, fetch) if fetch is not None else pin
    except OrchestratorError as error:
        return error


def _exactly(wish: Wish, digest: str | None) -> Wish:
    """A registry is asked for what is locked, not for what the tag names by now."""
    if digest is None or not isinstance(wish, ImageWish) or not wish.name.startswith("docker://"):
        return wish
    return replace(wish, name=f"{wish.name.partition('@')[0]}@{digest}")


def told(error: OrchestratorError, manifest: Manifest, wanted: Wanted) -> Diagnostic:
    """Why a root cannot be had, where it is written."""
    place = (*wanted.path, KEYS[type(wanted.wish)])
    return Diagnostic(code=Code.ROOT, message=error.message, span=manifest.root.find(*place), hint=error.hint)
