"""Every code that the firmware uses has advice, and the handbook lists the same codes."""

import ast
import re

import pytest

from cpython_floor import ROOT
from lifeboat.errors import ADVICE, LifeboatError

FIRMWARE = ROOT / "firmware" / "lifeboat"
MANUAL = ROOT / "docs" / "operations.md"
CODE = re.compile(r"[a-z]+(-[a-z]+)+|internal|policy")
CHOSEN = "disk-timeout", "disk-failed", "flash-failed", "manifest-padding"  # by expressions


# The calls that take a code, and which argument it is.
def _codes(tree):
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not node.args:
            continue
        name = getattr(node.func, "id", None) or getattr(node.func, "attr", None)
        if name not in ("LifeboatError", "reason"):
            continue
        code = node.args[0]
        if isinstance(code, ast.Constant):
            yield code.value
        elif isinstance(code, ast.BinOp) and isinstance(code.right, ast.Constant):
            # kind + "-crc", where kind is what _check() of region.py is called with
            yield from ("region" + code.right.value, "commit" + code.right.value)


def used():
    codes = set(CHOSEN)
    for path in FIRMWARE.rglob("*.py"):
        codes |= set(_codes(ast.parse(path.read_text())))
    return codes


def test_every_code_that_is_used_has_advice():
    assert used() - set(ADVICE) == set()


def test_all_advice_is_for_a_code_that_is_used():
    assert set(ADVICE) - used() == set()


@pytest.mark.parametrize("code", CHOSEN)
def test_codes_chosen_by_an_expression_stand_in_the_sources(code):
    assert any('"%s"' % code in p.read_text() for p in FIRMWARE.glob("*.py") if p.stem != "errors")


def test_advice_reads_as_one_line_and_says_what_to_do():
    for code, text in ADVICE.items():
        assert CODE.fullmatch(code), code
        assert 10 < len(text) < 90 and "\n" not in text, code
        assert text[0].islower() and text[-1] not in ".!", code


@pytest.mark.skipif(not MANUAL.exists(), reason="docs/operations.md is not written yet")
def test_the_handbook_lists_the_same_codes():
    section = MANUAL.read_text().split("## Reason codes")[1].split("\n## ")[0]
    listed = {
        cell
        for line in section.splitlines()
        if line.startswith("| `")
        for cell in re.findall(r"^\| `([^`]+)`", line)
        if CODE.fullmatch(cell)
    }
    assert listed == set(ADVICE)


def test_an_error_carries_code_and_detail():
    error = LifeboatError("slot-small", "disk0")
    assert (error.code, error.detail, error.args) == (
        "slot-small",
        "disk0",
        ("slot-small", "disk0"),
    )
    assert LifeboatError("policy").detail == ""


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
