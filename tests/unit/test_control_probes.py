"""Probing counts as its rules say, speaks HTTP as far as it must, and survives every peer."""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import select
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from orchestrator.control import health
from orchestrator.control.attempts import Verdict, _request, judge
from orchestrator.control.probes import HealthChange, Prober
from orchestrator.control.probing import MOST, SOON, Probing
from orchestrator.control.tracking import Target, Track
from orchestrator.model.desired import CommandProbe, Health, HttpProbe, Probe, TcpProbe
from orchestrator.model.ids import Incarnation, Kind, Ref
from orchestrator.model.observed import Health as Found

STACK = "shop"
WEB = Incarnation(STACK, Ref(Kind.CONTAINER, "web-1/web"), "0" * 12)


def boottime() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def target(probe: Probe, folder: Path = Path("/nonexistent"), **more: Any) -> Target:
    settings = {"interval": 10.0, "timeout": 1.0, **more}
    address = settings.pop("address", "127.0.0.1")
    started = settings.pop("started", 0.0)
    return Target(
        incarnation=WEB,
        probe=Health(probe=probe, **settings),
        address=address,
        started=started,
        env={},
        file=folder / "health.json",
    )


def test_the_first_success_makes_healthy_and_retries_in_a_row_make_unhealthy() -> None:
    track = Track(target(TcpProbe(port=1), retries=3))
    assert track.record(True, "", 1) and track.health is Found.HEALTHY
    assert not track.record(False, "", 2) and not track.record(False, "", 3)
    assert not track.record(True, "", 4)
    assert [track.record(False, "", now) for now in (5, 6, 7)] == [False, False, True]
    assert track.health is Found.UNHEALTHY
    assert track.record(True, "", 8) and track.health is Found.HEALTHY


def test_early_failures_count_once_an_interval_and_not_in_the_start_period() -> None:
    track = Track(target(TcpProbe(port=1), retries=2, start_period=30.0))
    for now in range(30):
        assert not track.record(False, "", now)
    assert track.failures == 0
    assert not track.record(False, "", 30) and not track.record(False, "", 30.5)
    assert track.failures == 1
    assert track.record(False, "", 40.5) and track.health is Found.UNHEALTHY


def test_probes_come_quickly_until_the_first_success_and_then_at_the_interval() -> None:
    track = Track(target(TcpProbe(port=1)))
    delays = [track.next_probe(0.0, 0.5) for _ in range(6)]
    assert delays == [0.05, 0.1, 0.2, 0.4, 0.5, 0.5]
    track.record(True, "", 1)
    assert track.next_probe(0.0, 0.5) == 7.5  # once, so that what came up together is not probed together
    assert track.next_probe(0.0, 0.5) == 10.0
    assert 9.5 <= track.next_probe(0.0, 0.0) < track.next_probe(0.0, 0.99) <= 10.5
    assert track.next_probe(0.0, 0.501) == track.next_probe(0.01, 0.503)  # neighbours come together


@pytest.mark.parametrize(
    ("probe", "answer", "ended", "ok"),
    [
        (HttpProbe(port=80), b"HTTP/1.1 200 OK\r\n\r\n", False, True),
        (HttpProbe(port=80), b"HTTP/1.0 204\r\n\r\n", False, True),
        (HttpProbe(port=80), b"HTTP/1.1 200 OK\r\n", False, None),
        (HttpProbe(port=80), b"HTTP/1.1 302 Found\r\nLocation: /\r\n\r\n", False, True),
        (HttpProbe(port=80), b"HTTP/1.1 500 Oh\r\n\r\n", False, False),
        (HttpProbe(port=80, status=(500, 500)), b"HTTP/1.1 500 Oh\r\n\r\n", False, True),
        (HttpProbe(port=80), b"SSH-2.0-OpenSSH\r\n\r\n", False, False),
        (HttpProbe(port=80), b"HTTP/1.1 abc\r\n\r\n", False, False),
        (HttpProbe(port=80), b"", True, False),
        (HttpProbe(port=80, body="ready"), b"HTTP/1.1 200 OK\r\n\r\nalrea", False, None),
        (HttpProbe(port=80, body="ready"), b"HTTP/1.1 200 OK\r\n\r\nalready!", False, True),
        (HttpProbe(port=80, body="ready"), b"HTTP/1.1 200 OK\r\n\r\nno", True, False),
        (
            HttpProbe(port=80, body="ready"),
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nrea\r\n2\r\ndy\r\n0\r\n\r\n",
            True,
            True,
        ),
    ],
)
def test_http_answers_are_judged(probe: HttpProbe, answer: bytes, ended: bool, ok: bool | None) -> None:
    verdict = judge(probe, answer, ended=ended)
    assert (verdict.ok if verdict else None) is ok


