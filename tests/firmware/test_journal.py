"""The journal: what a power-on found and did stands in the region, and costs nothing without news.

It is read here by the page of the format alone.
"""

import math
import struct
import time
from binascii import crc32
from errno import EIO

import pytest

import lifeboat
from fakes import board as sim
from lifeboat import scrub
from lifeboat.blockdev import Scratch
from lifeboat.journal import Log, entries, record
from lifeboat.region import Region
from sim.disk import RamDisk
from sim.power import Power, PowerCut

PAGES = 4
GOOD = sim.image(seed=1, version="2.0")


def board_with(power=None, members=2, pages=PAGES, content=GOOD):
    return sim.SimBoard(bytearray(content), members=members, journal=pages, power=power)


def journal_at(disk, pages=PAGES):
    return disk.count * disk.size - 8192 - pages * 4096


def pages_of(disk, pages=PAGES):
    """The pages that count: page number -> (serial, list of raw entries)."""
    found = {}
    for i in range(pages):
        page = sim.get(disk, journal_at(disk, pages) + 4096 * i, 4096)
        if page[:8] != b"LBJOURNL" or struct.unpack("<I", page[4092:])[0] != crc32(page[:4092]):
            continue
        major, minor, size, serial, region, count = struct.unpack_from("<BBHI16sI", page, 8)
        assert (major, minor, size) == (1, 2, 64) and 1 <= count <= 62
        assert page[36:64] == bytes(28) and not any(page[64 + 64 * count : 4092])
        found[i] = serial, [page[64 + 64 * n : 128 + 64 * n] for n in range(count)]
    return found


def journal(disk, pages=PAGES):
    """All entries in order, as tuples of format.md section 5."""
    entries = {}
    for _, raws in pages_of(disk, pages).values():
        numbers = [struct.unpack_from("<I", raw)[0] for raw in raws]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
        for number, raw in zip(numbers, raws):
            assert entries.setdefault(number, raw) == raw
    out = []
    for number in sorted(entries):
        fields = struct.unpack("<IIIIB11s16s12sII", entries[number])
        texts = tuple(field.rstrip(b"\0").decode() for field in fields[5:8])
        out.append(fields[:5] + texts + fields[8:])
    return out


def stories(disk, **kwargs):
    """(session, event, code, where, first, count) of all entries."""
    return [(e[1],) + e[5:] for e in journal(disk, **kwargs)]


def test_the_first_power_on_tells_of_the_backup():
    board = board_with()
    lifeboat.power_on(board)
    for i, disk in enumerate(board.drives):
        told = stories(disk)
        assert told[0] == (1, "power-on", "RUN", "2.0", 0, 0)
        assert told[1:] == [(1, "created", "", "disk%d" % k, 1, 6) for k in (0, 1)]
        assert [e[0] for e in journal(disk)] == [1, 2, 3]
        assert all(e[4] == 0 for e in journal(disk))
        region_id = bytes([i + 1] * 16)
        assert sim.get(disk, journal_at(disk), 512)[16:32] == region_id


def test_a_healthy_power_on_writes_nothing():
    board = board_with()
    lifeboat.power_on(board)
    before = [dict(disk.sectors) for disk in board.drives]
    report = lifeboat.power_on(board)
    assert report.verdict == "RUN" and report.data["disk_writes"] == 0
    assert [disk.sectors for disk in board.drives] == before
    assert "session" not in report.data


