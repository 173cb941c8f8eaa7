"""A complete run says when a test that docs/security.md names did not pass."""

from xml.etree import ElementTree

import pytest

from lifeboat_host.base import tree
from lifeboat_host.commands import test as command

PAGE = "a claim: `test_a.py::test_one`, `test_b.py::test_two`; not named so: test_a.py::test_three"


def ledger(path, *cases, cuts=None):
    """A JUnit file; cases: (module, name, kind); cuts: the tally of a sweep in the last one."""
    suite = ElementTree.Element("testsuite")
    for module, name, kind in cases:
        case = ElementTree.SubElement(suite, "testcase", classname=module, name=name)
        if kind:
            ElementTree.SubElement(case, kind)
    if cuts:
        told = ElementTree.SubElement(case, "properties")
        ElementTree.SubElement(told, "property", name="power_loss", value=str(cuts))
    ElementTree.ElementTree(suite).write(path)
    return path


ONE = ("tests.firmware.test_a", "test_one", None)
TWO = ("tests.qemu.test_b", "test_two[qemu_virt]", None)


@pytest.mark.parametrize(
    ("cases", "missing"),
    [
        ([ONE, TWO], []),
        ([ONE], ["test_b.py::test_two"]),
        ([TWO, ("tests.x.test_c", "test_one", None)], ["test_a.py::test_one"]),
        ([ONE, ("tests.qemu.test_b", "test_two[a]", "skipped"), TWO], []),
        ([ONE, ("tests.qemu.test_b", "test_two[a]", "skipped")], ["test_b.py::test_two"]),
        ([ONE, ("tests.qemu.test_b", "test_two[a]", "failure"), TWO], ["test_b.py::test_two"]),
        ([TWO, ("tests.firmware.test_a", "test_one", "error")], ["test_a.py::test_one"]),
    ],
)
def test_what_is_named_has_to_have_passed(tmp_path, cases, missing):
    paths = [ledger(tmp_path / f"{i}.xml", case) for i, case in enumerate(cases)]
    assert command.unproven(PAGE, paths) == missing


def test_the_seconds_of_each_floor_are_added_up(tmp_path):
    suite = ElementTree.Element("testsuite")
    for module, seconds in (
        ("tests.qemu.test_a", 5.5),
        ("tests.qemu.test_b", 1),
        ("tests.host.x", 8),
    ):
        ElementTree.SubElement(suite, "testcase", classname=module, name="t", time=str(seconds))
    ElementTree.ElementTree(suite).write(tmp_path / "a.xml")
    assert command.durations([tmp_path / "a.xml"]) == {"host": 4, "qemu": 3.25}


def test_a_run_that_broke_off_proves_nothing(tmp_path):
    (tmp_path / "half.xml").write_text("<testsuite><testcase")
    found = command.unproven(PAGE, [tmp_path / "half.xml", tmp_path / "absent.xml"])
    assert found == ["test_a.py::test_one", "test_b.py::test_two"]


@pytest.mark.parametrize(
    ("proven", "cuts", "code"),
    [
        (True, [50000, 50000, 50000, 9], 0),  # in each half of the run
        (False, [50000, 50000, 50000, 9], 1),
        (True, [49999, 49999, 49999, 9], 1),
        (True, [50001, 50000, 50000, 9], 1),  # one was not reached
        (True, None, 1),
    ],
)
def test_a_complete_run_fails_without_its_evidence(
    monkeypatch, tmp_path, capsys, proven, cuts, code
):
    (tmp_path / "docs").mkdir()
    (tmp_path / "boards").mkdir()
    (tmp_path / "docs" / "security.md").write_text(PAGE)
    monkeypatch.setenv("LIFEBOAT_ROOT", str(tmp_path))
    assert tree.root() == tmp_path
    runs = []

    def pytest_run(markers, *options):
        runs.append(markers)
        path = options[-1].partition("=")[2]
        ledger(path, *([ONE, TWO] if proven else [ONE]), cuts=cuts)
        return 0

    monkeypatch.setattr(command, "_pytest", pytest_run)
    assert command.main([]) == code
    assert runs == ["host and not slow", "not host and not slow"]
    assert ("test_b.py::test_two" in capsys.readouterr().out) != proven


def test_a_part_of_the_tests_is_not_judged(monkeypatch):
    runs = []
    monkeypatch.setattr(command, "_pytest", lambda *run: runs.append(run) or 0)
    assert command.main(["-m", "unix", "--slow"]) == 0
    assert command.main(["-k", "name"]) == 0
    assert runs == [("(unix)",), ("not slow", "-k", "name")]