def test_a_request_has_one_host_and_no_smuggled_header() -> None:
    probe = HttpProbe(port=80, path="/a", headers={"host": "shop.test", "X": "1\r\nEvil: yes"})
    text = _request(probe, "10.0.0.2").decode()
    assert text.startswith("GET /a HTTP/1.1\r\nHost: shop.test\r\n") and text.endswith("\r\n\r\n")
    assert "\r\nEvil" not in text and text.lower().count("host:") == 1


@contextlib.contextmanager
def server(answer: bytes | None) -> Iterator[int]:
    """Answers each connection with `answer`; None: accepts and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        held: list[socket.socket] = []

        def serve() -> None:
            while True:
                try:
                    peer, _ = listening.accept()
                except OSError:
                    return
                held.append(peer)
                if answer is not None:
                    with contextlib.suppress(OSError):
                        peer.recv(65536)
                        peer.sendall(answer)
                        peer.close()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join(5)
            for peer in held:
                peer.close()


@contextlib.contextmanager
def prober(run: Any = None) -> Iterator[Prober]:
    with Prober(clock=boottime, run_command=run or (lambda target, probe: Verdict(True, ""))) as made:
        yield made


def wait_for(prober: Prober, seconds: float = 5.0) -> list[HealthChange]:
    ready, _, _ = select.select([prober.fileno()], [], [], seconds)
    assert ready, "no change of health in time"
    return prober.drain()


@pytest.mark.parametrize("probe", [HttpProbe, TcpProbe])
def test_a_server_that_answers_is_healthy_and_published(probe: Any, tmp_path: Path) -> None:
    with server(b"HTTP/1.1 200 OK\r\n\r\n") as port, prober() as watching:
        began = boottime()
        watching.watch(STACK, [target(probe(port=port), tmp_path, started=began)])
        changes = wait_for(watching)
        assert [(each.incarnation, each.old, each.new) for each in changes] == [(WEB, "starting", "healthy")]
        found = health.read(tmp_path / "health.json")
        assert found and found.health is Found.HEALTHY and found.started == began


def test_a_refused_connection_ends_unhealthy_with_its_reason(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with prober() as watching:
        watching.watch(
            STACK, [target(TcpProbe(port=port), tmp_path, interval=0.05, retries=2, started=boottime())]
        )
        seen = [change for _ in range(2) for change in wait_for(watching)]
        assert seen[-1].new is Found.UNHEALTHY and seen[-1].output == "connection refused"


def test_a_silent_server_runs_into_the_timeout(tmp_path: Path) -> None:
    with server(None) as port, prober() as watching:
        probe = target(
            HttpProbe(port=port), tmp_path, interval=0.05, timeout=0.1, retries=1, started=boottime() - 1
        )
        watching.watch(STACK, [probe])
        assert wait_for(watching)[-1].output == "no answer in 0.1 s"


def test_a_group_without_a_network_is_told_so(tmp_path: Path) -> None:
    with prober() as watching:
        watching.watch(STACK, [target(TcpProbe(port=1), tmp_path, address=None, retries=1, started=0.0)])
        assert "no network" in wait_for(watching)[-1].output


def test_commands_run_elsewhere_and_their_errors_are_failures(tmp_path: Path) -> None:
    def broken(target: Target, probe: CommandProbe) -> Verdict:
        raise RuntimeError("boom")

    with prober(broken) as watching:
        watching.watch(STACK, [target(CommandProbe(command=("x",)), tmp_path, retries=1, started=0.0)])
        change = wait_for(watching)[-1]
        assert (change.new, change.output) == (Found.UNHEALTHY, "boom")


def test_what_could_not_be_asked_says_nothing_and_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, refused = socket.socket, [errno.EMFILE] * 3

    def short_of_descriptors(*arguments: Any, **more: Any) -> socket.socket:
        if refused and threading.current_thread().name == "probes":
            raise OSError(refused.pop(), "no descriptors")
        return real(*arguments, **more)

    monkeypatch.setattr(socket, "socket", short_of_descriptors)
    with server(b"HTTP/1.1 200 OK\r\n\r\n") as port, prober() as watching:
        probe = target(HttpProbe(port=port), tmp_path, interval=0.05, retries=1, started=0.0)
        watching.watch(STACK, [probe])
        assert [(each.old, each.new) for each in wait_for(watching)] == [("starting", "healthy")]
        assert not refused


def test_a_command_that_could_not_be_asked_says_nothing(tmp_path: Path) -> None:
    answers: list[Verdict | OSError | None] = [None, OSError(errno.EMFILE, "no"), Verdict(True, "fine")]

    def ask(target: Target, probe: CommandProbe) -> Verdict | None:
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, OSError):
            raise answer
        return answer

    with prober(ask) as watching:
        command = CommandProbe(command=("x",))
        watching.watch(STACK, [target(command, tmp_path, interval=0.05, retries=1, started=0.0)])
        assert [each.new for each in wait_for(watching)] == [Found.HEALTHY]


class Stepped:
    """A `Probing` on a clock that the test moves, as a prober has it that does not run in between."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.changes: list[HealthChange] = []
        self.begun = 0
        self.probing = Probing(lambda: self.now, self._command, self.changes.append)
        self.poke = os.eventfd(1)  # always readable: a turn never waits
        self.probing.watch_poke(self.poke)

    def _command(self, track: Track, probe: CommandProbe) -> None:
        self.begun += 1

    def __enter__(self) -> Stepped:
        return self

    def __exit__(self, *error: object) -> None:
        self.probing.close()
        os.close(self.poke)

    def turn(self, after: float) -> None:
        self.now += after
        self.probing.turn()


