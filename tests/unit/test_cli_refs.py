"""Short names: what people type finds one thing, or says what it could mean."""

from __future__ import annotations

import pytest

from orchestrator.cli.refs import Named, find, find_container
from orchestrator.errors import UsageError
from orchestrator.model.ids import Ref

HERE = [
    Named(stack, Ref.parse(ref))
    for stack, ref in (
        ("shop", "container/web-1/server"),
        ("shop", "container/web-2/server"),
        ("shop", "container/db-1/db"),
        ("shop", "container/pair-1/left"),
        ("shop", "container/pair-1/right"),
        ("shop", "group/web-1"),
        ("shop", "service/web"),
        ("shop", "service/db"),
        ("shop", "network/front"),
        ("blog", "container/web-1/server"),
        ("blog", "volume/data"),
    )
]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("shop:web-1", "shop:container/web-1/server"),
        ("shop:web-1/server", "shop:container/web-1/server"),
        ("shop:container/web-1/server", "shop:container/web-1/server"),
        ("web-2", "shop:container/web-2/server"),
        ("db", "shop:container/db-1/db"),
        ("left", "shop:container/pair-1/left"),
        ("blog:web", "blog:container/web-1/server"),
        ("group/web-1", "shop:group/web-1"),
        ("front", "shop:network/front"),
        ("volume/data", "blog:volume/data"),
    ],
)
def test_short_name_finds_one_thing(text: str, found: str) -> None:
    assert str(find(text, HERE)) == found


def test_ambiguous_name_lists_the_candidates() -> None:
    with pytest.raises(UsageError) as caught:
        find("pair-1", HERE)
    assert caught.value.hint == "write one of: container/pair-1/left, container/pair-1/right"


def test_ambiguity_between_stacks_names_the_stacks() -> None:
    with pytest.raises(UsageError) as caught:
        find("web-1", HERE)
    assert caught.value.hint is not None
    assert "blog:container/web-1/server" in caught.value.hint
    assert "shop:container/web-1/server" in caught.value.hint


def test_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(UsageError) as caught:
        find("wbe-2", HERE)
    assert caught.value.hint == "did you mean container/web-2/server?"


def test_container_is_never_another_kind() -> None:
    with pytest.raises(UsageError):
        find_container("network/front", HERE)
