"""How files change on disk, as a watched source hears of it: real inotify, real folders."""

from __future__ import annotations

import errno
import os
import queue
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from watchdog.observers.api import BaseObserver, EventEmitter

from orchestrator.control.sources import watching
from orchestrator.control.sources.places import Places, entries
from orchestrator.control.sources.watching import Watcher

SOON = 5.0


class Ear:
    """Hears of one source; `looks` as its reader does: only contents count."""

    def __init__(
        self,
        paths: list[Path],
        observer: Callable[[], BaseObserver] | None = None,
        bound: tuple[Path, ...] = (),
    ) -> None:
        self.places = Places(files=frozenset(map(str, paths)), bound=frozenset(map(str, bound)))
        self.told: queue.SimpleQueue[frozenset[str]] = queue.SimpleQueue()
        extra = {"observer": observer} if observer else {}
        self.watcher = Watcher(lambda number, changed: self.told.put(changed), **extra)
        self.watcher.set(7, self.places)
        self.known = self.places.fingerprint()

    def looks(self, within: float = SOON) -> frozenset[str]:
        """The paths of the next call after which contents are others than before."""
        until, changed = time.monotonic() + within, frozenset[str]()
        while True:
            changed |= self.told.get(timeout=max(0.0, until - time.monotonic()))
            now = self.places.fingerprint()
            if now != self.known:
                self.known = now
                return changed

    def heard(self) -> int:
        """How often it was called until nothing more comes."""
        count = 0
        while True:
            try:
                self.told.get(timeout=4 * watching.QUIET)
            except queue.Empty:
                return count
            count += 1


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "stacks" / "shop.yaml"
    path.parent.mkdir()
    path.write_text("stack: shop\n")
    return path


@pytest.fixture
def ear(file: Path) -> Iterator[Ear]:
    made = Ear([file])
    yield made
    made.watcher.close()


@pytest.fixture
def quick_poll(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "POLL", 0.1)
    monkeypatch.setattr(watching, "POLL_ALONE", 0.1)


def vim(file: Path, text: str) -> None:
    probe = file.with_name("4913")
    probe.touch()
    probe.unlink()
    file.rename(f"{file}~")
    file.write_text(text)
    Path(f"{file}~").unlink()


def renamed_over(file: Path, text: str) -> None:
    new = file.with_name(f".{file.name}.swp")
    new.write_text(text)
    new.rename(file)


def deleted_first(file: Path, text: str) -> None:
    file.unlink()
    file.write_text(text)


def sed(file: Path, text: str) -> None:
    subprocess.run(["sed", "-i", f"1c\\{text.strip()}", str(file)], check=True)


def copied(file: Path, text: str) -> None:
    other = file.parent.parent / "other"
    other.write_text(text)
    subprocess.run(["cp", str(other), str(file)], check=True)


def moved_in(file: Path, text: str) -> None:
    other = file.parent.parent / "other"
    other.write_text(text)
    other.rename(file)


SAVES = (Path.write_text, vim, renamed_over, deleted_first, sed, copied, moved_in)


@pytest.mark.parametrize("save", SAVES, ids=lambda each: each.__name__)
def test_each_way_of_saving_is_seen_again_and_again(
    ear: Ear, file: Path, save: Callable[..., object]
) -> None:
    for text in ("stack: one\n", "stack: two\n", "stack: three\n"):
        save(file, text)
        assert ear.looks() == {str(file)}
        assert file.read_text() == text, "told before it was whole"
    assert ear.heard() == 0


def test_what_lies_beside_is_not_heard(ear: Ear, file: Path) -> None:
    for name in (".shop.yaml.swp", "shop.yaml~", "4913", "#shop.yaml#", "other.yaml"):
        file.with_name(name).write_text("x")
    assert ear.heard() == 0


def test_new_and_removed_files_of_a_folder_are_seen_but_not_what_editors_leave(file: Path) -> None:
    ear = Ear([file.parent, file])
    try:
        for name in (".#new.yaml", ".new.yaml.swp", "new.yaml~", "4913"):
            file.with_name(name).write_text("x")
        assert ear.heard() == 0
        file.with_name("new.yaml").write_text("stack: other\n")
        assert ear.looks() == {str(file.parent)}
        file.with_name("new.yaml").unlink()
        assert ear.looks() == {str(file.parent)}
    finally:
        ear.watcher.close()


def test_half_of_a_file_is_not_told_while_it_is_written(
    ear: Ear, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "LONGEST", SOON)
    with file.open("w") as writer:
        for part in ("stack: ", "shop\n", "groups:", " {}\n"):
            writer.write(part)
            writer.flush()
            time.sleep(2 * watching.QUIET)
        assert ear.told.empty()
    assert ear.looks() == {str(file)}


def test_file_that_stays_open_is_told_within_a_second_or_so(ear: Ear, file: Path) -> None:
    with file.open("a") as writer:
        writer.write("# more\n")
        writer.flush()
        assert ear.looks(4 * watching.LONGEST) == {str(file)}


def test_changed_mode_alone_is_seen_and_changes_nothing(file: Path, quick_poll: None) -> None:
    ear = Ear([file])
    try:
        file.chmod(0o640)
        assert ear.told.get(timeout=SOON) == {str(file)}
        assert ear.places.fingerprint() == ear.known
    finally:
        ear.watcher.close()