def test_nothing_is_held_against_who_had_no_time_while_we_did_not_run(tmp_path: Path) -> None:
    with server(None) as port, Stepped() as world:
        probe = target(HttpProbe(port=port), tmp_path, retries=1, timeout=5.0, started=0.0)
        world.probing.replace(STACK, [probe])
        world.turn(0.0)
        world.turn(3600.0)  # stopped for an hour, or the clock jumped over a suspend
        assert world.changes == []
        world.turn(SOON)
        for _ in range(7):
            world.turn(0.9)
        assert [each.output for each in world.changes] == ["no answer in 5 s"]


def many(count: int, probe: Probe, folder: Path, **more: Any) -> list[Target]:
    one = target(probe, folder / "gone", started=0.0, **more)
    return [replace(one, incarnation=replace(WEB, id=f"{n:012x}")) for n in range(count)]


def test_who_does_not_answer_does_not_use_up_all_descriptors(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=4096) as deaf, Stepped() as world:
        gc.collect()  # what other tests left open is not closed meanwhile
        before = len(os.listdir("/proc/self/fd"))
        probe = HttpProbe(port=deaf.getsockname()[1])
        world.probing.replace(STACK, many(MOST + 50, probe, tmp_path, retries=1, timeout=5.0))
        world.turn(0.0)
        assert len(os.listdir("/proc/self/fd")) - before == MOST
        for _ in range(20):
            world.turn(0.6)
        assert len({each.incarnation for each in world.changes}) == MOST + 50


def test_after_a_gap_the_overdue_are_spread_and_each_is_asked_once(tmp_path: Path) -> None:
    with Stepped() as world:
        world.probing.replace(STACK, many(100, CommandProbe(command=("x",)), tmp_path))
        world.turn(600.0)
        assert world.begun == 0
        world.turn(SOON / 2)
        assert 0 < world.begun < 100
        world.turn(SOON)
        world.turn(60.0)
        world.turn(60.0)
        assert world.begun == 100  # none has ended yet: the overdue are not asked twice


def test_a_health_file_is_renewed_before_it_counts_as_stale_and_not_at_every_probe() -> None:
    track, now, written = Track(target(TcpProbe(port=1))), 0.0, [0.0]
    for number in range(100):
        track.record(True, "connected", now)
        if track.to_publish(now):
            written.append(now)
        now = track.next_probe(now, number % 10 / 10)
    gaps = [later - earlier for earlier, later in pairwise(written)]
    assert max(gaps) < 3 * track.target.probe.interval
    assert len(written) < 60
    track.record(False, "refused", now)
    assert track.to_publish(now)


def test_a_later_prober_goes_on_from_what_was_published_and_says_so(tmp_path: Path) -> None:
    health.publish(
        tmp_path / "health.json",
        health.Published(health=Found.HEALTHY, at=boottime(), started=5.0, since=5.0),
    )
    with server(b"HTTP/1.1 200 OK\r\n\r\n") as port, prober() as watching:
        watching.watch(STACK, [target(TcpProbe(port=port), tmp_path, started=5.0)])
        assert [(each.old, each.new) for each in wait_for(watching)] == [("healthy", "healthy")]


def test_what_is_no_longer_watched_is_left_alone(tmp_path: Path) -> None:
    asked: list[float] = []

    def ask(target: Target, probe: CommandProbe) -> Verdict:
        asked.append(boottime())
        return Verdict(True, "")

    with prober(ask) as watching:
        one = target(CommandProbe(command=("x",)), tmp_path, interval=0.01, started=0.0)
        watching.watch(STACK, [one])
        wait_for(watching)
        watching.watch("other", [])
        seen = len(asked)
        deadline = boottime() + 5
        while boottime() < deadline and len(asked) < seen + 2:
            select.select([], [], [], 0.01)
        assert len(asked) >= seen + 2
        watching.watch(STACK, [])
        deadline = boottime() + 5
        while boottime() < deadline and (not asked or boottime() - asked[-1] < 0.2):
            select.select([], [], [], 0.05)
        assert boottime() - asked[-1] >= 0.2


def test_unreadable_health_is_no_health(tmp_path: Path) -> None:
    file = tmp_path / "health.json"
    for text in ("", "{", "[]", '{"health": "fine"}'):
        file.write_text(text)
        assert health.read(file) is None
    health.publish(
        tmp_path / "gone" / "health.json", health.Published(health=Found.HEALTHY, at=1, started=1, since=1)
    )
