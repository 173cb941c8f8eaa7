"""Every error code of the host tools has one meaning, in one place, and the page lists it."""

import ast
import re

import pytest

from lifeboat_host.base import tree
from lifeboat_host.base.codes import CODES
from lifeboat_host.base.errors import EXIT_DAMAGE, EXIT_ERROR, EXIT_OK
from lifeboat_host.model.reasons import ADVICE

PACKAGE = tree.root() / "host_tools" / "lifeboat_host"
PAGE = tree.root() / "docs" / "codes.md"
SHAPE = re.compile(r"[a-z]+(-[a-z]+)*")
# Calls that take a code: the number of its argument.
CALLS = {"LifeboatError": 0, "_failed": 0, "_failure": 0, "open_regular": 1, "read": 2}
# The structures of docs/format.md, whose errors are <structure>-<what>.
STRUCTURES = {
    "manifest",
    "region",
    "commit",
    "journal",
    "entry",
    "memory",
    "record",
    "member",
    "build",
}
FAMILIES = {f"{one}-{what}" for one in STRUCTURES for what in ("magic", "version", "crc", "field")}


def used():
    """Codes that the sources hand to an error, by where."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            name = getattr(node.func, "id", getattr(node.func, "attr", ""))
            place = CALLS.get(name)
            if place is None or len(node.args) <= place:
                continue
            argument = node.args[place]
            texts = [argument]
            if isinstance(argument, ast.IfExp):
                texts = [argument.body, argument.orelse]
            for text in texts:
                if isinstance(text, ast.Constant) and isinstance(text.value, str):
                    if SHAPE.fullmatch(text.value):
                        found.setdefault(text.value, path.name)
    return found


def test_every_code_that_is_used_has_a_meaning():
    missing = {code: where for code, where in used().items() if code not in CODES}
    assert not missing
    assert len(used()) > 100


def test_every_code_with_a_meaning_is_used():
    text = "".join(path.read_text() for path in PACKAGE.rglob("*.py") if path.name != "codes.py")
    assert not [c for c in CODES if c not in FAMILIES and f'"{c}"' not in text]


def test_a_code_of_a_board_means_the_same_here():
    """Where both have one: the board's advice stays the board's."""
    for code in CODES.keys() & ADVICE.keys():
        assert CODES[code] and ADVICE[code]


@pytest.mark.parametrize("code", CODES)
def test_codes_and_meanings_have_their_form(code):
    meaning = CODES[code]
    assert SHAPE.fullmatch(code)
    assert len(meaning) < 90 and meaning[0].islower() and not meaning.endswith(".")


def test_the_page_is_the_registry():
    rows = re.findall(r"^\| `([a-z-]+)` \| (.*) \|$", PAGE.read_text(), re.M)
    assert dict(rows) == CODES and len(rows) == len(CODES)
    assert [code for code, _ in rows] == list(CODES), "in the same order"


def test_the_exit_codes_stand_in_one_table():
    rows = re.findall(r"^\| (\d+) \| ", PAGE.read_text(), re.M)
    assert rows == ["0", "1", "2", "3", "130"]
    assert (EXIT_OK, EXIT_ERROR, EXIT_DAMAGE) == (0, 1, 3)
