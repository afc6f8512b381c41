"""A hundred kills of agent, supervisor, keeper, command line and containers in random order: what should stay stays."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pytest

from tests.crash.storm import Storm

pytestmark = pytest.mark.root

KILLS = 100
SEED = int(os.environ.get("ORCHESTRATOR_SEED", "20"))


def test_a_hundred_random_kills_change_nothing() -> None:
    root = Path(tempfile.mkdtemp(prefix="orc-storm-"))
    try:
        with Storm(root, steady=6, mortal=4, seed=SEED) as storm:
            for number in range(KILLS):
                storm.round()
                if number % 20 == 19:
                    storm.check()
            storm.check()
            assert storm.lines() > 1000, f"seed {SEED}: {storm.done}"
            assert storm.unknown <= storm.done["container"], f"seed {SEED}"
    finally:
        shutil.rmtree(root, ignore_errors=True)
