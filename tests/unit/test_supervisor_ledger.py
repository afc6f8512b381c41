"""A client that asks again and again knows what one that asks once is told."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

from orchestrator.supervisor import ledger as module
from orchestrator.supervisor.ledger import Ledger


class Client:
    def __init__(self) -> None:
        self.point: Any = None
        self.known: dict[str, Any] = {}

    def ask(self, ledger: Ledger, containers: dict[str, Any]) -> int:
        """The number of answers that it took."""
        for answers in range(1, 1000):
            page = ledger.page(containers, self.point)
            if page["fresh"]:
                self.known.clear()
            self.known |= {each["id"]: each["starts"] for each in page["states"]}
            for id in page["gone"]:
                self.known.pop(id, None)
            self.point = page["point"]
            if not page["more"]:
                return answers
        raise AssertionError("it never ends")


def container(id: str, starts: int) -> Any:
    return SimpleNamespace(state=lambda: {"id": id, "starts": starts})


def test_any_mix_of_changes_and_questions_leaves_clients_up_to_date(monkeypatch: Any) -> None:
    monkeypatch.setattr(module, "_PAGE", 3)
    monkeypatch.setattr(module, "_GONE", 5)
    chance = random.Random(3)
    ledger, containers, clients = Ledger(), {}, [Client() for _ in range(3)]
    for step in range(2000):
        id = f"c{chance.randrange(12)}"
        if chance.random() < 0.4:
            containers.pop(id, None)
        else:
            containers[id] = container(id, step)
        ledger.touch(id)
        asker = chance.choice(clients)
        if chance.random() < (0.5, 0.1, 0.01)[clients.index(asker)]:
            asker.ask(ledger, containers)
            assert asker.known == {id: each.state()["starts"] for id, each in containers.items()}
    assert len(ledger._changed) < 12 * 2 + 5 + 12


def test_nothing_is_told_twice_and_all_after_a_new_supervisor() -> None:
    containers = {f"c{i}": container(f"c{i}", i) for i in range(5)}
    first, second, client = Ledger(), Ledger(), Client()
    for each in containers:
        first.touch(each)
    client.ask(first, containers)
    assert first.page(containers, client.point)["states"] == []
    for each in ("c1", "c3"):
        second.touch(each)
    client.known["c0"] = "stale"
    client.ask(second, {id: containers[id] for id in ("c1", "c3")})
    assert client.known == {"c1": 1, "c3": 3}
