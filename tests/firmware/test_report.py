"""The report: one line for machines, words for people, and RAM that survives a soft reset."""

import json
import struct
import zlib

import machine
import pytest

import lifeboat
from fakes import board as sim
from lifeboat.manifest import Manifest
from lifeboat.operation import Findings, Operation
from lifeboat.report import RESCUE, RUN, RUN_DEGRADED, Report

# format.md section 4; `session` and `operation` come when there is something to tell.
TEXTS = {"product", "version", "build", "build_id", "set"}  # or null
LISTS = {"reasons", "bad", "repaired", "lost", "members"}
NUMBERS = {"report", "blocks", "erases", "disk_writes"}
WORDS = {"verdict", "trust", "console", "manifest", "memory"}
KEYS = TEXTS | LISTS | NUMBERS | WORDS | {"ms"}

RAW = sim.manifest(sim.noise(1, 6 * sim.ERASE), version="2.0")
BUILD_ID = sim.build_id(RAW).hex()


def said(report, capsys):
    report.show()
    return capsys.readouterr().out.splitlines()


def test_nothing_is_promised_before_the_verdict():
    report = Report()
    assert report.verdict == RESCUE and not report.runs
    assert set(report.data) == KEYS and report.events == []
    data = report.data
    assert data["report"] == 2 and data["trust"] == "unsigned" and data["ms"] == {}
    assert data["console"] == "open"
    assert (data["manifest"], data["memory"]) == ("bad", "none")
    assert all(data[key] is None for key in TEXTS) and all(data[key] == [] for key in LISTS)


@pytest.mark.parametrize("verdict, may_run", [(RUN, True), (RUN_DEGRADED, True), (RESCUE, False)])
def test_what_may_run(verdict, may_run):
    report = Report()
    report.judge(verdict)
    assert (report.verdict, report.runs) == (verdict, may_run)
    assert report.data["verdict"] == verdict


def test_whose_code_it_is_about_is_told_by_the_whole_build_id():
    report = Report()
    report.describe(Manifest(RAW))
    want = {
        "product": "sim", "version": "2.0", "build": BUILD_ID[:12], "build_id": BUILD_ID,
        "blocks": 6,
    }  # fmt: skip
    assert {key: report.data[key] for key in want} == want
    assert report.build_id == Manifest(RAW).build.hex()


@pytest.mark.parametrize("at", [0, 6, 31])
def test_a_build_that_differs_in_one_byte_is_another_one(at):
    report, manifest = Report(), Manifest(RAW)
    report.describe(manifest)
    changed = bytearray(manifest.build)
    changed[at] ^= 1
    manifest.build = bytes(changed)
    assert report.build_id != manifest.build.hex()
    assert Report().build_id is None


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
    assert report.events[-2:] == [
        ("reason", "block-lost", "flash", 0, 0), ("reason", "backup-none", "", 0, 0),
    ]  # fmt: skip


def test_repaired_blocks_are_ranges_per_disk():
    report = Report()
    for block, disk in ((1, "a"), (2, "a"), (3, "b"), (4, "b"), (6, "b")):
        report.repaired(block, disk)
    assert report.data["repaired"] == [[1, 2, "a"], [3, 2, "b"], [6, 1, "b"]]


# What the journal is told


def test_findings_are_told_once_in_the_order_in_which_they_were_made():
    report = Report()
    report.reason("disk-failed", "sata0", "5")
    report.found(3, 2)
    report.reason("disk-failed", "sata0", "5")
    for block in (3, 4):
        report.repaired(block, "sata1")
    report.lost(7, 1)
    report.tell("created", "", "sata1", 9, 64)
    report.missing(1, 3)
    assert report.events == [
        ("reason", "disk-failed", "sata0", 0, 0),
        ("found", "", "flash", 3, 2),
        ("repaired", "", "sata1", 3, 2),
        ("lost", "", "flash", 7, 1),
        ("created", "", "sata1", 9, 64),
        ("reason", "member-missing", "member 2/3", 0, 0),
    ]
    assert report.data["bad"] == [[3, 2]] and report.data["lost"] == [[7, 1]]
    assert report.data["members"] == [{"disk": None, "state": "missing", "generation": None}]