@pytest.mark.usefixtures("no_parity")
def test_damage_repair_and_loss_are_told():
    board = board_with()
    lifeboat.power_on(board)
    board.nor.data[2 * sim.ERASE] ^= 1
    board.nor.data[3 * sim.ERASE] ^= 1
    report = lifeboat.power_on(board)
    assert report.data["session"] == 2
    assert stories(board.drives[1])[3:] == [
        (2, "power-on", "RUN", "2.0", 0, 0),
        (2, "found", "", "flash", 2, 2),
        (2, "repaired", "", "disk0", 2, 2),
    ]
    for disk in board.drives:
        region = disk.count * disk.size - sim.region_size(sim.SLOT, 2, PAGES)
        for slot in (0, 1):
            at = region + 4096 + slot * sim.SLOT
            sim.put(disk, at + 69632 + 4 * sim.ERASE, b"rotten" + bytes(506))
    board.nor.data[4 * sim.ERASE] ^= 1
    assert lifeboat.power_on(board).verdict == "RESCUE"
    told = [story[1:] for story in stories(board.drives[0]) if story[0] == 3]
    assert ("power-on", "RESCUE", "2.0", 0, 0) in told
    assert ("found", "", "flash", 4, 1) in told and ("lost", "", "flash", 4, 1) in told
    assert ("reason", "block-lost", "flash", 0, 0) in told


def test_a_lasting_condition_is_told_once():
    board = board_with()
    lifeboat.power_on(board)
    board.drives = board.drives[:1]
    assert lifeboat.power_on(board).data["disk_writes"] == 1
    assert stories(board.drives[0])[-1][:3] == (2, "reason", "member-missing")
    before = dict(board.drives[0].sectors)
    for _ in range(3):
        report = lifeboat.power_on(board)
        assert report.data["disk_writes"] == 0
    assert board.drives[0].sectors == before


def test_sessions_count_alike_on_all_members():
    board = board_with()
    lifeboat.power_on(board)
    both, board.drives = board.drives, board.drives[:1]
    lifeboat.power_on(board)
    board.drives = both
    board.nor.data[0] ^= 1
    lifeboat.power_on(board)
    assert {s[0] for s in stories(both[0])} == {1, 2, 3}
    assert {s[0] for s in stories(both[1])} == {1, 3}
    assert [e[0] for e in journal(both[1])] == list(range(1, 7))


def test_the_disks_own_count_of_power_cycles_is_kept():
    board = board_with()
    board.drives[0].power_cycles = lambda: 17
    lifeboat.power_on(board)
    assert stories(board.drives[0])[0] == (1, "power-on", "RUN", "2.0", 17, 0)
    assert stories(board.drives[1])[0][4] == 0


def test_the_ring_goes_round():
    board = board_with()
    lifeboat.power_on(board)
    writes = 0
    for i in range(90):
        board.nor.data[i % 6 * sim.ERASE] ^= 1
        lifeboat.power_on(board)
        writes += 1
    told = stories(board.drives[0])
    assert told[-1] == (91, "repaired", "", "disk0", 89 % 6, 1)
    # Two pairs: the full one and the present one; nothing in between is missing.
    numbers = [e[0] for e in journal(board.drives[0])]
    assert numbers == list(range(numbers[0], numbers[-1] + 1))
    assert 62 <= len(numbers) <= 2 * 62 and numbers[-1] == 3 + 3 * writes
    assert sorted(pages_of(board.drives[0])) == [0, 1, 2, 3]


def test_more_entries_than_a_page_holds_go_into_several():
    board = board_with(members=1, content=sim.image(seed=1, blocks=100, total=110))
    lifeboat.power_on(board)
    for i in range(0, 100, 2):
        board.nor.data[i * sim.ERASE] ^= 1
    lifeboat.power_on(board)
    told = [story for story in stories(board.drives[0]) if story[0] == 2]
    assert told[1:] == [(2, "found", "", "flash", i, 1) for i in range(0, 100, 2)] + [
        (2, "repaired", "", "disk0", i, 1) for i in range(0, 100, 2)
    ]


