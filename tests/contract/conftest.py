"""Runs every test of the contract in every world; afterwards the world must be empty again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.plan.changes import Policy
from tests.contract.worlds import DIFFERENCES, WORLDS, World


@pytest.fixture(params=[pytest.param(name, marks=marks) for name, (_, marks) in WORLDS.items()])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    test = request.node.originalname
    reason = DIFFERENCES.get((request.param, test))
    if reason:
        request.applymarker(pytest.mark.xfail(reason=reason, strict=True))
    with WORLDS[request.param][0](tmp_path) as made, made.pool:
        try:
            yield made
        finally:
            for _ in range(3):
                if made.run(made.plan(None, Policy(prune_data=True))) == []:
                    break
        assert made.observed() == ()
