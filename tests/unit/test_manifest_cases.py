"""Case files: each *.yaml under tests/cases/manifest/bad gives exactly the text in its *.expected; each good one a stack.

After a wanted change of wording: UPDATE_CASES=1 pytest tests/unit/test_manifest_cases.py, and read the difference.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from orchestrator.diagnostics import render
from orchestrator.manifest import load
from orchestrator.model import codec
from orchestrator.resolve import resolve_all

CASES = Path(__file__).parent.parent / "cases" / "manifest"
ENV = {"SET": "value", "N": "2"}


def expect(case: Path, found: str) -> None:
    expected = case.with_suffix(".expected")
    if os.environ.get("UPDATE_CASES"):
        expected.write_text(found)
    assert found == expected.read_text()


@pytest.mark.parametrize("name", sorted(each.stem for each in (CASES / "bad").glob("*.yaml")))
def test_bad_manifest_is_refused_with_the_expected_words(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(CASES / "bad")
    loaded = load([f"{name}.yaml"], ENV)
    stacks, diagnostics = resolve_all(loaded)
    assert stacks == ()
    expect(CASES / "bad" / f"{name}.yaml", render(diagnostics, loaded.sources).replace(str(CASES), "CASES"))


@pytest.mark.parametrize("name", sorted(each.stem for each in (CASES / "good").glob("*.yaml")))
def test_good_manifest_becomes_the_expected_stack(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(CASES / "good")
    loaded = load([f"{name}.yaml"], ENV)
    stacks, diagnostics = resolve_all(loaded)
    assert render(diagnostics, loaded.sources) == ""
    shown = [
        {
            str(ref): {
                "spec": codec.encode(spec),
                "needs": [
                    f"{need.until} {need.ref}{' (structural)' if need.structural else ''}"
                    f"{' (restarts)' if need.restarts else ''}"
                    for need in stack.needs[ref]
                ],
                "places": {
                    field: f"{at.line}:{at.column}"
                    for (owner, field), at in stack.places.items()
                    if owner == ref
                },
            }
            for ref, spec in stack.resources.items()
        }
        for stack in stacks
    ]
    expect(
        CASES / "good" / f"{name}.yaml",
        json.dumps(shown, indent=1, sort_keys=False).replace(str(CASES), "CASES") + "\n",
    )