@pytest.mark.parametrize("torn", [False, True], ids=["before", "torn"])
@pytest.mark.parametrize("keep", ["none", "all", "last", "random"])
def test_a_power_cut_costs_at_most_what_was_being_written(sweep, torn, keep):
    def prepared(power=None):
        board = board_with()
        lifeboat.power_on(board)
        board.nor.data[0] ^= 1
        lifeboat.power_on(board)
        board.nor.data[sim.ERASE] ^= 1
        board.supply(power or Power())
        return board

    whole = prepared()
    lifeboat.power_on(whole)
    operations = whole.power.count
    assert operations == 6  # erase, program, and a write and a flush on each disk
    for cut in sweep.cuts(range(1, operations + 1)):
        board = prepared(Power(cut, torn))
        sweep.shows(flash=board.nor, disk0=board.drives[0], disk1=board.drives[1])
        before = [journal(disk) for disk in board.drives]
        with pytest.raises(PowerCut):
            lifeboat.power_on(board)
        for disk, old in zip(board.drives, before):
            disk.settle(keep, cut)
            assert journal(disk)[: len(old)] == old, cut
        board.supply(Power())
        assert lifeboat.power_on(board).verdict == "RUN"
        for disk, old in zip(board.drives, before):
            assert journal(disk)[: len(old)] == old, cut


@pytest.mark.parametrize("seed", range(60))
def test_garbage_in_the_journal_does_no_harm(seed):
    board = board_with()
    lifeboat.power_on(board)
    rng = sim.Rng(seed)
    for disk in board.drives:
        for page in range(PAGES):
            raw = bytearray(sim.get(disk, journal_at(disk) + 4096 * page, 4096))
            if seed % 3 == 0 or not any(raw):
                raw[:] = rng.bytes(4096)
                raw[:8] = b"LBJOURNL"
            for _ in range(4):
                at = rng.below(128)
                raw[at : at + 4] = rng.choice((rng.bytes(4), b"\xff" * 4, bytes(4)))
            struct.pack_into("<I", raw, 4092, crc32(raw[:4092]))
            sim.put(disk, journal_at(disk) + 4096 * page, bytes(raw))
    slots = [sim.get(d, 0, journal_at(d)) for d in board.drives]
    board.nor.data[0] ^= 1
    report = lifeboat.power_on(board)
    assert report.verdict == "RUN"
    assert "internal" not in [code for code, _, _ in report.data["reasons"]]
    assert bytes(board.nor.data) == GOOD
    assert [sim.get(d, 0, journal_at(d)) for d in board.drives] == slots


def forge(disk, offset, value):
    """Change a field of the newest page."""
    at = max((serial, i) for i, (serial, _) in pages_of(disk).items())[1]
    page = bytearray(sim.get(disk, journal_at(disk) + 4096 * at, 4096))
    struct.pack_into("<I", page, offset, value)
    struct.pack_into("<I", page, 4092, crc32(page[:4092]))
    sim.put(disk, journal_at(disk) + 4096 * at, bytes(page))


@pytest.mark.parametrize("value", [0xFFFFFFEF, 0xFFFFFFEE, 0xFF000000])
@pytest.mark.parametrize("what", ["serial", "number"])
def test_a_forged_page_does_not_silence_a_member(what, value):
    board = board_with()
    lifeboat.power_on(board)
    disk, other = board.drives
    forge(disk, 12 if what == "serial" else 64 * 3, value)
    for i in range(3):
        board.nor.data[i * sim.ERASE] ^= 1
        report = lifeboat.power_on(board)
        assert report.data["reasons"] == []
        assert stories(disk)[-1] == (2 + i, "repaired", "", "disk0", i, 1)
    assert stories(disk) == stories(other)[3:]
    assert [entry[0] for entry in journal(disk)] == list(range(1, 10))


def test_a_forged_session_does_not_end_the_counting():
    board = board_with()
    lifeboat.power_on(board)
    forge(board.drives[0], 64 * 3 + 4, 0xFFFFFFFF)
    for i in range(2):
        board.nor.data[i * sim.ERASE] ^= 1
        assert lifeboat.power_on(board).data["session"] == 1 + i
    for disk in board.drives:
        assert stories(disk)[-1] == (2, "repaired", "", "disk0", 1, 1)


