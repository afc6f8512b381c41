"""What probing costs: many http probes of a server in another process, and the processor time of the prober alone."""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.queues import Queue
from pathlib import Path

from orchestrator.control.attempts import Verdict
from orchestrator.control.probes import Prober
from orchestrator.control.tracking import Target
from orchestrator.model.desired import Health, HttpProbe
from orchestrator.model.ids import Incarnation, Kind, Ref


def share(folder: Path, *, count: int, interval: float, seconds: float) -> float:
    """The part of one core that `count` http probes every `interval` seconds take, measured over `seconds`."""
    clock = lambda: time.clock_gettime(time.CLOCK_BOOTTIME)  # noqa: E731
    with server() as port, Prober(clock=clock, run_command=lambda *_: Verdict(True, "")) as prober:
        prober.watch("bench", [_target(folder, n, port, interval, clock()) for n in range(count)])
        healthy, deadline = 0, time.monotonic() + 60
        while healthy < count:
            healthy += sum(change.new == "healthy" for change in prober.drain())
            if time.monotonic() > deadline:
                raise RuntimeError(f"only {healthy} of {count} are healthy")
            time.sleep(0.05)
        time.sleep(interval)  # until they have gone separate ways
        used, began = time.process_time(), time.monotonic()
        time.sleep(seconds)
        part = (time.process_time() - used) / (time.monotonic() - began)
        changes = prober.drain()
    if changes:
        raise RuntimeError(f"not all stayed healthy: {changes[0].output}")
    return part


def _target(folder: Path, number: int, port: int, interval: float, started: float) -> Target:
    place = folder / f"{number:012x}"
    place.mkdir(parents=True)
    return Target(
        incarnation=Incarnation("bench", Ref(Kind.CONTAINER, f"web-{number}/web"), place.name),
        probe=Health(probe=HttpProbe(port=port), interval=interval),
        address="127.0.0.1",
        started=started,
        env={},
        file=place / "health.json",
    )


@contextmanager
def server() -> Iterator[int]:
    """Its port."""
    context = multiprocessing.get_context("spawn")
    ports: Queue[int] = context.Queue()
    process = context.Process(target=_serve, args=(ports,), daemon=True)
    process.start()
    try:
        yield ports.get(timeout=30)
    finally:
        process.terminate()
        process.join()


def _serve(ports: Queue[int]) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        await writer.drain()
        writer.close()

    async def serve() -> None:
        made = await asyncio.start_server(answer, "127.0.0.1", 0, backlog=4096)
        ports.put(made.sockets[0].getsockname()[1])
        await made.serve_forever()

    asyncio.run(serve())