def test_who_forgets_findings_takes_them_all():
    findings = Findings()
    findings.reason("internal")
    findings.reason("disk-failed", "sata0", 5)
    findings.lost(0, 1)
    findings.repaired(0, "sata0")
    findings.missing(0, 1)


# Bounds: a manifest may have more than a thousand blocks, and the heap 48 KB


def covered(found):
    return {block for r in found for block in range(r[0], r[0] + r[1])}


@pytest.mark.parametrize("blocks", [range(2000), range(0, 2000, 2), range(1999, 0, -3)], ids=str)
def test_the_lists_of_blocks_have_a_limit_and_leave_no_block_out(blocks):
    report = Report()
    for block in blocks:
        report.found(block, 1)
        report.lost(block, 1)
        report.repaired(block, "sata0")
    for key in ("bad", "lost", "repaired"):
        assert len(report.data[key]) <= 32, key
        assert covered(report.data[key]) >= set(blocks), key
        assert covered(report.data[key]) <= set(range(min(blocks), max(blocks) + 1))
    assert len(report.events) <= 200


def test_many_disks_in_turn_do_not_fill_the_heap_either():
    report = Report()
    for block in range(2000):
        report.repaired(block, "sata%d" % (block % 6))
    assert len(report.data["repaired"]) <= 32 and len(report.events) <= 200


def test_the_reasons_have_a_limit_for_the_flash_too():
    report = Report()
    for i in range(1000):
        report.reason("commit-crc", "sata%d" % (i % 6), "slot %d" % i)
        report.reason("flash-verify", "flash", str(i))
    assert len(report.data["reasons"]) <= 64 and len(report.events) <= 200
    assert sum(where == "flash" for _, where, _ in report.data["reasons"]) >= 16


@pytest.mark.parametrize("step", [1, 2])
def test_damage_all_over_the_flash_does_not_keep_the_journal_from_its_end(step):
    """What became of it counts more than each block's number."""
    report = Report()
    blocks = range(0, 1000, step)
    for block in blocks:
        report.found(block, 1)
    for block in blocks[:-1]:
        report.repaired(block, "sata0")
    report.lost(blocks[-1], 1)
    report.reason("block-lost", "flash")
    report.tell("created", "", "sata1", 2, 1000)
    told = {event[0] for event in report.events}
    assert told == {"found", "repaired", "lost", "reason", "created"}


def test_damaged_blocks_that_follow_each_other_are_one_event():
    """`first`, `count` of an entry are a range: a blank flash is not to fill the journal."""
    report = Report()
    for tell in (report.found, report.lost):
        for block in (*range(1000), 1007):
            tell(block, 1)
    for event in ("found", "lost"):
        told = [e for e in report.events if e[0] == event]
        assert covered(e[3:] for e in told) == {*range(1000), 1007}, event
    assert len(report.events) == 4


@pytest.mark.parametrize("text", ["x" * 65, "\u00e4" * 1000])
def test_texts_have_a_limit(text):
    report = Report()
    report.reason("disk-failed", text, text)
    assert report.data["reasons"] == [["disk-failed", text[:64], text[:64]]]


# An application may do with the report what it likes


@pytest.mark.parametrize("verdict", [RUN, RUN_DEGRADED, RESCUE])
def test_an_application_that_clears_the_report_changes_neither_verdict_nor_build(verdict):
    report = Report()
    report.describe(Manifest(RAW))
    report.judge(verdict)
    report.data.clear()
    assert report.verdict == verdict and report.runs == (verdict != RESCUE)
    assert report.build_id == Manifest(RAW).build.hex()
    Operation(report)._restore()
    assert set(report.data) == KEYS
    assert (report.data["verdict"], report.data["build_id"]) == (verdict, BUILD_ID)
    report.reason("disk-failed", "sata0")
    report.found(1, 1)
    report.show()


