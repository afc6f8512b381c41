"""Records are decoded once for each state of their file, whoever changed it."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from orchestrator.drivers import records as module
from orchestrator.drivers.records import Record, Records
from orchestrator.model.desired import GroupSpec, StackSpec
from orchestrator.model.ids import Incarnation, Kind, Ref
from orchestrator.ports.layout import Layout

WEB = Incarnation("shop", Ref(Kind.GROUP, "web-1"), "a" * 12)


@pytest.fixture
def records(tmp_path: Path) -> Records:
    found = Records(Layout.at(tmp_path), frozenset({Kind.GROUP, Kind.STACK}))
    found.write(WEB, GroupSpec(service="web", hostname="aaa"))
    return found


@pytest.fixture
def file(records: Records) -> Path:
    """The record's file, written long ago."""
    path = records.folder(WEB) / "record.json"
    age(path)
    return path


def age(path: Path, seconds: float = 0.1) -> None:
    """As if that much time had passed since the last change: a file's change time cannot be set."""
    deadline = path.stat().st_ctime + seconds
    time.sleep(max(0.0, deadline - time.time()))


def hostname(records: Records) -> str:
    return str((records.list("shop")[0].spec or {})["hostname"])


def test_an_unchanged_file_is_decoded_once(
    records: Records, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = records.list("shop")
    monkeypatch.setattr(module, "_record", lambda data: pytest.fail("decoded again"))
    assert records.list("shop")[0] is first[0]


def test_a_file_replaced_by_one_of_the_same_size_is_seen(records: Records, file: Path) -> None:
    assert hostname(records) == "aaa"
    times = file.stat()
    beside = file.with_name("beside")
    beside.write_text(file.read_text().replace('"aaa"', '"bbb"'))
    os.utime(beside, ns=(times.st_atime_ns, times.st_mtime_ns))
    beside.rename(file)
    assert hostname(records) == "bbb"


def test_a_file_changed_in_place_is_seen_even_right_after_it_was_read(records: Records, file: Path) -> None:
    for name in ("bbb", "ccc", "ddd"):
        text = file.read_text()
        file.write_text(text.replace(f'"{hostname(records)}"', f'"{name}"'))
        assert hostname(records) == name


def test_a_file_that_went_is_seen_and_forgotten(records: Records, file: Path) -> None:
    assert records.list("shop")[0].readable
    file.unlink()
    assert records.list("shop") == (
        Record(target=Incarnation("shop", Ref(Kind.GROUP, WEB.id), WEB.id), spec=None),
    )
    records.remove(WEB)
    assert records.list("shop") == ()


def test_a_stack_without_records_and_other_kinds_do_not_mix(records: Records, file: Path) -> None:
    records.write(Incarnation("shop", Ref(Kind.STACK, "shop"), "b" * 12), StackSpec())
    assert [each.target.ref.kind for each in records.list("shop")] == [Kind.GROUP, Kind.STACK]
    assert records.list("other") == ()


def test_writing_the_same_spec_again_is_no_edit(records: Records) -> None:
    same = GroupSpec(service="web", hostname="aaa")
    assert "edited" not in records.rewrite(WEB, spec=same).extra
    assert "edited" in records.rewrite(WEB, spec=GroupSpec(service="web", hostname="bbb")).extra
