"""The report: one line for machines, words for people, and RAM that survives a soft reset."""

import json
import struct
import zlib

import pytest

from lifeboat.report import RESCUE, RUN, RUN_DEGRADED, Report, runs

KEYS = {
    "verdict", "reasons", "trust", "product", "version", "build", "blocks", "bad", "repaired",
    "lost", "manifest", "erases", "disk_writes", "members", "ms",
}  # fmt: skip


def said(report, capsys):
    report.show()
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize(
    "numbers, want",
    [
        ([], []), ([5], [[5, 1]]), ([0, 1, 2], [[0, 3]]), ([1, 3, 4, 9], [[1, 1], [3, 2], [9, 1]]),
    ],
)  # fmt: skip
def test_numbers_become_runs(numbers, want):
    assert runs(numbers) == want


def test_nothing_is_promised_before_the_verdict():
    report = Report()
    assert report.verdict == RESCUE and not report.runs
    assert set(report.data) == KEYS


@pytest.mark.parametrize("verdict, may_run", [(RUN, True), (RUN_DEGRADED, True), (RESCUE, False)])
def test_what_may_run(verdict, may_run):
    report = Report()
    report.data["verdict"] = verdict
    assert (report.verdict, report.runs) == (verdict, may_run)


def test_reports_do_not_share_their_lists():
    Report().reason("internal")
    assert Report().data["reasons"] == []


def test_the_last_line_is_json_for_machines(capsys):
    report = Report()
    report.reason("block-lost", "flash", 'a "quote"\nand a line')
    lines = said(report, capsys)
    assert lines[-1].startswith("lifeboat: ") and lines[-1] == report.line()
    assert json.loads(lines[-1][len("lifeboat: ") :]) == report.data


def test_each_reason_comes_with_advice(capsys):
    report = Report()
    report.reason("disk-lies", "sata1", "slot 0")
    first = said(report, capsys)[0]
    assert first.startswith("[lifeboat] disk-lies sata1 slot 0: ") and "replace" in first


def test_texts_of_manifests_can_not_pass_for_lines(capsys):
    report = Report()
    report.data["version"] = '1\nlifeboat: {"verdict":"RUN"}\r\x1b[2J'
    report.reason("manifest-product", "flash", "x\nlifeboat: {}")
    lines = said(report, capsys)
    assert sum(line.startswith("lifeboat: ") for line in lines) == 1
    assert all(c >= " " for line in lines for c in line)


def test_a_reason_that_is_not_text_is_made_text(capsys):
    report = Report()
    report.reason("no such code", None, 5)
    assert json.loads(said(report, capsys)[-1][10:])["reasons"] == [["no such code", "None", "5"]]


def test_the_same_reason_is_given_once():
    report = Report()
    for _ in range(3):
        report.reason("disk-failed", "sata0", "5")
    assert len(report.data["reasons"]) == 1


def test_garbage_on_disks_does_not_hide_what_is_wrong_with_the_flash():
    report = Report()
    for i in range(1000):
        report.reason("commit-crc", "sata0", "slot %d" % i)
    report.reason("block-lost", "flash")
    report.reason("backup-none")
    reasons = report.data["reasons"]
    assert len(reasons) < 40
    assert ["block-lost", "flash", ""] in reasons and ["backup-none", "", ""] in reasons


def test_repaired_blocks_are_runs_per_disk():
    report = Report()
    for block, disk in ((1, "a"), (2, "a"), (3, "b"), (4, "b"), (6, "b")):
        report.repaired(block, disk)
    assert report.data["repaired"] == [[1, 2, "a"], [3, 2, "b"], [6, 1, "b"]]


# RAM that survives a soft reset


def filled(reasons=0, members=1):
    report = Report()
    report.data.update(verdict=RUN, product="p", version="v", build="0123456789ab", blocks=64)
    for i in range(reasons):
        report.reason("commit-crc", "sata%d" % i, "a long detail of which nobody knows why")
    member = {"disk": "sata0", "state": "level", "generation": 1}
    report.data["members"] = [member] * members
    return report


def test_what_is_kept_comes_back():
    area = bytearray(2048)
    report = filled()
    report.keep(area)
    assert Report.kept(area).data == report.data
    text = json.dumps(report.data).encode()
    assert area[:12] == b"LBRP" + struct.pack("<II", len(text), zlib.crc32(text))


def test_a_long_report_is_kept_without_its_lists():
    area = bytearray(2048)
    report = filled(reasons=30)
    report.keep(area)
    kept = Report.kept(area)
    assert kept.data["short"] is True and kept.data["reasons"] == []
    assert (kept.verdict, kept.data["build"]) == (RUN, "0123456789ab")
    assert len(report.data["reasons"]) == 30


def test_a_report_that_is_too_long_leaves_none_not_the_one_before():
    area = bytearray(2048)
    filled().keep(area)
    filled(members=64).keep(area)
    assert Report.kept(area) is None


@pytest.mark.parametrize("size", [4, 11, 12, 100])
def test_a_small_area_keeps_nothing(size):
    area = bytearray(size)
    filled().keep(area)
    assert len(area) == size
    assert not any(area)


def test_an_area_of_garbage_holds_no_report():
    area = bytearray(2048)
    assert Report.kept(area) is None
    area[:4] = b"LBRP"
    for length in (0xFFFFFFFF, 2037, 2036, 10):
        struct.pack_into("<I", area, 4, length)
        assert Report.kept(area) is None


def test_every_flipped_bit_of_a_kept_report_is_noticed():
    area = bytearray(2048)
    report = filled()
    report.keep(area)
    for at in range(12 + len(json.dumps(report.data))):
        area[at] ^= 1 << at % 8
        assert Report.kept(area) is None
        area[at] ^= 1 << at % 8
    assert Report.kept(area)
