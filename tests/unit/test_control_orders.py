"""Words become orders from what is observed alone; saying the same twice, or dying in between, changes nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest

from orchestrator.control import orders
from orchestrator.model import codec
from orchestrator.model.ids import Ref
from orchestrator.model.observed import Exit, Health, Observation, Phase
from orchestrator.plan.changes import Policy
from orchestrator.state.words import Said, Word
from tests.properties.stacks import Group, container, stack

BOOT = "b1"
PROBED = stack(Group(name="web", replicas=3, probed=True))
WEB = tuple(container("web", number) for number in (1, 2, 3))


def said(ref: Ref | None, word: Word = Word.RESTART, *, since_boot: float = 100.0, boot: str = BOOT) -> Said:
    return Said(
        stack="shop", word=word, ref=ref, at=0.0, since_boot=since_boot, boot=boot, author="ann: verb"
    )


def seen(ref: Ref, started: float | None, *exits: Exit, health: Health = Health.HEALTHY) -> Observation:
    return Observation(
        ref=ref,
        id=ref.name[4],
        phase=Phase.EXITED if started is None else Phase.RUNNING,
        applied=codec.encode(PROBED.resources[ref]),
        health=health if started is not None else Health.NONE,
        exits=exits,
        started=started,
    )


def due(*observed: Observation, boot: str = BOOT) -> set[Ref]:
    return set(orders.read([said(ref) for ref in WEB], observed, boot=boot).force)


def test_what_started_before_the_word_is_restarted_and_what_started_after_it_is_not() -> None:
    (first, *_) = WEB
    assert due(seen(first, 99.0)) == {first}
    assert due(seen(first, 101.0)) == set()
    assert due(seen(first, None, Exit(started=50.0, ended=60.0, code=1))) == {first}
    assert due(seen(first, None, Exit(started=101.0, ended=102.0, code=1))) == set()


def test_a_reboot_has_done_it_and_an_end_before_the_boot_is_before_the_word() -> None:
    (first, *_) = WEB
    assert due(seen(first, 5.0), boot="b2") == set()
    assert due(seen(first, None, Exit(started=0.0, ended=0.0, code=0))) == {first}


def test_what_never_ran_is_started_without_a_word() -> None:
    assert due(seen(WEB[0], None)) == set()


def test_instances_come_one_after_the_other_each_when_the_one_before_is_healthy() -> None:
    first, second, third = WEB
    assert due(*(seen(ref, 50.0) for ref in WEB)) == {first}
    rest = [seen(second, 50.0), seen(third, 50.0)]
    assert due(seen(first, 101.0, health=Health.STARTING), *rest) == set()
    assert due(seen(first, None, Exit(started=101.0, ended=102.0, code=1)), *rest) == set()
    assert due(seen(first, 101.0), *rest) == {second}
    # One that was started anew for another reason is waited for as well.
    assert due(seen(first, 50.0), seen(second, 50.0), seen(third, 101.0, health=Health.STARTING)) == set()


def test_one_that_was_stopped_and_not_started_yet_still_has_its_turn() -> None:
    first, second, _ = WEB
    stopped = Exit(started=50.0, ended=101.0, signal=15, stopped=True)
    assert due(seen(first, None, stopped), seen(second, 50.0)) == {first}


def test_an_earlier_word_blocks_no_later_one() -> None:
    first, second, _ = WEB
    words = [said(first, since_boot=10.0), said(second)]
    observed = (seen(first, 20.0, health=Health.UNHEALTHY), seen(second, 50.0))
    assert orders.read(words, observed, boot=BOOT).force == {second}


def test_holds_and_suspension_say_who_and_when(monkeypatch: pytest.MonkeyPatch) -> None:
    words = [said(WEB[0], Word.HOLD), said(None, Word.SUSPEND)]
    found = orders.read(words, (), boot=BOOT)
    assert found.stopped[WEB[0]].startswith("stopped by ann since ")
    assert found.suspended is not None and found.suspended.startswith("suspended by ann since ")


def test_they_are_added_to_the_policy() -> None:
    found = orders.Orders(stopped={WEB[0]: "stopped"}, force=frozenset({WEB[1]}))
    policy = found.policy(Policy(prune_data=True, force=frozenset({WEB[2]})))
    assert policy == replace(Policy(prune_data=True), stopped={WEB[0]: "stopped"}, force=frozenset(WEB[1:]))