def test_an_application_that_claims_another_verdict_is_not_believed():
    report = Report()
    report.data.update(verdict=RUN, build_id=BUILD_ID)
    assert not report.runs and report.build_id != Manifest(RAW).build.hex()
    Operation(report)._restore()
    assert (report.data["verdict"], report.data["build_id"]) == (RESCUE, None)


def test_what_an_application_left_in_the_report_is_not_overwritten():
    report = Report()
    report.reason("disk-failed", "sata0")
    report.data["mine"] = 5
    del report.data["bad"]
    Operation(report)._restore()
    assert report.data["reasons"] == [["disk-failed", "sata0", ""]] and report.data["mine"] == 5
    assert report.data["bad"] == []


# RAM that survives a soft reset


def filled(reasons=0, members=1):
    report = Report()
    report.judge(RUN)
    report.data.update(product="p", version="v", build="0123456789ab", blocks=64)
    for i in range(reasons):
        report.reason("copy-bad", "sata%d" % i, "a long detail of which nobody knows why")
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


# Code that was running could write there, too: with a right CRC.


def written(text, size=2048):
    area = bytearray(size)
    area[: 12 + len(text)] = b"LBRP" + struct.pack("<II", len(text), zlib.crc32(text)) + text
    return area


def test_the_bytes_that_these_tests_write_are_a_report():
    data = filled(2).data
    assert Report.kept(written(json.dumps(data).encode())).data == data


@pytest.mark.parametrize("key", sorted(KEYS))
def test_a_kept_report_without_one_of_its_keys_is_none(key):
    data = filled().data
    del data[key]
    kept = Report.kept(written(json.dumps(data).encode()))
    # What is null before anything is known may also be absent; then it is told as null.
    assert kept is None or (key in TEXTS and kept.data.get(key) is None)


@pytest.mark.parametrize("key", sorted(KEYS))
def test_a_kept_report_with_another_type_under_a_key_is_none(key):
    others = {"text", 5, (), None}
    others -= {"text"} if key in TEXTS | WORDS else set()
    others -= {5} if key in NUMBERS else set()
    others -= {()} if key in LISTS else set()
    others -= {None} if key in TEXTS else set()
    assert len(others) >= 2
    for other in others:
        data = filled().data
        data[key] = other
        assert Report.kept(written(json.dumps(data).encode())) is None, (key, other)


@pytest.mark.parametrize("verdict", ["", "run", "RUN ", "YES", None, True])
def test_a_kept_report_with_a_verdict_that_does_not_exist_is_none(verdict):
    data = filled().data
    data["verdict"] = verdict
    assert Report.kept(written(json.dumps(data).encode())) is None


@pytest.mark.parametrize("key", sorted(LISTS))
def test_a_kept_report_with_elements_that_are_none_is_none_or_does_no_harm(key):
    """Whoever goes on with such lists, the scrubber for one, would stumble."""
    for element in (7, "text", [], [1], {}):
        data = filled().data
        data[key] = [element]
        kept = Report.kept(written(json.dumps(data).encode()))
        if kept:
            kept.found(9, 1)
            kept.lost(9, 1)
            kept.repaired(9, "sata0")
            kept.reason("disk-failed", "sata0")
            kept.show()


@pytest.mark.parametrize("text", [b"[]", b"null", b"5", b'"RUN"', b"{}", b'["verdict"]'], ids=repr)
def test_a_text_that_is_no_report_is_none(text):
    assert Report.kept(written(text)) is None


@pytest.mark.parametrize("text", [b"", b"{", b"\xff\xfe", b"[" * 1500, b'{"verdict": "RUN"}'])
def test_a_soft_reset_with_such_a_text_inspects_anew(text, monkeypatch, capsys):
    monkeypatch.setattr(machine, "reset_cause", lambda: machine.SOFT_RESET)
    board = sim.SimBoard(sim.image())
    assert lifeboat.power_on(board).verdict == RUN
    board.kept[:] = written(text)
    board.nor.data[5] ^= 1
    assert lifeboat.start(board).data["bad"] == [[0, 1]]
