"""The registry of attacks is whole, every attack of it is tried, and the page says so."""

from __future__ import annotations

import ast
import importlib
from collections import Counter

from tests import threats
from tests.conftest import ROOT


def test_every_class_has_its_attacks() -> None:
    found = threats.attacks()
    count = Counter(attack.kind for attack in found)
    assert set(count) == set(threats.CLASSES) and min(count.values()) >= 3, count
    assert len(found) >= 120 and len({(attack.kind, attack.name) for attack in found}) == len(found)
    assert all(
        (attack.does and attack.does[0].islower()) or attack.does[0].isdigit() or attack.does[0].isupper() for attack in found
    )


def test_every_attack_is_tried_by_a_test_that_runs() -> None:
    for attack in threats.attacks():
        path, _, name = attack.test.partition("::")
        tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
        (test,) = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name]
        marks = [ast.unparse(mark) for mark in test.decorator_list]
        assert not any("skip" in mark or "xfail" in mark for mark in marks), attack.test


def test_every_case_of_an_attacks_test_is_in_the_registry_and_the_other_way_round() -> None:
    from tests import test_attacks, test_forgers, test_lab_attacks, test_page_attacks

    pages = "tests/test_page_attacks.py::test_"
    cases = {
        threats.SUBMISSIONS: set(test_attacks.ATTACKS),
        "tests/test_lab_attacks.py::test_a_hostile_notebook_earns_nothing_and_reaches_nothing": {
            *test_lab_attacks.CASES, *test_lab_attacks.WITHOUT_A_NOTEBOOK
        },
        pages + "a_tas_browser_runs_and_hides_nothing": set(test_page_attacks.BROWSER),
        pages + "no_cell_of_a_spreadsheet_is_run": set(test_page_attacks.CELLS),
        pages + "a_hostile_zip_gives_nothing_to_run_and_stays_within_the_limits": set(test_page_attacks.ZIPS),
        "tests/test_forgers.py::test_the_right_structure_with_other_numbers_earns_nothing": set(test_forgers.FORGERS),
    }  # fmt: skip
    for test, names in cases.items():
        assert {attack.name for attack in threats.attacks() if attack.test == test} == names, test


def test_the_page_has_the_registrys_table() -> None:
    page = threats.PAGE.read_text(encoding="utf-8")
    assert page.count(threats.BEGIN) == page.count(threats.END) == 1
    assert threats.written(page) == page, "run python -m tests.threats"
    for kind in threats.CLASSES:
        assert f"\n## {kind[0].upper()}{kind[1:]}\n" in page, f"no section on {kind}"


def test_the_modules_of_attacks_can_be_imported() -> None:
    for name in sorted({attack.test.partition("::")[0] for attack in threats.attacks()}):
        assert importlib.import_module(name.removesuffix(".py").replace("/", "."))
