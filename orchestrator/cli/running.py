"""From what people type to one running container, for the verbs that act on what runs.

In: the text and the application. Out: an incarnation, or a `UsageError` that says what is in the way.
"""

from __future__ import annotations

from collections.abc import Iterable

from orchestrator.app import App
from orchestrator.cli import refs
from orchestrator.errors import UsageError
from orchestrator.model.ids import Incarnation, Kind
from orchestrator.model.observed import Observation, Phase


def find(app: App, text: str) -> Incarnation:
    """The one running container that `text` names."""
    return find_all(app, [text])[0]


def find_all(app: App, texts: Iterable[str]) -> list[Incarnation]:
    """Each once, in the order of `texts`; all of them run, or nothing is returned."""
    found = {
        refs.Named(name, each.ref): each
        for name in app.stacks()
        for each in sorted(app.observe_containers(name), key=_running)
        if each.ref.kind is Kind.CONTAINER
    }
    chosen = {}
    for text in texts:
        named = refs.find_container(text, found)
        if not _running(found[named]):
            raise UsageError(
                f"{named.ref} is not running ({_why(found[named])})", hint=f"see `orchestrator logs {text}`"
            )
        chosen[named] = Incarnation(named.stack, named.ref, found[named].id)
    return list(chosen.values())


def _running(each: Observation) -> bool:
    return each.phase is Phase.RUNNING


def _why(found: Observation) -> str:
    return str(found.exits[-1]) if found.exits else found.phase.value
