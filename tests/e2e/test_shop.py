"""The example with real servers: orders go through nginx and the application into PostgreSQL, whatever is killed."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.e2e.conftest import Stage, staged
from tests.waiting import until

pytestmark = pytest.mark.root

URL = "http://127.0.0.1:8088"


@pytest.fixture(scope="module")
def shop() -> Iterator[Stage]:
    with staged() as stage:
        stage.prepare("shop.yaml")
        stage.run("apply", "-f", "shop.yaml", "--timeout", "3m")
        yield stage


def ordered(stage: Stage) -> list[str]:
    return [each["item"] for each in json.loads(stage.curl(f"{URL}/orders").out)]


def order(stage: Stage, item: str) -> bool:
    """Whether the shop took it."""
    command = ("curl", "-sS", "--fail", "--max-time", "10", "-d", f"item={item}", f"{URL}/orders")
    return stage.inside(*command).code == 0


def test_requests_reach_the_database_through_three_instances(shop: Stage) -> None:
    assert order(shop, "teapot")
    assert "teapot" in ordered(shop)
    pages = [shop.curl(f"{URL}/").out for _ in range(12)]
    assert {page.partition(":")[0] for page in pages} == {"app-1", "app-2", "app-3"}
    visits = [int(page.split()[-2]) for page in pages]
    assert visits == list(range(visits[0], visits[0] + 12)), "Redis counts them all"


def test_unchanged_is_unchanged(shop: Stage) -> None:
    assert shop.run("plan", "-f", "shop.yaml", "--check").out.startswith("No changes.")


@pytest.mark.parametrize(
    "name", ["db-1/db", "cache-1/cache", "app-1/server", "app-2/server", "proxy-1/proxy"]
)
def test_whatever_is_killed_the_shop_goes_on(shop: Stage, name: str) -> None:
    before = ordered(shop)
    pid = shop.ps()[f"container/{name}"]["pid"]
    shop.run("kill", "-s", "KILL", name.partition("/")[0])
    until(lambda: order(shop, name) and shop.curl(f"{URL}/").code == 0, 60)
    # What was taken stays; where the answer was lost with the process, the order may be there twice.
    assert ordered(shop)[: len(before)] == before
    assert name in ordered(shop)
    until(lambda: shop.ps()[f"container/{name}"]["pid"] not in (None, pid))
    until(lambda: shop.ps()[f"container/{name}"]["health"] == "healthy", 60)


def test_orders_outlive_the_stack(shop: Stage) -> None:
    before = ordered(shop)
    shop.run("delete", "shop", "--yes")
    assert not shop.ps()
    shop.run("apply", "-f", "shop.yaml", "--timeout", "3m")
    assert ordered(shop) == before
