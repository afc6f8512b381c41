"""The queue gives each name to one worker at a time, as early as anybody asked, and never loses one."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.control.queue import Queue


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_name_comes_once_and_again_if_it_was_added_meanwhile(clock: Clock) -> None:
    queue = Queue(clock)
    for _ in range(3):
        queue.add("shop")
    assert queue.take() == "shop"
    queue.add("shop")
    queue.add("other")
    assert queue.take() == "other"  # shop is being worked on
    queue.done("shop")
    assert queue.take() == "shop"
    queue.close()
    assert queue.take() is None


def test_the_earliest_time_that_anybody_asked_for_wins(clock: Clock) -> None:
    queue = Queue(clock)
    queue.add_at("shop", 8.0)
    queue.add_at("shop", 2.0)
    queue.add_at("shop", 5.0)
    queue.add_at("late", 3.0)
    clock.now = 2.0
    assert queue.take() == "shop"
    queue.done("shop")
    assert queue.names() == {"late"}


def test_a_waiting_worker_is_woken_by_an_earlier_name(clock: Clock) -> None:
    queue = Queue(clock)
    queue.add_at("late", 1000.0)
    found: list[str | None] = []
    worker = threading.Thread(target=lambda: found.append(queue.take()))
    worker.start()
    queue.add("shop")
    worker.join(5)
    assert found == ["shop"]


@given(st.lists(st.sampled_from(["add a", "add b", "take", "done"]), max_size=40))
def test_every_add_is_followed_by_a_take_that_begins_later(script: list[str]) -> None:
    queue, taken = Queue(lambda: 0.0), list[str]()
    owed: set[str] = set()
    for each in script:
        if each.startswith("add"):
            queue.add(each[4:])
            owed.add(each[4:])
        elif each == "done" and taken:
            queue.done(taken.pop())
        elif each == "take" and owed - set(taken):
            name = queue.take()
            assert name in owed and name not in taken
            owed.discard(name)
            taken.append(name)
    assert owed == {name for name in queue.names() if name not in taken or name in owed}
    for name in taken:
        queue.done(name)
    for _ in range(len(owed)):
        name = queue.take()
        assert name is not None
        owed.discard(name)
    assert not owed
