"""What becomes of a watched source's edits: revisions, what is told of errors, and what never happens."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from orchestrator.app import App
from orchestrator.cli.main import cli
from orchestrator.cli.views import progress, watching
from orchestrator.control.events import Following
from orchestrator.control.sources import attending
from orchestrator.control.sources.attending import Sources, alive, holder
from orchestrator.control.sources.files import KIND, Settings
from orchestrator.control.sources.watching import Watcher
from orchestrator.errors import HostError
from orchestrator.manifest.load import Loaded
from orchestrator.model.desired import ContainerSpec, Stack
from orchestrator.model.ids import Kind
from orchestrator.state.store import Store
from tests.unit.fake_app import Stage

SOON = 10.0
A = "stack: a\nrootfs: {base: host}\ncontainers: {one: {rootfs: base, command: [sleep], limits: {pids: 7}}}\n"
B = A.replace("stack: a", "stack: b")


class Play:
    """The agent's part: `told` are the stacks that it should look at."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.app: App = Stage(folder).open()
        self.store = Store(self.app.layout.database, clock=time.time)
        self.told: list[str] = []
        self.sources: Sources | None = None

    def begin(self) -> None:
        self.sources = Sources(self.app, self.store, watcher=Watcher, notify=self.told.append)
        self.sources.sync()

    def end(self) -> None:
        if self.sources is not None:
            self.sources.close()
            self.sources = None

    def add(self, *paths: str, held_by: str = "", **variables: str) -> int:
        settings = Settings(paths=paths, env_files=(), folder=str(self.folder), variables=variables)
        number = self.store.sources.add(KIND, settings.encode(), holder=held_by)
        self.begin()
        self.look(number, 1)
        return number

    def look(self, number: int, count: int) -> Mapping[str, Any]:
        """The source's state after `count` readings."""
        return self.until(number, lambda state: state.get("look", 0) >= count)

    def until(self, number: int, holds: Callable[[Mapping[str, Any]], bool]) -> Mapping[str, Any]:
        until = time.monotonic() + SOON
        while time.monotonic() < until:
            found = [each.state for each in self.store.sources.all() if each.number == number]
            if found and holds(found[0]):
                return found[0]
            time.sleep(0.01)
        raise AssertionError(f"never came: {found}")

    def edit(self, number: int, name: str, text: str | None) -> Mapping[str, Any]:
        """The state after the reading that the edit causes."""
        before = self.look(number, 1)["look"]
        path = self.folder / name
        path.unlink() if text is None else path.write_text(text)
        return self.look(number, before + 1)

    def revision(self, stack: str) -> int:
        found = self.store.latest(stack)
        return found.number if found else 0

    def told_of(self, what: str) -> list[str]:
        return [each.text for each in self.store.events.read() if each.what == what]


@pytest.fixture
def play(tmp_path: Path) -> Iterator[Play]:
    made = Play(tmp_path)
    (tmp_path / "a.yaml").write_text(A)
    yield made
    made.end()


def container(app: App) -> ContainerSpec:
    stack = app.recorded("a")
    assert stack is not None
    return next(each for ref, each in stack.resources.items() if ref.kind is Kind.CONTAINER)  # type: ignore[return-value]


def test_edits_become_revisions_and_what_means_the_same_does_not(play: Play) -> None:
    number = play.add("a.yaml")
    assert (play.revision("a"), play.told) == (1, ["a"])
    state = play.edit(number, "a.yaml", A.replace("pids: 7", "pids: 8"))
    assert state["changed"] == [str(play.folder / "a.yaml")]
    assert (play.revision("a"), container(play.app).limits.pids, play.told) == (2, 8, ["a", "a"])
    state = play.edit(number, "a.yaml", A.replace("pids: 7", "pids: 8") + "# a word\n")
    assert (play.revision("a"), state["stacks"]["a"]["revision"], play.told) == (2, 2, ["a", "a"])


