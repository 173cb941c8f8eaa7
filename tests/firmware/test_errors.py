"""Every code that the firmware uses has advice, and the handbook lists the same codes."""

import ast
import re

import pytest

from cpython_floor import ROOT
from lifeboat.advice import ADVICE
from lifeboat.errors import LifeboatError

FIRMWARE = ROOT / "firmware" / "lifeboat"
MANUAL = ROOT / "docs" / "operations.md"
CODE = re.compile(r"[a-z]+(-[a-z]+)+|adopted|internal|policy")
# By disk_error() of members.py, for whoever calls it; by recovery.assess(), for its plan; by
# trying.py, which returns why it can't go on.
CHOSEN = (
    "disk-timeout", "disk-failed", "disk-refused", "older-build", "other-build",
    "trial-waits", "trial-limit",
)  # fmt: skip

# The calls whose first argument is a code; where it is an expression, every text in it is one.
CALLS = "LifeboatError", "_fail", "reason", "tell", "Inspection", "attempt", "_blame"
# What tell() is called with beside them: events of the journal (format.md section 5).
EVENTS = {
    "reason", "found", "repaired", "lost", "created", "mended", "changed", "counter", "keys",
    "trial", "taken-back",
}  # fmt: skip
# What Memory.state, which is set together with Memory.why, may be (format.md section 4).
STATES = {"ok", "empty", "lost", "none"}


def _texts(node):
    # The names of attributes that getattr() asks for are no codes.
    names = {
        n.args[1]
        for n in ast.walk(node)
        if isinstance(n, ast.Call) and getattr(n.func, "id", "") == "getattr"
    }
    return {
        n.value
        for n in ast.walk(node)
        if isinstance(n, ast.Constant) and isinstance(n.value, str) and n not in names
    }


# Codes that stand in the sources, by what they are handed to.
def _codes(tree):
    kinds, endings = set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and node.args:
            name = getattr(node.func, "id", None) or getattr(node.func, "attr", None)
            if name == "_fields":
                # records.py: the kind of a record, to which LifeboatError gets kind + "-crc"
                kinds |= _texts(node.args[1])
            elif name in CALLS:
                code = node.args[0]
                if isinstance(code, ast.BinOp) and isinstance(code.op, ast.Add):
                    endings |= _texts(code)
                elif isinstance(code, ast.IfExp):
                    yield from _texts(code.body) | _texts(code.orelse)
                else:
                    yield from _texts(code)
        elif isinstance(node, ast.Assign):
            # self.why = "..."
            targets = [t for target in node.targets for t in ast.walk(target)]
            if any(isinstance(t, ast.Attribute) and t.attr == "why" for t in targets):
                yield from _texts(node.value)
    assert bool(kinds) == bool(endings)
    yield from (kind + ending for kind in kinds for ending in endings)


def used():
    codes = set(CHOSEN)
    for path in FIRMWARE.rglob("*.py"):
        codes |= set(_codes(ast.parse(path.read_text())))
    return codes - EVENTS - STATES


def test_every_code_that_is_used_has_advice():
    assert used() - set(ADVICE) == set()


def test_all_advice_is_for_a_code_that_is_used():
    assert set(ADVICE) - used() == set()


@pytest.mark.parametrize("code", CHOSEN)
def test_codes_chosen_by_an_expression_stand_in_the_sources(code):
    others = [p for p in FIRMWARE.glob("*.py") if p.stem != "advice"]
    assert any('"%s"' % code in p.read_text() for p in others)


def test_every_code_fits_where_it_is_stored():
    """16 bytes of an entry of the journal (format.md section 5)."""
    assert [code for code in used() if len(code.encode()) > 16] == []


def test_advice_reads_as_one_line_and_says_what_to_do():
    for code, text in ADVICE.items():
        assert CODE.fullmatch(code), code
        assert 10 < len(text) < 90 and "\n" not in text, code
        assert text[0].islower() and text[-1] not in ".!", code


def handbook():
    section = MANUAL.read_text().split("## Reason codes")[1].split("\n## ")[0]
    return re.findall(r"^\| `([^`]+)` \| (.+) \|$", section, re.M)


def test_the_handbook_lists_the_same_codes_in_the_same_words():
    """I13: the words of one table."""
    assert dict(handbook()) == ADVICE


def test_the_lists_are_in_order_and_name_each_code_once():
    codes = [code for code, _ in handbook()]
    assert codes == sorted(set(codes)) and list(ADVICE) == codes


def test_an_error_carries_code_and_detail():
    error = LifeboatError("slot-small", "disk0")
    assert (error.code, error.detail, error.args) == (
        "slot-small",
        "disk0",
        ("slot-small", "disk0"),
    )
    assert LifeboatError("policy").detail == ""


def test_the_codes_are_read_rightly():
    """The test itself: codes of every form that the sources use are seen."""
    source = """
raise LifeboatError("a-a" if error.code == "x-x" else "b-b", "detail")
member.tell("c-c")
findings.reason("d-d" if one else "e-e", "flash", "f-f")
self.state, self.why = "none", "g-g"
self.why = self.why or "h-h"
self.why = getattr(error, "code", "k-k")
return Inspection("i-i", error.detail)
_fields(buf, "j", b"MAGIC", "<8s", 1)
raise LifeboatError(kind + "-crc")
"""
    want = {c + "-" + c for c in "abcdeghik"} | {"j-crc", "none"}
    assert set(_codes(ast.parse(source))) == want


# The names in the errno module of MicroPython 1.25 (py/moderrno.c).
MICROPYTHON_ERRNO = set(
    "EPERM ENOENT EIO EBADF EAGAIN ENOMEM EACCES EEXIST ENODEV EISDIR EINVAL EOPNOTSUPP EADDRINUSE"
    " ECONNABORTED ECONNRESET ENOBUFS ENOTCONN ETIMEDOUT ECONNREFUSED EHOSTUNREACH EALREADY"
    " EINPROGRESS errorcode".split()
)


def test_error_numbers_are_taken_from_errno_only_where_micropython_has_them():
    for path in (ROOT / "firmware" / "lifeboat").rglob("*.py"):
        text = path.read_text()
        used = set(re.findall(r"\berrno\.(E\w+)", text))
        for names in re.findall(r"^from errno import (.*)", text, re.M):
            used |= {name.strip() for name in names.split(",")}
        assert used <= MICROPYTHON_ERRNO, path.name
