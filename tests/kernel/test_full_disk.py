"""History on a full disk: it is read all the same, refuses to grow, and a deletion is kept without space."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.errors import HostError
from orchestrator.model.desired import Stack
from orchestrator.state import document
from orchestrator.state.events import Event
from orchestrator.state.store import Store
from tests.properties.stacks import Group, stack

pytestmark = pytest.mark.root


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", tmp_path], check=True)
    try:
        yield tmp_path
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def fill(disk: Path) -> None:
    with pytest.raises(OSError, match="No space"), (disk / "fill").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


def opened(disk: Path) -> Store:
    return Store(disk / "o.db", clock=lambda: 5.0)


def commit(store: Store, wish: Stack) -> int:
    data = document.encode(wish)
    return store.commit_revision(wish.name, data, document.digest(data))


def test_history_is_read_on_a_full_disk_and_grows_again_when_there_is_space(disk: Path) -> None:
    with opened(disk) as store:
        commit(store, stack(Group(name="web")))
    fill(disk)
    with opened(disk) as store, opened(disk) as other:
        assert (store.stacks(), other.stacks()) == (("shop",), ("shop",))
        with pytest.raises(HostError, match=r"o\.db: the disk is full") as caught:
            commit(store, stack(Group(name="api")))
        assert caught.value.hint and "make space" in caught.value.hint
        (disk / "fill").unlink()
        assert commit(store, stack(Group(name="api"))) == 2
        assert other.number("shop") == 2


def test_what_a_killed_writer_left_in_the_wal_is_read_too(disk: Path) -> None:
    writer = opened(disk)
    commit(writer, stack(Group(name="web")))
    left = {each: each.read_bytes() for each in disk.iterdir() if not each.name.endswith("-shm")}
    writer.close()
    for path, data in left.items():
        path.write_bytes(data)
    assert len(left) == 2, "nothing is left in a WAL"
    fill(disk)
    with opened(disk) as store:
        assert store.number("shop") == 1


def test_a_stack_is_deleted_without_space_and_buried_with_the_next_write(disk: Path) -> None:
    with opened(disk) as store:
        commit(store, stack(Group(name="web")))
    fill(disk)
    with opened(disk) as store:
        assert [store.forget("shop"), store.forget("shop"), store.forget("other")] == [2, 2, 0]
        assert (store.stacks(), store.latest("shop"), store.number("shop")) == ((), None, 2)
    with opened(disk) as store:
        assert (store.stacks(), store.latest("shop"), store.number("shop")) == ((), None, 2)
        (disk / "fill").unlink()
        store.events.append([Event(at=1.0, stack="other", ref="", what="x", text="")])
        assert [each.name for each in disk.iterdir() if "deleted" in each.name] == []
        assert (store.stacks(), store.latest("shop"), store.number("shop")) == ((), None, 2)
        assert commit(store, stack(Group(name="web"))) == 3
        assert store.stacks() == ("shop",)


def test_looking_where_nothing_could_be_written_at_all_finds_nothing(disk: Path) -> None:
    fill(disk)
    with opened(disk) as store:
        assert (store.stacks(), store.number("shop")) == ((), 0)
        with pytest.raises(HostError, match="the disk is full"):
            commit(store, stack(Group(name="web")))
