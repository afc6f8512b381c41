"""The database keeps what it acknowledged, says what is wrong with it, and the lock has one holder."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings

from orchestrator.diagnostics import Span
from orchestrator.errors import ConflictError, HostError
from orchestrator.model.desired import Stack
from orchestrator.state import document, events
from orchestrator.state.database import VERSIONS
from orchestrator.state.events import Event
from orchestrator.state.locks import StackLock
from orchestrator.state.store import RUNS_KEPT, Run, StepRow, Store
from orchestrator.state.words import Said, Word
from tests.properties.stacks import Group, container, stack, stacks


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "state" / "o.db", clock=lambda: 5.0) as opened:
        yield opened


def commit(store: Store, wish: Stack) -> int:
    data = document.encode(wish)
    return store.commit_revision(wish.name, data, document.digest(data), sources=("shop.yaml",))


def test_a_revision_is_read_back_whole(store: Store) -> None:
    wish = stack(Group(name="web", replicas=2, memory=1 << 26), Group(name="job", job=True))
    assert commit(store, wish) == 1
    found = store.latest("shop")
    assert found and document.decode(found.document) == wish
    assert (found.number, found.sources, found.created) == (1, ("shop.yaml",), 5.0)


@settings(max_examples=30, deadline=None)
@given(stacks())
def test_every_stack_survives_its_document(wish: Stack) -> None:
    assert document.decode(document.encode(wish)) == wish


def test_the_same_digest_keeps_its_number_and_moved_lines_are_no_change(store: Store) -> None:
    wish = stack(Group(name="web"))
    moved = replace(wish, places={(container("web"), ""): Span(file="a.yaml", line=9, column=1)})
    assert [commit(store, wish), commit(store, moved)] == [1, 1]
    found = store.latest("shop")
    assert found and document.decode(found.document).places == moved.places
    assert commit(store, stack(Group(name="web", replicas=2))) == 2


def test_a_deleted_stack_keeps_its_history_and_its_numbers_go_on(store: Store) -> None:
    wish = stack(Group(name="web"))
    commit(store, wish)
    assert store.stacks() == ("shop",)
    assert [store.forget("shop"), store.forget("shop"), store.forget("other")] == [2, 2, 0]
    assert store.latest("shop") is None and store.stacks() == () and store.number("shop") == 2
    assert commit(store, wish) == 3
    assert store.stacks() == ("shop",)


def test_runs_and_events_are_kept_in_order_and_bounded(store: Store) -> None:
    step = StepRow(
        number=1, op="start", ref="container/a/a", id="0" * 12, status="failed", seconds=0.5, error="no"
    )
    for number in range(RUNS_KEPT + 5):
        store.record_run(
            Run(stack="shop", revision=number, began=1, ended=2, outcome="settled", steps=(step,))
        )
    found = store.runs("shop", limit=1000)
    assert len(found) == RUNS_KEPT
    assert found[0].revision == RUNS_KEPT + 4 and found[0].steps == (step,)
    store.events.append([Event(at=1.0, stack="shop", ref="", what="a", text="x")])
    store.events.append([Event(at=2.0, stack="shop", ref="", what="b", text="y")])
    assert [each.what for each in store.events.read("shop")] == ["a", "b"]


def test_a_newer_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "o.db"
    Store(path, clock=lambda: 0).close()
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version=99")
    db.close()
    with pytest.raises(HostError, match="newer version"):
        Store(path, clock=lambda: 0)


def test_a_damaged_database_is_told_with_path_and_next_step(tmp_path: Path) -> None:
    path = tmp_path / "o.db"
    path.write_bytes(b"not a database at all" * 500)
    with pytest.raises(HostError, match=r"o\.db") as caught:
        Store(path, clock=lambda: 0)
    assert caught.value.hint and "move the file away" in caught.value.hint


def test_a_full_disk_is_told_and_nothing_is_half_written(store: Store) -> None:
    commit(store, stack(Group(name="web")))
    pages = store._database._db.execute("PRAGMA page_count").fetchone()[0]
    store._database._db.execute(f"PRAGMA max_page_count={pages}")
    with pytest.raises(HostError, match="full") as caught:
        commit(store, stack(*(Group(name=f"g{n}") for n in range(200))))
    assert caught.value.hint and "make space" in caught.value.hint
    found = store.latest("shop")
    assert found and found.number == 1


def test_a_second_process_sees_what_the_first_committed(store: Store) -> None:
    commit(store, stack(Group(name="web")))
    with Store(store.path, clock=lambda: 0) as other:
        assert other.number("shop") == 1
        commit(other, stack(Group(name="api")))
    assert store.number("shop") == 2


def test_the_lock_has_one_holder_and_names_it(tmp_path: Path) -> None:
    first = StackLock(tmp_path / "locks" / "shop", stack="shop", command="apply -f shop.yaml")
    second = StackLock(tmp_path / "locks" / "shop", stack="shop", command="delete shop")
    with first.acquire(wait=False):
        with pytest.raises(ConflictError, match=r"process \d+ \(apply -f shop.yaml\)"):
            second.acquire(wait=False)
        with pytest.raises(ConflictError):
            second.acquire(wait=True, timeout=0.01)
    with second.acquire(wait=False), pytest.raises(ConflictError, match="delete shop"):
        first.acquire(wait=False)


def test_a_database_of_the_first_version_is_upgraded_and_keeps_its_history(tmp_path: Path) -> None:
    path = tmp_path / "o.db"
    with sqlite3.connect(path) as old:
        old.executescript(VERSIONS[0])
        old.execute("INSERT INTO revisions VALUES ('shop', 4, 'd', '{}', '[]', 1.0)")
        old.execute("INSERT INTO events (at, stack, ref, what, text) VALUES (1, 'shop', '', 'a', 'x')")
        old.execute("PRAGMA user_version=1")
    with Store(path, clock=lambda: 5.0) as store:
        found = store.latest("shop")
        assert found and (found.number, found.prune_data, found.author) == (4, False, "")
        assert [each.what for each in store.events.read("shop")] == ["a"]


def test_what_may_be_pruned_stands_with_the_revision(store: Store) -> None:
    wish = stack(Group(name="web"))
    data = document.encode(wish)
    for prune in (True, False, True):
        store.commit_revision("shop", data, "d", prune_data=prune, author="root: apply")
        mark = store.mark("shop")
        assert mark and (mark.number, mark.prune_data, mark.author) == (1, prune, "root: apply")
    store.forget("shop")
    assert store.forget("shop", prune_data=True) == 2
    mark = store.mark("shop")
    assert mark and mark.deleted and mark.prune_data


def test_words_stand_until_they_are_lifted_or_their_stack_goes(store: Store) -> None:
    commit(store, stack(Group(name="web")))
    said = Said(stack="shop", word=Word.HOLD, ref=container("web"), at=5.0, since_boot=1.0, boot="b")
    store.words.say(said, replace(said, word=Word.SUSPEND, ref=None))
    store.words.say(replace(said, at=6.0))
    assert [(each.word, each.ref, each.at) for each in store.words.of("shop")] == [
        (Word.SUSPEND, None, 5.0),
        (Word.HOLD, container("web"), 6.0),
    ]
    assert [store.words.lift("shop", Word.SUSPEND, None), store.words.lift("shop", Word.SUSPEND, None)] == [
        1,
        0,
    ]
    store.forget("shop")
    assert store.words.of("shop") == ()


def test_an_event_with_a_key_is_told_once_and_old_ones_go(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    once = Event(at=1.0, stack="shop", ref="", what="exit", text="137", key="exit:a:1")
    store.events.append([once, replace(once, at=2.0), replace(once, key=None)])
    assert [each.at for each in store.events.read()] == [1.0, 1.0]
    monkeypatch.setattr(events, "KEPT", 10)
    for number in range(600):
        store.events.append([Event(at=float(number), stack="shop", ref="", what="x", text="")])
    assert len(store.events.read("shop", limit=10_000)) < 200
    last = store.events.read("shop", limit=1)[0]
    assert last.at == 599.0 and store.events.read(after=last.number) == ()


def test_sources_are_kept_until_removed(store: Store) -> None:
    number = store.sources.add("files", {"paths": ["a.yaml"]}, holder="1 2 b")
    store.sources.note(number, {"error": "x"})
    found = store.sources.all()[0]
    assert (found.kind, found.settings, found.holder, found.state) == (
        "files",
        {"paths": ["a.yaml"]},
        "1 2 b",
        {"error": "x"},
    )
    assert [store.sources.remove(number), store.sources.remove(number)] == [True, False]


def test_a_store_follows_its_file(store: Store) -> None:
    """Somebody moved the database away under a process that has it open: what is written goes to the file that is there."""
    commit(store, stack(Group(name="web")))
    moved = store.path.with_name("moved.db")
    store.path.rename(moved)
    assert store.number("shop") == 0 and store.stacks() == ()
    commit(store, stack(Group(name="web", replicas=2)))
    with Store(store.path, clock=lambda: 5.0) as other:
        assert other.number("shop") == 1