def test_swapped_links_on_the_way_are_seen(tmp_path: Path) -> None:
    """As Kubernetes mounts a ConfigMap: the file is a link into `..data`, which is a link to a folder of today."""
    for day in ("1", "2", "3"):
        (tmp_path / f"..{day}").mkdir()
        (tmp_path / f"..{day}" / "shop.yaml").write_text(f"stack: day-{day}\n")
    data, file = tmp_path / "..data", tmp_path / "shop.yaml"
    data.symlink_to("..1")
    file.symlink_to("..data/shop.yaml")
    ear = Ear([file])
    try:
        for day in ("2", "3"):
            (tmp_path / "new").symlink_to(f"..{day}")
            (tmp_path / "new").rename(data)
            assert ear.looks() == {str(file)}
            # The folder that it leads to now is listened to as well.
            (tmp_path / f"..{day}" / "shop.yaml").write_text(f"stack: later-on-{day}\n")
            assert ear.looks() == {str(file)}
    finally:
        ear.watcher.close()


def test_folder_moved_away_and_back_and_made_anew(ear: Ear, file: Path) -> None:
    away = file.parent.with_name("away")
    file.parent.rename(away)
    assert ear.looks() == {str(file)}
    (away / file.name).write_text("stack: while-away\n")
    away.rename(file.parent)
    assert ear.looks() == {str(file)}
    file.write_text("stack: back\n")
    assert ear.looks() == {str(file)}
    file.unlink()
    file.parent.rmdir()
    assert ear.looks() == {str(file)}
    file.parent.mkdir()
    file.write_text("stack: anew\n")
    assert ear.looks() == {str(file)}
    vim(file, "stack: and-edited\n")
    assert ear.looks() == {str(file)}


def test_checkout_of_many_files_is_few_looks(tmp_path: Path) -> None:
    files = [tmp_path / f"{number}.yaml" for number in range(200)]
    for each in files:
        each.write_text("stack: a\n")
    ear = Ear([tmp_path, *files])
    try:
        for each in files:
            deleted_first(each, "stack: b\n")
        assert 1 <= ear.heard() <= 20
        assert ear.places.fingerprint() != ear.known
        assert not ear.watcher.exhausted
    finally:
        ear.watcher.close()


def test_storm_is_told_seldom_and_its_last_word_is_heard(ear: Ear, file: Path) -> None:
    for number in range(4000):
        renamed_over(file, f"stack: n-{number}\n")
    assert ear.heard() <= 200
    assert ear.places.fingerprint() != ear.known


class Deaf(BaseObserver):
    """As after an overflow of the queue, or on a network file system: no event ever comes."""

    def __init__(self) -> None:
        super().__init__(Silent)


class Silent(EventEmitter):
    def queue_events(self, timeout: float) -> None:
        time.sleep(0.05)


def test_changes_without_events_are_seen(file: Path, quick_poll: None) -> None:
    ear = Ear([file], Deaf)
    try:
        for save in (vim, Path.write_text):
            save(file, f"stack: by-{save.__name__.replace('_', '-')}\n")
            assert ear.looks() == {str(file)}
        assert not ear.watcher.exhausted
    finally:
        ear.watcher.close()


class Exhausted(BaseObserver):
    """inotify as it is when a limit of fs.inotify is reached."""

    def __init__(self) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


def test_exhausted_inotify_is_polled_and_says_so(file: Path, quick_poll: None) -> None:
    ear = Ear([file], Exhausted)
    try:
        assert ear.watcher.exhausted == "too many open files"
        for save in (vim, Path.write_text):
            save(file, f"stack: by-{save.__name__.replace('_', '-')}\n")
            assert ear.looks() == {str(file)}
    finally:
        ear.watcher.close()


def test_inotify_is_used_again_when_its_limits_allow(
    file: Path, quick_poll: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "TRY_AGAIN", 0.0)
    tries = []

    def twice() -> BaseObserver:
        tries.append(1)
        return Exhausted() if len(tries) < 2 else watching.Observer()

    ear = Ear([file], twice)
    try:
        assert ear.watcher.exhausted
        file.write_text("stack: polled\n")
        assert ear.looks() == {str(file)}
        assert not ear.watcher.exhausted
    finally:
        ear.watcher.close()


def test_entries_on_the_way_are_the_links_the_file_and_its_folder(tmp_path: Path) -> None:
    real = tmp_path / "real" / "deep"
    real.mkdir(parents=True)
    (tmp_path / "link").symlink_to("real")
    here = str(tmp_path)
    assert entries(f"{here}/link/./../link/deep/a.yaml") == {
        (here, "link"),
        (f"{here}/real", "deep"),
        (f"{here}/real/deep", "a.yaml"),
    }
    (tmp_path / "loop").symlink_to("loop")
    assert (here, "loop") in entries(f"{here}/loop/a")


def test_dropped_source_is_heard_no_more(ear: Ear, file: Path) -> None:
    ear.watcher.drop(7)
    file.write_text("stack: unwatched\n")
    assert ear.heard() == 0


def test_of_a_bound_file_only_another_one_in_its_place_is_told(file: Path) -> None:
    bound = file.with_name("exporter.py")
    bound.write_text("1")
    ear = Ear([file], bound=(bound,))
    try:
        bound.write_text("a longer text")
        with bound.open("a") as log:
            for _ in range(100):
                log.write("line\n")
                log.flush()
        assert ear.heard() == 0
        vim(bound, "2")
        assert ear.looks() == {str(bound)}
    finally:
        ear.watcher.close()
