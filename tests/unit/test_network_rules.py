"""The nftables table as golden text: tests/cases/nft/NAME.json (rules) beside NAME.nft (what nft is given).

ORCHESTRATOR_GOLDEN=write makes the texts anew; read their diff as you would read code.
"""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.drivers.network.nft import change, whole
from orchestrator.drivers.network.rules import Rules, ServiceRules, Virtual, table
from orchestrator.model.codec import decode

CASES = Path(__file__).parents[1] / "cases" / "nft"
NAMES = sorted(each.stem for each in CASES.glob("*.json"))


def rules(name: str) -> Rules:
    return decode(Rules, json.loads((CASES / f"{name}.json").read_text()))


@pytest.mark.parametrize("name", NAMES)
def test_rules_become_this_text(name: str) -> None:
    text = whole(table(rules(name)))
    golden = CASES / f"{name}.nft"
    if os.environ.get("ORCHESTRATOR_GOLDEN") == "write":
        golden.write_text(text)
    assert text == golden.read_text()


def test_no_change_is_an_empty_script() -> None:
    each = table(rules("balanced"))
    assert change(each, each) == ""


def test_one_more_service_is_one_element() -> None:
    old = rules("one-service")
    more = ServiceRules(virtuals=(Virtual(address="10.87.0.7", backends=("10.87.0.8",)),))
    script = change(table(old), table(replace(old, services=(*old.services, more))))
    assert script == (
        "add element ip orchestrator_main itself { 10.87.0.8 . 10.87.0.8 }\n"
        "add element ip orchestrator_main virtual_one { 10.87.0.7 : 10.87.0.8 }\n"
    )


def test_a_second_instance_moves_the_service_from_a_map_to_a_chain() -> None:
    old = replace(rules("one-service"), services=(ServiceRules(virtuals=(Virtual(address="10.87.0.2"),)),))
    steps = [
        replace(old, services=(ServiceRules(virtuals=(Virtual(address="10.87.0.2", backends=backends),)),))
        for backends in (("10.87.0.3",), ("10.87.0.3", "10.87.0.4"))
    ]
    script = change(table(steps[0]), table(steps[1]))
    assert script is not None
    assert "delete element ip orchestrator_main virtual_one { 10.87.0.2 }\n" in script
    assert script.index("add chain ip orchestrator_main v_10_87_0_2") < script.index("jump v_10_87_0_2")


def test_a_chain_goes_after_the_element_that_names_it() -> None:
    old = rules("one-service")
    script = change(table(old), table(replace(old, services=())))
    assert script is not None
    assert script.index("delete element ip orchestrator_main local_ports") < script.index("delete chain")


def test_a_service_that_is_there_twice_is_written_once() -> None:
    old = rules("balanced")
    assert table(replace(old, services=old.services * 2)) == table(old)


def test_another_table_is_reached_by_the_whole_text_alone() -> None:
    assert change(table(rules("one-service")), table(rules("local-resolver"))) is None
