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
from orchestrator.state import document
from orchestrator.state.locks import StackLock
from orchestrator.state.store import RUNS_KEPT, Event, Run, StepRow, Store
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
    store.append_events([Event(at=1.0, stack="shop", ref="", what="a", text="x")])
    store.append_events([Event(at=2.0, stack="shop", ref="", what="b", text="y")])
    assert [each.what for each in store.events("shop")] == ["a", "b"]


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
    pages = store._db.execute("PRAGMA page_count").fetchone()[0]
    store._db.execute(f"PRAGMA max_page_count={pages}")
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
