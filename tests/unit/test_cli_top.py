"""`top` over the fake: rates between two samples, order, what is chosen, what is not counted."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from orchestrator.cli.commands import top as command
from orchestrator.model.ids import Ref
from orchestrator.ports.driver import Usage
from tests.unit.fake_app import Stage
from tests.unit.test_cli_verbs import SHOP, run

DB, WEB_1, WEB_2 = (Ref.parse(f"container/{name}") for name in ("db-1/db", "web-1/server", "web-2/server"))


def used(cpu: float = 0.0, memory: int | None = 0, received: int | None = 0) -> Usage:
    return Usage(
        cpu=cpu,
        memory=memory,
        memory_limit=None,
        pids=1,
        received=received,
        sent=0,
        read=None,
        written=None,
        pressure={"cpu": 12.3},
    )


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    shutil.copy(SHOP, tmp_path)
    monkeypatch.chdir(tmp_path)
    stage = Stage(tmp_path)
    run(stage, "apply", "-f", "shop.yaml")
    stage.fake.used = {DB: used(), WEB_1: used(), WEB_2: used()}
    return stage


def second(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, text: str | None, order: str = "cpu"
) -> command.Table:
    """The first table, where two seconds lie between the samples."""
    now = [100.0]

    def pause(seconds: float) -> None:
        now[0] += 2.0
        stage.fake.used = {
            DB: used(memory=5000),
            WEB_1: used(cpu=1.0, memory=2000, received=4096),
            WEB_2: used(cpu=3.0, memory=None, received=None),
        }

    monkeypatch.setattr(command.time, "sleep", pause)
    monkeypatch.setattr(command.time, "monotonic", lambda: now[0])
    return next(command.tables(stage.open(), text, command.Order(order), 2.0))


def test_rates_are_of_the_time_between_samples(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    table = second(stage, monkeypatch, None)
    assert [(row.target.ref, row.cpu, row.received) for row in table] == [
        (WEB_2, 150.0, None),
        (WEB_1, 50.0, 2048.0),
        (DB, 0.0, 0.0),
    ]


@pytest.mark.parametrize(
    ("text", "order", "refs"),
    [
        ("shop", "memory", [DB, WEB_1, WEB_2]),
        (None, "name", [DB, WEB_1, WEB_2]),
        ("web-1", "cpu", [WEB_1]),
        ("group/web-2", "cpu", [WEB_2]),
        ("shop:db", "cpu", [DB]),
    ],
)
def test_what_is_chosen_and_in_which_order(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, text: str | None, order: str, refs: list[Ref]
) -> None:
    assert [row.target.ref for row in second(stage, monkeypatch, text, order)] == refs


def test_document_and_table_say_what_is_not_counted(stage: Stage) -> None:
    stage.fake.used = {DB: used(memory=None)}
    found = json.loads(run(stage, "top", "-o", "json").stdout)
    assert found["version"] == 1
    assert found["containers"][0] == {
        "stack": "shop",
        "ref": "container/db-1/db",
        "cpu_percent": 0.0,
        "memory": None,
        "memory_limit": None,
        "pids": 1,
        "received_per_second": 0.0,
        "sent_per_second": 0.0,
        "read_per_second": None,
        "written_per_second": None,
        "pressure": {"cpu": 12.3, "memory": None, "io": None},
    }
    cells = run(stage, "top").stdout.splitlines()[1].split()
    assert " ".join(cells) == "db-1/db 0.0 - - 1 0B 0B - - 12 - -"


def test_nothing_runs_and_wrong_names(stage: Stage) -> None:
    assert "nothing of migrate is running" in run(stage, "top", "migrate", code=2).stderr
    assert "names more than one thing" in run(stage, "top", "web", code=2).stderr
    assert "less than 100ms" in run(stage, "top", "-n", "10ms", code=2).stderr
    run(stage, "delete", "shop", "--yes")
    assert run(stage, "top").stdout == "no container is running\n"
