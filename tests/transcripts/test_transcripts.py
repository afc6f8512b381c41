"""Each transcript prints today what it printed when it was written; so does the one in the README."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.transcripts.replay import replay
from tests.unit.fake_app import Stage

HERE = Path(__file__).parent
TRANSCRIPTS = sorted(HERE.glob("*.txt"))


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda each: each.stem)
def test_transcript_is_replayed(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(HERE / "shop.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SUDO_USER", "ann")
    written = path.read_text()
    now = replay(written, Stage(tmp_path).open, tmp_path)
    if os.environ.get("UPDATE_TRANSCRIPTS"):
        path.write_text(now)
        return
    assert now == written