def test_a_disk_that_leaves_the_buffer_alone_is_found_out():
    """The page that was written, still in memory, is not taken for what the disk holds."""
    board = board_with(members=1)
    lifeboat.power_on(board)
    board.nor.data[0] ^= 1
    disk = board.drives[0]
    read, writes = disk.readblocks, disk.writes

    def readblocks(lba, buf, *args):
        if disk.writes == writes or lba < journal_at(disk) // 512:
            read(lba, buf, *args)

    disk.readblocks = readblocks
    disk.lose = range(journal_at(disk) // 512, disk.count)
    report = lifeboat.power_on(board)
    assert ["disk-lies", "disk0", "journal"] in report.data["reasons"]


def test_a_disk_that_drops_the_journals_writes_is_found_out():
    board = board_with(members=1)
    lifeboat.power_on(board)
    board.nor.data[0] ^= 1
    disk = board.drives[0]
    disk.writeblocks = lambda *args: None
    report = lifeboat.power_on(board)
    assert report.verdict == "RUN"
    assert ["disk-lies", "disk0", "journal"] in report.data["reasons"]


def test_a_region_without_a_journal_gets_none():
    board = board_with(pages=0)
    lifeboat.power_on(board)
    board.nor.data[0] ^= 1
    report = lifeboat.power_on(board)
    assert report.verdict == "RUN" and report.data["disk_writes"] == 0


@pytest.mark.parametrize(
    "offset, pages",
    [(0, 4), (4096, 4), (1, 4), (1 << 63, 4), (None, 3), (None, 6), (None, 0xFFFFFFFE)],
)
def test_a_journal_in_an_impossible_place_is_not_there(offset, pages):
    board = board_with(members=1)
    disk = board.drives[0]
    size = sim.region_size(sim.SLOT, 2, PAGES)
    start = disk.count * disk.size - size
    unit = bytearray(sim.get(disk, start, 4096))
    if offset is not None:
        struct.pack_into("<Q", unit, 80, offset)
    struct.pack_into("<I", unit, 88, pages)
    struct.pack_into("<I", unit, 508, crc32(unit[:508]))
    for at in (0, size - 8192, size - 4096):
        sim.put(disk, start + at, bytes(unit))
    report = lifeboat.power_on(board)
    assert report.verdict == "RUN" and report.data["members"][0]["state"] == "created"
    assert not any(sim.get(disk, journal_at(disk), 4 * 4096))


def test_a_journal_without_end_is_not_there():
    board = board_with(members=1)
    disk = board.drives[0]
    size = sim.region_size(sim.SLOT, 2, PAGES)
    start = disk.count * disk.size - size
    disk.count += 8 * 2048  # room for what the header claims
    unit = bytearray(sim.get(disk, start, 4096))
    struct.pack_into("<Q", unit, 56, (size + 2048 * 4096) // 512)
    struct.pack_into("<I", unit, 88, 1026)
    struct.pack_into("<I", unit, 508, crc32(unit[:508]))
    for at in (0, size + 2048 * 4096 - 8192, size + 2048 * 4096 - 4096):
        sim.put(disk, start + at, bytes(unit))
    lifeboat.power_on(board)
    board.nor.data[0] ^= 1
    reads = disk.reads
    assert lifeboat.power_on(board).data["repaired"]
    assert disk.reads - reads < 100


def test_a_failed_write_costs_nothing_that_was_told():
    board = board_with(members=1)
    lifeboat.power_on(board)
    disk = board.drives[0]
    for i in range(4):
        board.nor.data[i * sim.ERASE] ^= 1
        lifeboat.power_on(board)
    before = journal(disk)
    first = journal_at(disk) // 512
    board.nor.data[0] ^= 1
    disk.fault = lambda op, lba, n: EIO if op == "write" and lba >= first else None
    lifeboat.power_on(board)
    disk.fault = None
    assert journal(disk) == before
    board.nor.data[0] ^= 1
    lifeboat.power_on(board)
    told = journal(disk)
    assert told[: len(before)] == before
    assert [entry[0] for entry in told] == list(range(1, len(told) + 1))


def test_a_page_that_can_not_be_read_does_not_count():
    board = board_with(members=1)
    lifeboat.power_on(board)
    disk = board.drives[0]
    bad = journal_at(disk) // 512 + 16  # the third page
    disk.fault = lambda op, lba, n: EIO if op == "read" and lba <= bad < lba + n else None
    board.nor.data[0] ^= 1
    report = lifeboat.power_on(board)
    assert report.data["reasons"] == []
    assert stories(disk)[-1] == (2, "repaired", "", "disk0", 0, 1)


def test_a_journal_that_can_not_be_read_costs_few_commands():
    """I6: each of them may take almost as long as the driver waits."""
    pages = 64
    board = board_with(pages=pages)
    lifeboat.power_on(board)
    disk, other = board.drives
    first = journal_at(disk, pages) // 512
    tried = []

    def fault(op, lba, count):
        if op == "read" and first <= lba < first + pages * 8:
            tried.append(lba)
            return EIO

    disk.fault = fault
    board.nor.data[0] ^= 1
    report = lifeboat.power_on(board)
    assert len(tried) == 4
    assert ["disk-failed", "disk0", "journal"] in report.data["reasons"]
    assert report.data["members"][0]["state"] == "level"
    assert stories(other, pages=pages)[-1] == (2, "repaired", "", "disk0", 0, 1)


def test_a_loss_in_many_places_is_told_once():
    board = board_with(members=1, content=sim.image(seed=1, blocks=100, total=110))
    lifeboat.power_on(board)
    disk = board.drives[0]
    disk.sectors = {
        lba: data for lba, data in disk.sectors.items() if lba * 512 >= journal_at(disk)
    }
    size = sim.region_size(sim.slot_size(110), 2, PAGES)
    sim.make_region(
        disk, disk.count - size // 512, slot=sim.slot_size(110), size=size, journal=PAGES
    )
    for i in range(0, 100, 2):
        board.nor.data[i * sim.ERASE] ^= 1
    assert lifeboat.power_on(board).verdict == "RESCUE"
    for _ in range(3):
        assert lifeboat.power_on(board).data["disk_writes"] == 0


def test_scrubbing_in_between_does_not_make_a_lasting_condition_new():
    board = board_with()
    lifeboat.power_on(board)
    board.drives = board.drives[:1]
    assert lifeboat.power_on(board).data["disk_writes"] == 1
    for _ in range(3):
        report = lifeboat.power_on(board)
        assert report.data["disk_writes"] == 0
        scrubber = scrub.Scrubber(board, policy=scrub.REPORT)
        board.nor.data[0] ^= 1
        while "operation" not in report.data or scrubber._patrol.findings.news:
            scrubber.step(1)
        board.nor.data[0] ^= 1


# The module by itself: members and a report by hand


class Findings:
    """A report as record() and Log need it."""

    def __init__(self, *events, verdict="RUN"):
        self.events = list(events)
        self.data = {"verdict": verdict, "version": "2.0"}
        self.reasons = []

    def reason(self, code, where="", detail=""):
        self.reasons.append((code, where))


class Disk(RamDisk):
    def power_cycles(self):
        return 0


class Member:
    """A member with a region of so many journal pages and no slots that matter."""

    def __init__(self, pages=PAGES, name="disk0", **bits):
        size = sim.region_size(sim.SLOT, 2, pages)
        self.disk = Disk(name, 8 + size // 512)
        unit = bytearray(sim.header(self.disk, 8, size=size, journal=pages))
        struct.pack_into("<I", unit, 96, bits.get("ro_compat", 0))
        struct.pack_into("<I", unit, 508, crc32(unit[:508]))
        for at in (0, size - 8192, size - 4096):
            sim.put(self.disk, 8 * 512 + at, bytes(unit))
        self.region = Region(self.disk, unit)
        self.pages = pages
        self.name = name
        self.writable = True
        self.unit = Scratch(4096)
        self.errors = []
        self.disk.reads = 0

    def io_error(self, error):
        self.errors.append(error.errno)

    @property
    def at(self):
        """Where the journal begins on the disk, in bytes."""
        return journal_at(self.disk, self.pages)

    def put(self, page, raw):
        sim.put(self.disk, self.at + 4096 * page, bytes(raw))

    def told(self):
        return [entry[5:] for entry in journal(self.disk, self.pages)]


def entry(number, event, code="", where="", first=0, count=0, session=1, phase=0):
    return struct.pack(
        "<IIIIB11s16s12sII", number, session, 0, 0, phase, event.encode(), code.encode(),
        where.encode(), first, count,
    )  # fmt: skip


def page_of(serial, *entries, major=1, minor=2, size=64, incompat=0, ro_compat=0, region=1):
    raw = b"LBJOURNL" + struct.pack("<BBHI", major, minor, size, serial) + bytes([region]) * 16
    raw += struct.pack("<III", len(entries), incompat, ro_compat) + bytes(20) + b"".join(entries)
    raw = raw.ljust(4092, b"\0")
    return raw + struct.pack("<I", crc32(raw))


LASTING = ("reason", "member-missing", "member 2/2", 0, 0)


def lasting(number):
    return (
        entry(number, "power-on", "RUN", "2.0"),
        entry(number + 1, "reason", "member-missing", "member 2/2"),
    )


def ring(member, newest, rounds=1):
    """Fill a journal so that the last one of the ring to be written was pair newest.

    Its second page holds the lasting condition; rounds: 0 leaves the pairs behind it blank.
    """
    pairs = member.pages // 2
    for age in range(pairs if rounds else newest + 1):
        pair = (newest - age) % pairs
        serial = 10000 - 2 * age
        for i in (0, 1):
            entries = lasting(serial + 100) if not age and i else (entry(serial + i, "found"),)
            member.put(2 * pair + i, page_of(serial + i, *entries))


def test_events_are_told_in_their_order():
    member, other = Member(), Member(name="disk1")
    events = [
        ("reason", "memory-lost", "", 0, 0), ("found", "", "flash", 2, 3),
        ("lost", "", "flash", 4, 1), ("repaired", "", "disk0", 2, 2),
        ("created", "", "disk1", 7, 6), ("mended", "", "disk0", 0, 0),
        ("changed", "x", "app", 1, 2),
    ]  # fmt: skip
    report = Findings(*events, verdict="RESCUE")
    record([member, other], report)
    for told in (member.told(), other.told()):
        assert told == [("power-on", "RESCUE", "2.0", 0, 0), *events]
    assert report.data["session"] == 1 and report.reasons == []


def test_without_events_nothing_is_read_or_written():
    member = Member()
    record([member], Findings())
    assert member.disk.reads == member.disk.writes == 0


@pytest.mark.parametrize(
    "event",
    [
        ("repaired", "", "disk0", 1, 1),
        ("created", "", "disk0", 1, 6),
        ("mended", "", "disk0", 0, 0),
        ("changed", "repair", "app", 1, 1),
        ("reason", "adopted", "", 0, 0),
        ("adopted", "", "", 0, 0),
    ],
    ids=lambda e: e[0] + e[1],
)
def test_what_was_done_is_told_whenever_it_happens(event):
    member = Member()
    for i in range(3):
        record([member], Findings(LASTING, event))
        assert len(member.told()) == 3 * (i + 1)


def test_another_verdict_or_another_finding_is_news():
    member = Member()
    found = "found", "", "flash", 1, 1
    for report in (
        Findings(LASTING), Findings(LASTING, verdict="RESCUE"), Findings(LASTING),
        Findings(LASTING, found), Findings(found, LASTING),
    ):  # fmt: skip
        before = len(member.told())
        record([member], report)
        assert len(member.told()) > before
        writes = member.disk.writes
        report.data.pop("session")
        record([member], report)
        assert member.disk.writes == writes


@pytest.mark.parametrize("pages", [2, 4, 6, 10, 32, 34, 64, 1024])
def test_a_lasting_condition_costs_few_reads(pages):
    """Settled: at most 2 * log2(N) + 4 pages of each member."""
    most = 2 * math.log2(pages) + 4
    pairs = pages // 2
    for newest in {0, 1 % pairs, pairs // 2, pairs - 1, (pairs - 2) % pairs, pairs * 2 // 3}:
        for rounds in (0, 1):
            member = Member(pages)
            ring(member, newest, rounds)
            record([member], Findings(LASTING))
            assert member.disk.writes == 0, (newest, rounds)
            assert member.disk.reads <= most, (newest, rounds)


def test_a_lasting_condition_in_the_first_page_of_a_pair_is_found():
    member = Member(32)
    for pair in range(16):
        for i in (0, 1):
            serial = 100 + 2 * pair + i
            member.put(2 * pair + i, page_of(serial, entry(serial, "found")))
    member.put(6, page_of(200, *lasting(500)))  # the ring goes round: older ones follow
    for page in range(6):
        member.put(page, page_of(180 + page, entry(300 + page, "found")))
    record([member], Findings(LASTING))
    assert member.disk.writes == 0 and member.disk.reads <= 14


@pytest.mark.parametrize("seed", range(40))
def test_damaged_pages_make_it_be_told_once_more_at_most(seed):
    rng = sim.Rng(seed)
    member = Member(32)
    ring(member, rng.below(16), rng.below(2))
    for _ in range(1 + rng.below(8)):
        pair = rng.below(16)
        for page in (2 * pair, 2 * pair + rng.below(2)):
            member.put(page, rng.bytes(4096))
    record([member], Findings(LASTING))
    assert member.disk.writes <= 1
    writes = member.disk.writes
    for _ in range(3):
        record([member], Findings(LASTING))
    assert member.disk.writes == writes


@pytest.mark.parametrize("seed", range(20))
def test_forged_serials_cost_reads_but_no_writes(seed):
    """The search, then each page once, and the newest one again."""
    rng = sim.Rng(seed)
    member = Member(32)
    for page in range(32):
        serial = 1 + rng.below(0xFE000000)
        member.put(page, page_of(serial, entry(1 + rng.below(1000), "found")))
    record([member], Findings(LASTING))
    writes = member.disk.writes
    assert writes <= 1
    for _ in range(3):
        member.disk.reads = 0
        record([member], Findings(LASTING))
        assert member.disk.reads <= 14 + 32 + 1
    assert member.disk.writes == writes


def test_unreadable_pages_are_few_also_when_they_are_searched():
    member = Member(64)
    ring(member, 20)
    tried = []

    def fault(op, lba, count):
        if op == "read" and lba >= member.at // 512:
            tried.append(lba)
            return EIO

    member.disk.fault = fault
    record([member], Findings(LASTING))
    assert len(tried) == 4 and member.errors == [EIO] and member.disk.writes == 0


@pytest.mark.parametrize(
    "newer",
    [{"major": 2}, {"major": 0}, {"incompat": 1}, {"incompat": 1 << 31}, {"ro_compat": 1},
     {"ro_compat": 1 << 31, "minor": 0}, {"major": 2, "region": 9}],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("page", [0, 3])
def test_a_journal_of_a_newer_version_is_not_added_to(newer, page):
    member, other = Member(), Member(name="disk1")
    member.put(1, page_of(5, entry(9, "found")))
    member.put(page, page_of(7, entry(10, "lost"), **newer))
    before = dict(member.disk.sectors)
    report = Findings(("repaired", "", "disk1", 1, 1))
    record([member, other], report)
    assert member.disk.sectors == before and member.disk.writes == 0
    assert report.reasons == [("journal-version", "disk0")]
    assert len(other.told()) == 2 and member.errors == []
    log = Log([member, other], report)
    assert list(log.tell([("found", "", "flash", 1, 1)]))
    assert member.disk.sectors == before and len(other.told()) == 3


@pytest.mark.parametrize(
    "page, counts",
    [({}, True), ({"minor": 9}, True), ({"ro_compat": 1}, True), ({"major": 2}, False),
     ({"incompat": 1}, False), ({"size": 63}, False), ({"region": 2}, False)],
    ids=str,
)  # fmt: skip
def test_which_pages_count_for_a_reader(page, counts):
    member = Member()
    member.put(2, page_of(5, entry(9, "found"), **page))
    found = entries(member.region, bytearray(4096))
    assert [e[0] for e in found] == ([9] if counts else [])


def test_a_damaged_newer_page_is_damage():
    member = Member()
    raw = bytearray(page_of(5, entry(9, "found"), major=2))
    raw[100] ^= 1
    member.put(0, raw)
    report = Findings(("repaired", "", "disk1", 1, 1))
    record([member], report)
    assert report.reasons == [] and len(member.told()) == 2


@pytest.mark.parametrize(
    "serials, wins", [((5, 6), "lost"), ((6, 5), "found"), ((5, 5), "lost")], ids=str
)
def test_of_two_entries_with_one_number_the_newer_page_counts(serials, wins):
    member = Member()
    for page, (serial, event) in enumerate(zip(serials, ("found", "lost"))):
        member.put(page, page_of(serial, entry(4, event), entry(5 + page, "reason")))
    found = entries(member.region, bytearray(4096))
    assert [(e[0], e[5].rstrip(b"\0").decode()) for e in found] == [
        (4, wins), (5, "reason"), (6, "reason"),
    ]  # fmt: skip


def test_the_order_of_entries_is_that_of_their_numbers_not_of_sessions():
    member = Member()
    member.put(0, page_of(1, entry(1, "a", session=0xFFFFFFFF), entry(2, "b", session=1)))
    assert [e[1] for e in entries(member.region, bytearray(4096))] == [0xFFFFFFFF, 1]


@pytest.mark.parametrize("uptime_s", [None, 0, 1, 1073741, 1073742, 0xFFFFFFFF, 1 << 33])
def test_the_uptime_is_in_seconds_where_milliseconds_wrap(uptime_s, monkeypatch):
    monkeypatch.setattr(time, "ticks_ms", lambda: (1 << 30) + 77, raising=False)
    member = Member()
    for _ in Log([member], Findings()).tell([("found", "", "flash", 1, 1)], uptime_s):
        pass
    for told in journal(member.disk):
        if uptime_s and uptime_s * 1000 >= 1 << 30:
            assert told[3] == uptime_s & 0xFFFFFFFF
            assert told[4] == (2 if told[5] == "power-on" else 3)
        else:
            assert told[3] == 77 and told[4] == (0 if told[5] == "power-on" else 1)
    assert len(journal(member.disk)) == 2


@pytest.mark.parametrize("why", ["read-only", "not-writable", "no-journal"])
def test_members_that_may_not_be_written_are_left_alone(why):
    member = Member(0 if why == "no-journal" else PAGES, ro_compat=why == "read-only")
    member.writable = why != "not-writable"
    before = dict(member.disk.sectors)
    record([member], Findings(("repaired", "", "disk1", 1, 1)))
    assert member.disk.sectors == before
    assert member.disk.reads == member.disk.writes == 0 and member.errors == []


def test_findings_of_the_operation_have_a_report():
    class Operation:
        report = Findings()
        told = []

        def reason(self, *entry):
            self.told.append(entry)

    member, broken = Member(), Member(name="disk1")
    broken.put(0, page_of(1, entry(1, "found"), major=3))
    operation = Operation()
    for _ in Log([member, broken], operation).tell([("found", "", "flash", 1, 1)]):
        pass
    assert operation.told == [("journal-version", "disk1", "")]
    assert operation.report.data["session"] == 1
