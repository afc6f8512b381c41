"""The verbs over the fake driver: documents, exit codes, streams, and what is imported for them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from orchestrator.cli.main import cli
from orchestrator.drivers.fake import FakeDriver
from orchestrator.errors import HostError, StepError
from orchestrator.model.ids import Ref
from orchestrator.model.observed import Phase
from orchestrator.ports.driver import Problem
from orchestrator.state.locks import StackLock
from orchestrator.state.store import Run, Store
from orchestrator.supervisor.logs import Ring
from tests.unit.fake_app import Stage

SHOP = Path(__file__).parents[1] / "transcripts" / "shop.yaml"
VERBS = cli.list_commands(cli.make_context("orchestrator", ["version"]))
DB = Ref.parse("container/db-1/db")


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    shutil.copy(SHOP, tmp_path)
    monkeypatch.chdir(tmp_path)
    return Stage(tmp_path)


def run(stage: Stage, *arguments: str, code: int = 0, stdin: str | None = None) -> Result:
    done = CliRunner().invoke(cli, arguments, obj=stage.open, input=stdin)
    assert done.exit_code == code, done.output
    return done


def test_ps_document_is_exactly_as_documented(stage: Stage) -> None:
    run(stage, "apply", "-f", "shop.yaml")
    found = json.loads(run(stage, "ps", "--output", "json").stdout)
    assert set(found) == {"version", "stacks"}
    assert found["version"] == 1
    assert (found["stacks"][0]["name"], found["stacks"][0]["revision"]) == ("shop", 1)
    assert found["stacks"][0]["containers"][:2] == [
        {
            "ref": "container/db-1/db",
            "phase": "running",
            "health": "healthy",
            "pid": 1001,
            "address": "10.0.0.2",
            "restarts": 0,
            "exit": None,
            "held": None,
            "failure": None,
        },
        {
            "ref": "container/migrate-1/migrate",
            "phase": "exited",
            "health": "none",
            "pid": None,
            "address": "10.0.0.2",
            "restarts": 0,
            "exit": "exit 0",
            "held": None,
            "failure": None,
        },
    ]


def test_plan_document_and_check(stage: Stage) -> None:
    found = json.loads(run(stage, "plan", "-f", "shop.yaml", "-o", "json", "--check", code=3).stdout)
    assert found["version"] == 1
    assert found["plans"][0]["summary"]["create"] == 16
    assert not stage.fake.things, "plan made something"


def test_dry_run_touches_nothing(stage: Stage) -> None:
    assert "Plan: 16 to create" in run(stage, "apply", "-f", "shop.yaml", "--dry-run").stdout
    assert not stage.fake.things
    assert not (stage.folder / "root").exists()


def test_manifest_comes_from_standard_input(stage: Stage) -> None:
    assert "stack shop is valid" in run(stage, "validate", "-f", "-", stdin=SHOP.read_text()).stdout


def test_history_that_cannot_be_written_is_told_once_and_stops_nobody(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(stage, "apply", "-f", "shop.yaml")

    def full(store: Store, run: Run) -> int:
        raise HostError("o.db: the disk is full")

    monkeypatch.setattr(Store, "record_run", full)
    done = run(stage, "delete", "shop", "--yes")
    warning = "warning: the history of this was not recorded: o.db: the disk is full\n"
    assert done.stderr.count("warning") == done.stderr.count(warning) == 1
    assert "stack shop is deleted" in done.stdout


def test_failed_step_is_exit_1_with_the_reason_and_where_to_look(stage: Stage) -> None:
    failure = StepError("container/db-1/db: /bin/db: no such command in base", errno=2)
    stage.fake.failures[("start", DB)] = [failure] * 10
    done = run(stage, "apply", "-f", "shop.yaml", code=1)
    assert "failed to start: /bin/db: no such command in base\n" in done.stderr
    assert "! container/db-1/db: /bin/db: no such command in base\n" in done.stderr
    assert "see `orchestrator logs shop:db-1/db`" in done.stderr


def test_apply_that_does_not_settle_in_time_says_what_it_waits_for(stage: Stage) -> None:
    manifest = SHOP.read_text().replace("[ready]", "[exit, '1']")
    (stage.folder / "shop.yaml").write_text(manifest)
    done = run(stage, "apply", "-f", "shop.yaml", "--timeout", "20s", code=1)
    assert "! container/migrate-1/migrate: waits until container/db-1/db is healthy" in done.stderr
    assert "not settled in the time given" in done.stderr


def test_no_wait_ends_at_the_first_wait(stage: Stage) -> None:
    manifest = SHOP.read_text().replace("[ready]", "[exit, '1']")
    (stage.folder / "shop.yaml").write_text(manifest)
    done = run(stage, "apply", "-f", "shop.yaml", "--no-wait")
    assert "not waited for" in done.stderr
    assert "container/db-1/db" in done.stdout


def test_exec_forwards_streams_and_the_exit_code(stage: Stage) -> None:
    run(stage, "apply", "-f", "shop.yaml")
    assert run(stage, "exec", "db", "cat", stdin="from a pipe").stdout == "from a pipe"
    said = run(stage, "exec", "db", "say", "--loud", "hello")
    assert (said.stdout, said.stderr) == ("--loud hello\n", "said\n")
    run(stage, "exec", "db", "exit", "42", code=42)
    run(stage, "exec", "db", "--", "exit", "42", code=42)
    run(stage, "exec", "db", "--", code=2)


def test_logs_of_several_containers_come_in_order_of_time(stage: Stage) -> None:
    run(stage, "apply", "-f", "shop.yaml")
    layout = stage.open().layout
    for ref, text in (
        ("container/db-1/db", b"one\n"),
        ("container/web-1/server", b"two\n"),
        ("container/db-1/db", b"three\n"),
    ):
        written(str(layout.logs("shop", Ref.parse(ref))), text)
    assert run(stage, "logs", "db").stdout == "one\nthree\n"
    assert run(stage, "logs", "--tail", "1", "db").stdout == "three\n"
    assert run(stage, "logs", "db", "web-1").stdout == "db-1/db | one\nweb-1/server | two\ndb-1/db | three\n"
    assert run(stage, "logs", "--since", "1h", "db").stdout == "one\nthree\n"
    stamped = run(stage, "logs", "--timestamps", "--tail", "1", "db").stdout
    assert stamped.endswith("Z three\n")
    assert run(stage, "logs", "migrate").stdout == ""


def written(folder: str, text: bytes) -> None:
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    os.write(writing, text)
    ring = Ring(folder, 4096, 2)
    ring.pump(reading, 1)
    ring.close()
    os.close(reading)
    os.close(writing)


def test_inspect_shows_wish_place_and_kernel(stage: Stage) -> None:
    run(stage, "apply", "-f", "shop.yaml")
    found = json.loads(run(stage, "inspect", "db", "-o", "json").stdout)
    assert (found["version"], found["ref"]) == (1, "container/db-1/db")
    assert found["spec"]["limits"]["memory"] == found["limits"]["memory"] == 64 << 20
    assert found["places"]["limits.memory"] == "shop.yaml:19"
    assert "memory: 64MiB" in run(stage, "inspect", "db").stdout


def test_interrupt_is_130_and_says_what_stays(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupting(self: FakeDriver, *arguments: object) -> None:
        os.kill(os.getpid(), 2)

    monkeypatch.setattr(type(stage.fake), "start", interrupting)
    done = run(stage, "apply", "-f", "shop.yaml", code=130)
    assert "interrupted; the revision and what was made stay" in done.stderr


def test_bug_is_one_line_and_a_trace_only_on_demand(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: FakeDriver) -> frozenset[str]:
        raise ZeroDivisionError("not foreseen")

    monkeypatch.setattr(type(stage.fake), "stacks", broken)
    assert run(stage, "ps", code=1).stderr.startswith(
        "internal error: ZeroDivisionError: not foreseen\n  hint:"
    )
    assert "Traceback" in run(stage, "-v", "ps", code=1).stderr


def test_color_only_where_it_is_wanted(stage: Stage) -> None:
    assert "\x1b[" not in run(stage, "plan", "-f", "shop.yaml").stdout
    assert "\x1b[" in run(stage, "--color", "always", "plan", "-f", "shop.yaml").stdout


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_every_verb_has_an_example(verb: str) -> None:
    done = CliRunner().invoke(cli, [verb, "--help"])
    assert done.exit_code == 0
    assert f"Example:\n    orchestrator {verb}" in done.output or f"| orchestrator {verb}" in done.output


def test_ps_imports_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from orchestrator.cli.main import cli\n"
        f"sys.argv = ['orchestrator', '--root', {str(tmp_path)!r}, 'ps']\n"
        "try: cli()\n"
        "except SystemExit as end: assert end.code == 0\n"
        "print([each for each in ('pydantic', 'yaml', 'networkx', 'rich', 'pyroute2', 'watchdog') if each in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert not list(tmp_path.iterdir()), "looking made something"


def test_reader_that_stops_reading_is_no_error(tmp_path: Path) -> None:
    command = f"{sys.executable} -m orchestrator schema | head -c 10; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("0\n")
    assert done.stderr == ""


def test_stack_that_somebody_else_holds_is_a_conflict(stage: Stage) -> None:
    lock = StackLock(stage.open().layout.lock("shop"), stack="shop", command="apply shop")
    with lock.acquire(wait=False):
        done = run(stage, "apply", "-f", "shop.yaml", "--timeout", "1s", code=4)
    assert f"stack shop is held by process {os.getpid()} (apply shop)" in done.stderr


def test_problem_of_the_host_is_told_at_its_place_before_anything_is_touched(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = Problem(
        ref=DB, field="limits.memory", message="this host has no memory controller", hint="boot with it"
    )
    monkeypatch.setattr(type(stage.fake), "check", lambda self, stack: [problem])
    for verb in ("plan", "apply"):
        done = run(stage, verb, "-f", "shop.yaml", code=2)
        assert "error[ORC401]: this host has no memory controller\n  --> shop.yaml:19" in done.stderr
    assert not stage.fake.things


def test_host_that_can_run_nothing_is_exit_1(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    problem = Problem(
        ref=Ref.parse("stack/shop"), field="", message="containers need root", hint="run it with sudo"
    )
    monkeypatch.setattr(type(stage.fake), "check", lambda self, stack: [problem])
    done = run(stage, "apply", "-f", "shop.yaml", code=1)
    assert done.stderr == "error: containers need root\n  hint: run it with sudo\n"


def test_several_stacks_of_a_folder_are_planned_together(stage: Stage) -> None:
    (stage.folder / "other.yaml").write_text(SHOP.read_text().replace("stack: shop", "stack: other"))
    found = json.loads(run(stage, "plan", "-f", ".", "-o", "json").stdout)
    assert [each["stack"] for each in found["plans"]] == ["other", "shop"]


def test_env_file_fills_variables_and_the_environment_wins(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    (stage.folder / "shop.yaml").write_text(SHOP.read_text().replace("64MiB", "'${SIZE}'"))
    (stage.folder / "sizes.env").write_text("SIZE=32MiB\n")
    assert "variable SIZE is not set" in run(stage, "plan", "-f", "shop.yaml", code=2).stderr
    arguments = ("plan", "-f", "shop.yaml", "--env-file", "sizes.env")
    run(stage, "apply", "-f", "shop.yaml", "--env-file", "sizes.env")
    assert "No changes." in run(stage, *arguments).stdout
    monkeypatch.setenv("SIZE", "48MiB")
    assert "32MiB -> 48MiB" in run(stage, *arguments).stdout


def test_words_are_of_one_life_of_a_stack(stage: Stage) -> None:
    run(stage, "apply", "-f", "shop.yaml")
    run(stage, "stop", "web")
    run(stage, "suspend", "shop")
    run(stage, "delete", "shop", "--yes")
    run(stage, "apply", "-f", "shop.yaml")
    found = json.loads(run(stage, "ps", "--output", "json").stdout)["stacks"][0]
    assert found["suspended"] is None
    assert {each["held"] for each in found["containers"]} == {None}


def test_a_hold_is_in_every_document_and_fails_nothing(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUDO_USER", "ann")
    run(stage, "apply", "-f", "shop.yaml")
    run(stage, "stop", "web-1")
    row = json.loads(run(stage, "ps", "--output", "json").stdout)["stacks"][0]["containers"][2]
    assert (row["ref"], row["phase"]) == ("container/web-1/server", "exited")
    assert row["held"].startswith("stopped by ann since 20") and row["failure"] is None
    found = json.loads(run(stage, "plan", "-f", "shop.yaml", "-o", "json", "--check").stdout)["plans"][0]
    assert (found["changes"], found["holds"]) == ([], [{"ref": row["ref"], "reason": row["held"]}])
    assert f". {row['ref']}: {row['held']}\n" in run(stage, "apply", "-f", "shop.yaml").stderr


def test_who_held_it_first_keeps_it(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    run(stage, "apply", "-f", "shop.yaml")
    for user, name in (("ann", "web-1"), ("bob", "web")):
        monkeypatch.setenv("SUDO_USER", user)
        run(stage, "stop", name)
    rows = json.loads(run(stage, "ps", "--output", "json").stdout)["stacks"][0]["containers"]
    held = [(each["held"] or "nobody by nobody").split()[2] for each in rows]
    assert held == ["nobody", "nobody", "ann", "bob"]


def test_a_word_that_is_not_fulfilled_is_a_failure_with_its_reason(stage: Stage) -> None:
    run(stage, "apply", "-f", "shop.yaml")
    run(stage, "stop", "db")
    done = run(stage, "restart", "migrate", code=1)
    assert ". container/migrate-1/migrate: waits until container/db-1/db is healthy\n" in done.stderr
    assert "stack shop: not restarted yet\n" in done.stderr
    done = run(stage, "restart", "db", "--timeout", "1ms", code=2)
    assert "lifts that" in done.stderr


def test_apply_resumes_when_it_is_asked_to(stage: Stage) -> None:
    run(stage, "apply", "-f", "shop.yaml")
    run(stage, "suspend", "shop")
    stage.fake.exit(DB, 1)
    done = run(stage, "-q", "apply", "-f", "shop.yaml")
    assert "nothing is done until `orchestrator resume shop`" in done.stderr
    assert stage.fake.thing(DB).pid is None
    assert "nothing is done" in run(stage, "plan", "-f", "shop.yaml").stdout
    run(stage, "apply", "-f", "shop.yaml", "--resume")
    assert stage.fake.thing(DB).pid is not None


def test_start_forgives_what_was_given_up(stage: Stage) -> None:
    run(stage, "apply", "-f", "shop.yaml")
    for _ in range(16):  # as a crash loop of long ago
        thing = stage.fake.thing(DB)
        stage.fake.exit(DB, 1)
        thing.phase, thing.started = Phase.RUNNING, stage.fake.clock()
    stage.fake.exit(DB, 1)
    rows = run(stage, "ps").stdout
    assert "gave up" in rows
    run(stage, "start", "db")
    assert stage.fake.thing(DB).pid is not None
    assert "gave up" not in run(stage, "ps").stdout


def test_events_are_read_by_stack_by_ref_and_by_group_as_lines_of_json(stage: Stage) -> None:
    run(stage, "apply", "-f", "shop.yaml")
    run(stage, "stop", "web-1")

    def told(*arguments: str) -> list[dict[str, Any]]:
        done = run(stage, "events", "-o", "json", *arguments)
        return [json.loads(line) for line in done.stdout.splitlines()]

    everything = told()
    assert everything == told("shop") and [each["number"] for each in everything] == sorted(
        each["number"] for each in everything
    )
    assert set(everything[0]) == {"version", "number", "at", "stack", "ref", "what", "text"}
    assert (everything[0]["what"], everything[0]["ref"]) == ("revision", None)
    one = told("web-1")
    assert [each["what"] for each in one] == ["started", "held", "stopped"]
    assert {each["ref"] for each in told("shop:web")} == {"container/web-1/server", "container/web-2/server"}
    assert told("-n", "1", "web-1") == one[-1:]
    assert told("--since", "0s") == []


def test_events_go_on_with_follow(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    from orchestrator.cli.commands import events

    run(stage, "apply", "-f", "shop.yaml")
    pauses = iter((lambda: run(stage, "stop", "web-1"), lambda: None))

    def pause(seconds: float) -> None:
        next(pauses, os_interrupt)()

    def os_interrupt() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(events.time, "sleep", pause)
    done = run(stage, "events", "-f", "-n", "0", "web-1", code=130)
    assert [line.split()[3] for line in done.stdout.splitlines()] == ["held", "stopped"]


def test_history_says_what_became_of_each_revision(stage: Stage) -> None:
    run(stage, "apply", "-f", "shop.yaml")
    text = SHOP.read_text()
    (stage.folder / "shop.yaml").write_text(
        text.replace("[sleep, infinity]\n    networks", "[nonesuch]\n    networks")
    )
    run(stage, "apply", "-f", "shop.yaml", code=1)
    run(stage, "suspend", "shop")
    (stage.folder / "shop.yaml").write_text(text.replace("replicas: 2", "replicas: 1"))
    run(stage, "apply", "-f", "shop.yaml")
    run(stage, "apply", "-f", "shop.yaml", "--resume")
    run(stage, "suspend", "shop")
    run(stage, "delete", "shop", "--yes")
    found = json.loads(run(stage, "history", "shop", "-o", "json").stdout)["revisions"]
    assert [(each["number"], each["result"], each["current"]) for each in found] == [
        (4, "deleted", True),
        (3, "settled", False),
        (2, "failed", False),
        (1, "settled", False),
    ]
    assert found[1]["changes"]["container"] == {"added": 0, "removed": 1, "changed": 1}
    assert found[2]["changes"] == {"container": {"added": 0, "removed": 0, "changed": 1}}


def test_status_tells_on_its_way_from_was_there(stage: Stage) -> None:
    def standing(code: int = 1) -> tuple[str, list[str]]:
        stack = json.loads(run(stage, "status", "-o", "json", code=code).stdout)["stacks"][0]
        return stack["standing"], [each["reason"] for each in stack["reasons"]]

    failing = StepError("no such command", errno=2)
    stage.fake.failures[("start", DB)] = [failing] * 10
    run(stage, "apply", "-f", "shop.yaml", code=1)
    assert standing()[0] == "progressing"
    stage.fake.failures.clear()
    run(stage, "apply", "-f", "shop.yaml")
    assert standing(0) == ("settled", [])
    stage.fake.exit(DB, 9)
    assert standing() == ("degraded", ["db-1 is not running", "exit 9"])
    run(stage, "stop", "db")
    run(stage, "suspend", "shop")
    assert standing()[0] == "suspended"
    run(stage, "delete", "shop", "--yes")
    assert run(stage, "status").stdout.startswith("no stacks here")


def test_wait_ends_at_once_for_what_cannot_come(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    from orchestrator.cli.commands import conditions

    def never(seconds: float) -> None:
        raise AssertionError("it waits")

    monkeypatch.setattr(conditions.time, "sleep", never)
    manifest = SHOP.read_text().replace("exit 0]", "exit 4]").replace("job: {}", "job: {retries: 0}")
    (stage.folder / "shop.yaml").write_text(manifest)
    run(stage, "apply", "-f", "shop.yaml", code=1)
    run(stage, "wait", "db")
    run(stage, "wait", "migrate", "--for", "exited")
    done = run(stage, "wait", "migrate", "--for", "completed", code=1)
    assert "! container/migrate-1/migrate: job failed: exit 4 after 1 run\n" in done.stderr
    done = run(stage, "wait", "shop", code=1)
    assert "container/web-1/server: waits until container/migrate-1/migrate has completed\n" in done.stderr
    run(stage, "stop", "db")
    assert "stopped by" in run(stage, "wait", "db", "--for", "running", code=1).stderr


def test_wait_sees_what_comes_while_it_waits_and_gives_up_in_time(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    from orchestrator.cli.commands import conditions

    run(stage, "apply", "-f", "shop.yaml")
    stage.fake.exit(DB, 1)
    done = run(stage, "wait", "db", "--timeout", "0", code=1)
    assert "! container/db-1/db: has ended (exit 1)\nnot healthy in the time given\n" in done.stderr
    monkeypatch.setattr(conditions.time, "sleep", lambda seconds: run(stage, "apply", "-f", "shop.yaml"))
    assert "has ended (exit 1)" in run(stage, "wait", "db").stderr