@pytest.mark.parametrize(
    ("broken", "code"),
    [
        (A.replace("rootfs: base", "rootfs: bas"), "ORC110"),
        ("", "ORC008"),
        ("# nothing but words\n", "ORC008"),
        ("stack: a\ncontainers:\n", "ORC"),
        (A[:40], "ORC"),
        (None, "ORC001"),
    ],
    ids=["error", "empty", "comment", "null", "half", "gone"],
)
def test_broken_edit_keeps_the_last_good_revision_and_is_told_once(
    play: Play, broken: str | None, code: str
) -> None:
    number = play.add("a.yaml")
    state = play.edit(number, "a.yaml", broken)
    first = state["troubles"][0]
    assert first["code"].startswith(code)
    assert first["severity"] == "error"
    assert play.revision("a") == 1
    play.end()
    play.begin()  # the agent was started again: it says nothing twice
    play.look(number, state["look"] + 1)
    assert len(play.told_of("source-error")) == 1
    assert not play.told_of("source-mended")
    state = play.edit(number, "a.yaml", A)
    assert (state["troubles"], play.revision("a"), play.told) == ([], 1, ["a"])
    assert len(play.told_of("source-mended")) == 1


def test_errors_are_shown_as_apply_shows_them(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(play.folder)
    (play.folder / "stacks").mkdir()
    (play.folder / "stacks" / "b.yaml").write_text(B)
    number = play.add("a.yaml", "stacks")
    broken = {"a.yaml": A.replace("pids: 7", "pids: many"), "stacks/b.yaml": B.replace("base, c", "bas, c")}
    for name, text in broken.items():
        (play.folder / name).write_text(text)
    state = play.until(number, lambda state: len(state.get("troubles", [])) == 2)
    shown = CliRunner().invoke(cli, ["validate", "-f", "a.yaml", "-f", "stacks"], obj=Stage(play.folder).open)
    assert shown.exit_code == 2
    assert "".join(f"{each['text']}\n" for each in state["troubles"]) == shown.stderr
    assert (state["troubles"][1]["file"], state["troubles"][1]["line"]) == ("stacks/b.yaml", 3)


def test_stack_that_is_not_written_any_more_stays(play: Play) -> None:
    (play.folder / "b.yaml").write_text(B)
    number = play.add(".")
    assert (play.revision("a"), play.revision("b")) == (1, 1)
    state = play.edit(number, "b.yaml", None)
    assert state["left"] == ["b"]
    assert play.revision("b") == 1
    assert len(play.told_of("source-left")) == 1
    (play.folder / "c.yaml").write_text(A.replace("stack: a", "stack: c"))
    state = play.until(number, lambda state: "c" in state["stacks"])
    assert state["left"] == ["b"]
    assert len(play.told_of("source-left")) == 1
    play.store.forget("b")
    state = play.edit(number, "b.yaml", B)
    assert (state["left"], play.app.revision("b")) == ([], 3)


def test_edit_that_would_end_most_containers_is_refused(play: Play) -> None:
    names = ("one", "two", "three", "four")
    line = "  {}: {{rootfs: base, command: [sleep]}}\n"
    head = "stack: a\nrootfs: {base: host}\ncontainers:\n"
    (play.folder / "a.yaml").write_text(head + "".join(map(line.format, names)))
    number = play.add("a.yaml")
    list(play.app.follow(Following(name="a", revision=1, timeout=60.0), command="test"))
    state = play.edit(number, "a.yaml", head + line.format("one"))
    assert "would delete 3 of the 4 running containers" in state["troubles"][0]["text"]
    assert "by hand with --allow-prune" in state["troubles"][0]["text"]
    assert play.revision("a") == 1
    state = play.edit(number, "a.yaml", head + "".join(map(line.format, names[:3])))
    assert (state["troubles"], play.revision("a")) == ([], 2)


def test_files_that_a_manifest_names_are_watched_as_well(play: Play) -> None:
    text = A.replace("pids: 7", "pids: '${PIDS}'").replace(
        "[sleep]", "[sleep], env_file: [one.env], env: {HERE: '${HERE}'}"
    )
    mount = "[sleep], mounts: [{config: c, target: /c}]"
    (play.folder / "a.yaml").write_text(text.replace("[sleep]", mount) + "configs: {c: {file: c.conf}}\n")
    for name, content in ((".env", "PIDS=3\nHERE=no"), ("one.env", "A=1"), ("c.conf", "1")):
        (play.folder / name).write_text(content)
    number = play.add("a.yaml", HERE="yes")
    assert container(play.app).env == {"A": "1", "HERE": "yes"}
    for revision, (name, content) in enumerate(
        ((".env", "PIDS=4"), ("one.env", "A=2"), ("c.conf", "2")), start=2
    ):
        state = play.edit(number, name, content)
        assert state["changed"] == [str(play.folder / name)]
        assert play.revision("a") == revision
    assert (container(play.app).limits.pids, container(play.app).env["A"]) == (4, "2")


def test_agent_that_was_away_takes_up_edits_and_touches_nothing_else(play: Play) -> None:
    number = play.add("a.yaml")
    play.end()
    play.begin()
    play.look(number, 2)
    assert (play.revision("a"), play.told) == (1, ["a"])
    play.end()
    (play.folder / "a.yaml").write_text(A.replace("pids: 7", "pids: 8"))
    play.begin()
    play.look(number, 3)
    assert (play.revision("a"), play.told) == (2, ["a", "a"])


def test_deleted_stack_does_not_come_back_by_an_edit_that_means_the_same(play: Play) -> None:
    number = play.add("a.yaml")
    play.store.forget("a")
    play.edit(number, "a.yaml", A + "# a word\n")
    assert play.store.latest("a") is None


def test_file_that_changes_while_it_is_read_is_read_again(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = play.add("a.yaml")
    load, last = play.app.load, A.replace("pids: 7", "pids: 9")

    def meanwhile(*args: Any, **named: Any) -> Loaded:
        found = load(*args, **named)
        (play.folder / "a.yaml").write_text(last)
        return found

    monkeypatch.setattr(play.app, "load", meanwhile)
    play.edit(number, "a.yaml", A.replace("pids: 7", "pids: 8"))
    assert (play.revision("a"), container(play.app).limits.pids) == (2, 9)


def test_storm_of_changes_is_read_seldom_and_its_last_word_is_taken(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = play.add("a.yaml")
    load, loads = play.app.load, list[int]()

    def counted(*args: Any, **named: Any) -> Loaded:
        loads.append(1)
        return load(*args, **named)

    monkeypatch.setattr(play.app, "load", counted)
    new, file = play.folder / "new", play.folder / "a.yaml"
    for pids in range(1000, 4000):
        new.write_text(A.replace("pids: 7", f"pids: {pids}"))
        new.rename(file)
    play.until(number, lambda state: container(play.app).limits.pids == 3999)
    assert len(loads) <= 300


def test_commit_that_fails_is_tried_again(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attending, "AGAIN", 0.1)
    number = play.add("a.yaml")
    commit, failures = play.app.commit, [HostError("the disk is full")] * 2

    def failing(stack: Stack, *, author: str) -> int:
        if failures:
            raise failures.pop()
        return commit(stack, author=author)

    monkeypatch.setattr(play.app, "commit", failing)
    play.edit(number, "a.yaml", A.replace("pids: 7", "pids: 8"))
    assert (failures, play.revision("a")) == ([], 2)


@pytest.mark.parametrize("reaped", [True, False])
def test_source_ends_with_the_process_that_holds_it(
    play: Play, reaped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attending, "HOLDERS", 0.1)
    process = subprocess.Popen(["sleep", "600"])
    try:
        play.add("a.yaml", held_by=holder(process.pid))
        here = Settings(paths=("a.yaml",), env_files=(), folder=str(play.folder), variables={}, here=True)
        play.store.sources.add(KIND, here.encode(), holder=holder(process.pid))
        process.kill()
        if reaped:
            process.wait()
        until = time.monotonic() + SOON
        while play.store.sources.all() and time.monotonic() < until:
            time.sleep(0.01)
        assert play.store.sources.all() == ()
    finally:
        process.wait()
    (play.folder / "a.yaml").write_text(A.replace("pids: 7", "pids: 8"))
    time.sleep(0.3)
    assert play.revision("a") == 1


def test_holder_is_a_process_of_this_boot_and_not_its_pid(monkeypatch: pytest.MonkeyPatch) -> None:
    me = holder(os.getpid())
    pid, ticks, boot = me.split()
    assert alive(me)
    assert not alive(f"{pid} {int(ticks) + 1} {boot}")
    assert not alive(f"{pid} {ticks} another-boot")


def run(stage: Stage, *arguments: str, code: int = 0) -> str:
    done = CliRunner().invoke(cli, arguments, obj=stage.open)
    assert done.exit_code == code, done.output
    return done.output


class Typing(threading.Thread):
    """Somebody at the keyboard: each act as soon as what it waits for is so, Ctrl-C at last."""

    def __init__(self, acts: Sequence[tuple[Callable[[], bool], Callable[[], object]]]) -> None:
        super().__init__(daemon=True)
        self.acts = acts
        self.failed = False

    def run(self) -> None:
        for ready, act in self.acts:
            until = time.monotonic() + SOON
            while not ready() and time.monotonic() < until:
                time.sleep(0.02)
            if not ready():
                self.failed = True
                break
            act()
        os.kill(os.getpid(), signal.SIGINT)


def test_watch_shows_each_change_and_ends_with_its_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file, seen = tmp_path / "a.yaml", list[str]()
    file.write_text(A)
    for view, name in ((watching, "look"), (progress, "briefly")):
        show = getattr(view, name)

        def noted(*args: Any, show: Callable[..., None] = show, name: str = name) -> None:
            show(*args)
            seen.append(name)

        monkeypatch.setattr(view, name, noted)

    def shown(*names: str) -> Callable[[], bool]:
        return lambda: seen == list(names)

    first, better = ("look", "briefly"), A.replace("pids: 7", "pids: 8")
    typing = Typing(
        [
            (shown(*first), lambda: file.write_text(A.replace("base, c", "bas, c"))),
            (shown(*first, "look"), lambda: file.write_text(better)),
            (shown(*first, "look", *first), lambda: file.write_text(better + "# a word\n")),
            (shown(*first, "look", *first, "look"), lambda: None),
        ]
    )
    typing.start()
    stage = Stage(tmp_path)
    output = run(stage, "watch", "-f", "a.yaml", code=130)
    typing.join()
    assert not typing.failed, output
    assert (
        output
        == """\
watching a.yaml until Ctrl-C; containers stay
a: 6 to create, 0 to update, 0 to delete
rootfs/base                     created
network/default                 created
group/one-1                     created
container/one-1/one             started
service/one                     created
stack a: settled
a.yaml changed
error[ORC110]: container "one" needs rootfs "bas", which is not declared
  --> a.yaml:3:28
  |
3 | containers: {one: {rootfs: bas, command: [sleep], limits: {pids: 7}}}
  |                            ^^^ did you mean "base"?

nothing was changed; waiting for the next edit
a.yaml changed
a: 0 to create, 1 to update, 0 to delete
container/one-1/one             updated
stack a: settled
a.yaml changed
nothing to do: it means the same
not watched any more; the containers stay
"""
    )
    assert stage.open().sources() == ()


def test_what_is_watched_is_listed_and_removed_by_number_or_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    stage = Stage(tmp_path)
    assert run(stage, "watch", "--list") == "nothing is watched\n"
    app = stage.open()
    for name in ("a.yaml", "b.yaml"):
        settings = Settings(paths=(name,), env_files=(), folder=str(tmp_path), variables={})
        app.add_source(KIND, settings.encode(), holder="")
    listed = run(stage, "watch", "--list")
    assert listed.splitlines()[1].split() == [
        "1",
        "kept",
        "-",
        "not",
        "read",
        "yet",
        str(tmp_path / "a.yaml"),
    ]
    assert run(stage, "watch", "--remove", "a.yaml").startswith("source 1 is not watched any more")
    assert run(stage, "watch", "--remove", "2").startswith("source 2 is not watched any more")
    assert "no source is '2'" in run(stage, "watch", "--remove", "2", code=2)


def test_watch_refuses_what_it_cannot_do_before_anything_is_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    stage = Stage(tmp_path)
    (tmp_path / "a.yaml").write_text(A.replace("base, c", "bas, c"))
    assert "error[ORC110]" in run(stage, "watch", "-f", "a.yaml", code=2)
    assert "standard input cannot be watched" in run(stage, "watch", "-f", "-", code=2)
    assert "say one of" in run(stage, "watch", code=2)
    assert "say one of" in run(stage, "watch", "-f", "a.yaml", "--list", code=2)
    (tmp_path / "a.yaml").write_text(A)
    assert "--keep needs the agent" in run(stage, "watch", "-f", "a.yaml", "--keep", code=2)
    assert not (tmp_path / "root").exists()


def test_agent_without_sources_loads_none_of_their_libraries() -> None:
    code = (
        "import sys, orchestrator.control.sources.attending\n"
        "print([each for each in ('pydantic', 'yaml', 'networkx', 'watchdog') if each in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
