"""S2: members and their states, which set is home, and disks that misbehave while asked."""

import struct
import zlib
from errno import EIO, ENODEV, ETIMEDOUT

import pytest

import lifeboat
from fakes import board as sim
from fakes import gpt, scenarios
from lifeboat import running
from lifeboat.checking import check, choose_own
from lifeboat.codeflash import CodeFlash
from lifeboat.manifest import Manifest
from lifeboat.members import OURS, survey
from lifeboat.report import Report
from lifeboat.trust import Trust
from sim import disk as disks
from sim.disk import RamDisk

NEW = sim.manifest(bytes(scenarios.NEW[: 6 * sim.ERASE]), version="2.0")
OLD = sim.manifest(bytes(scenarios.OLD[: 6 * sim.ERASE]), version="1.0")
S, X = b"S" * 16, b"X" * 16


@pytest.fixture(autouse=True)
def nowhere(monkeypatch):
    monkeypatch.setattr(running, "places", ())


def backed_up(members=2, image=None, set_id=S):
    """Return disks that hold a backup made by a power-on."""
    board = sim.SimBoard(bytearray(image or scenarios.NEW), members=members)
    for i, disk in enumerate(board.drives):
        sim.make_region(disk, member=i, members=members, set_id=set_id)
    board.remember(board.drives, set_id)
    assert lifeboat.power_on(board).verdict == "RUN"
    for disk in board.drives:
        disk.reads = disk.read_sectors = disk.writes = 0
        disk.written.clear()
    return board.drives


def known(*drives, set_id=S, builds=(NEW,), count=None):
    """Return the pages of a memory that knows a set, made of the regions at the ends of disks."""
    members = []
    for i, disk in enumerate(drives):
        start = disk.count - sim.REGION // disk.size
        head, tail = start * disk.size, disk.count * disk.size - 4096
        region_id = max(sim.get(disk, at, 512)[32:48] for at in (head, tail))  # one may be zeros
        members.append((region_id, start, sim.REGION // disk.size, disk.size, i, "disk%d" % i))
    pages = sim.set_records(set_id, members)
    if count is not None:
        payloads = [p[12:66] + struct.pack("<H", count) + p[68:252] for p in pages[:-1]]
        pages = [sim.record(1, 1 + i, p) for i, p in enumerate(payloads)]
        closing = set_id + struct.pack("<HHI", len(payloads), 0, zlib.crc32(b"".join(payloads)))
        pages.append(sim.record(2, 1 + len(payloads), closing))
    return pages + [sim.build_record(10 + i, raw) for i, raw in enumerate(builds)]


def run(drives, memory=None, adopt=None, lbas=()):
    """Return (members, report) after S2; memory: its pages, None: empty, "none": the board has
    none. report.clear: whether the own set is known."""
    board = sim.SimBoard(
        bytearray(scenarios.NEW), members=0, remembers=None if memory == "none" else "nothing"
    )
    if memory == "lost":
        board.chip.data[:] = sim.noise(7, len(board.chip.data))
    elif memory and memory != "none":
        board.chip.data[:] = sim.memory(memory)
    flash = CodeFlash(board.flash(), board.BLOCK_SIZE)
    trust = Trust(board, flash).recall()
    report = Report()
    members = survey(drives, lbas, report)
    report.clear = choose_own(members, trust, report, adopt)
    check(members, Manifest(NEW), trust)
    return members, report


def codes(report):
    return [code for code, _, _ in report.data["reasons"]]


def test_a_member_with_the_backup_is_level_and_no_block_of_it_is_read():
    drives = backed_up()
    members, report = run(drives, known(*drives))
    assert [m.state for m in members] == ["level", "level"] and codes(report) == []
    for disk in drives:
        # three header copies; whether a partition reaches into it: the MBR, two GPT headers; two
        # commit records, one piece of manifest
        assert disk.reads <= 3 + 3 + 2 + 1
        assert disk.read_sectors <= 3 + 6 * 8
        assert disk.writes == 0


def test_without_a_memory_each_slot_is_looked_at_and_one_more_manifest():
    drives = backed_up()
    members, report = run(drives)
    assert [m.state for m in members] == ["level", "level"] and codes(report) == []
    for disk in drives:
        # as above, the tail copy once more by which it was found, the two slots, a manifest
        assert disk.reads <= 9 + 1 + 2 + 1
        assert disk.writes == 0


def put_header(disk, member, members):
    """Give a region, with what it holds, another place in its set."""
    copies = scenarios.slot_of(disk, 0), scenarios.slot_of(disk, 1)
    units = [sim.get(disk, at, 4096) for at in copies]
    sim.make_region(disk, member=member, members=members)
    for at, unit in zip(copies, units):
        record = bytearray(unit[:512])
        record[16:32] = bytes([member + 1] * 16)
        record[508:] = zlib.crc32(record[:508]).to_bytes(4, "little")
        sim.put(disk, at, bytes(record) if record[0] else bytes(512))


def test_healthy_states():
    older, empty, none = backed_up(1, scenarios.OLD)[0], backed_up(1)[0], RamDisk("c", 900)
    sim.put(empty, scenarios.slot_of(empty, 0), bytes(512))
    put_header(empty, 1, 2)
    put_header(older, 0, 2)
    members, report = run([older, empty, none], known(older, empty))
    assert [m.state for m in members] == ["stale", "stale", "no-region"]
    assert members[0].generation == 1 and members[1].generation is None
    assert codes(report) == [] and report.clear


def test_a_damaged_manifest_in_the_newest_slot_is_no_backup():
    drives = backed_up()
    sim.put(drives[0], scenarios.slot_of(drives[0], 0) + 4096, b"x" * 512)
    assert [m.state for m in run(drives, known(*drives))[0]] == ["stale", "level"]


@pytest.mark.parametrize("field", [68, 72, 76], ids=["manifest_size", "block_size", "block_count"])
def test_a_record_with_other_sizes_than_its_manifest_is_no_backup(field):
    drives = backed_up()
    at = scenarios.slot_of(drives[0], 0)
    record = bytearray(sim.get(drives[0], at, 512))
    size = int.from_bytes(record[field : field + 4], "little")
    record[field : field + 4] = {68: size - 1, 72: 8192, 76: 1}[field].to_bytes(4, "little")
    if field == 72:
        record[76:80] = (1).to_bytes(4, "little")
    record[508:] = zlib.crc32(record[:508]).to_bytes(4, "little")
    sim.put(drives[0], at, record)
    members, _ = run(drives, known(*drives))
    assert [m.state for m in members] == ["stale", "level"]
    assert members[0].copies[0].commit is not None


# Disks that fail


@pytest.mark.parametrize(
    "fault, code",
    [(disks.dead, "disk-failed"), (disks.hung, "disk-timeout"), (disks.gone, "disk-failed")],
)
def test_a_failing_disk_is_named_and_the_others_are_used(fault, code):
    drives = backed_up()
    memory = known(*drives)
    drives[0].fault = fault
    members, report = run(drives, memory)
    assert [m.state for m in members] == ["failed", "level"]
    assert [code, "disk0"] in [r[:2] for r in report.data["reasons"]]


@pytest.mark.parametrize("errno", [ETIMEDOUT, ENODEV])
@pytest.mark.parametrize("after", range(9))
def test_a_disk_that_stops_answering_is_not_asked_again(errno, after):
    drives = backed_up(1)
    memory = known(*drives)
    asked = []

    def fault(op, lba, count):
        asked.append(op)
        return errno if len(asked) > after else None

    drives[0].fault = fault
    members, report = run(drives, memory)
    assert members[0].state == "failed" and len(asked) == after + 1
    assert not report.clear
    assert not members[0].readable and not members[0].writable


def unreadable(disk, offset):
    lba = offset // 512
    disk.fault = lambda op, at, n: EIO if op == "read" and at <= lba < at + n else None


def test_an_unreadable_commit_record_does_not_take_the_other_slot_out_of_use():
    drives = backed_up(1)
    memory = known(*drives)
    unreadable(drives[0], scenarios.slot_of(drives[0], 1))
    members, report = run(drives, memory)
    assert members[0].state == "level" and codes(report) == ["disk-failed"]


def test_an_unreadable_manifest_makes_a_stale_member_not_a_failed_one():
    drives = backed_up(1)
    memory = known(*drives)
    unreadable(drives[0], scenarios.slot_of(drives[0], 0) + 4096)
    members, report = run(drives, memory)
    assert members[0].state == "stale" and members[0].writable and codes(report) == ["disk-failed"]


def test_a_damaged_commit_record_is_told():
    drives = backed_up(1)
    memory = known(*drives)
    at = scenarios.slot_of(drives[0], 0)
    record = bytearray(sim.get(drives[0], at, 512))
    record[40] ^= 1
    sim.put(drives[0], at, record)
    members, report = run(drives, memory)
    assert members[0].state == "stale" and codes(report) == ["commit-crc"]


# Whose the disks are: a row for each state of memory and sets (I9, I10; settled.md 4, 8, 9)


def put_copy(disk, slot=0, image=scenarios.NEW, raw=NEW, generation=1, **changes):
    """Write a committed copy by format.md alone. changes: what its record claims."""
    at = scenarios.slot_of(disk, slot)
    n = (len(raw) - 180) // 36
    region_id = sim.get(disk, scenarios.region_of(disk), 512)[32:48]
    record = b"LBCOMMIT" + struct.pack("<BBHI", 1, 2, 512, slot) + region_id
    record += changes.get("build", sim.build_id(raw))
    record += struct.pack("<III", generation, len(raw), sim.ERASE) + struct.pack("<I", n)
    record += bytes(508 - len(record))
    sim.put(disk, at, record + struct.pack("<I", zlib.crc32(record)) + bytes(4096 - 512))
    sim.put(disk, at + 4096, raw.ljust(65536, b"\0"))
    sim.put(disk, at + 69632, bytes(image[: n * sim.ERASE]))


def disk(set_id=S, index=0, count=1, image=scenarios.NEW, raw=NEW):
    """A disk with a region at its end that holds a copy of an image, None: none."""
    one = RamDisk("disk", sim.REGION // 512 + 40)
    sim.make_region(one, member=index, members=count, set_id=set_id)
    if image:
        put_copy(one, image=image, raw=raw)
    return one


def empty(set_id=S, index=0, count=1):
    return disk(set_id, index, count, None)


def blank():
    return RamDisk("disk", 900)


def moved(one):
    """The same region, valid, but elsewhere on its disk."""
    other = RamDisk("disk", one.count + 80)
    first = one.count - sim.REGION // 512
    for lba, data in one.sectors.items():
        other.sectors[lba - first + other.count - sim.REGION // 512] = data
    raw = sim.get(one, first * 512, 512)
    index, count = struct.unpack_from("<HH", raw, 64)
    sim.make_region(other, member=index, members=count, set_id=raw[16:32])
    return other


def clone(one):
    other = RamDisk("disk", one.count)
    other.sectors = dict(one.sectors)
    return other


def claimed(one):
    """A partition of an MBR reaches into the region."""
    mbr = bytearray(512)
    mbr[446:462] = bytes([0, 0, 2, 0, 0x83, 0, 0, 0]) + struct.pack("<II", 8, one.count - 100)
    mbr[510:] = b"\x55\xaa"
    sim.put(one, 0, mbr)
    return one


def without(one, *copies):
    """Some header copies are zeros; 0: the head, 1 and 2: the tails."""
    start = scenarios.region_of(one)
    for i in copies:
        sim.put(one, (start, start + sim.REGION - 8192, start + sim.REGION - 4096)[i], bytes(4096))
    return one


def disagreeing(one):
    """The head says that the set has another id than the tails say."""
    start = scenarios.region_of(one)
    sim.put(one, start, sim.header(one, start // 512, set_id=X))
    return one


def of_others(one):
    """A slot holds what is no record."""
    sim.put(one, scenarios.slot_of(one, 1), b"a letter to my mother".ljust(512))
    return one


def dead(one):
    one.fault = disks.dead
    return one


OTHER = sim.manifest(sim.noise(5, 6 * sim.ERASE), product="another")

# what is so: the disks, what the memory knows, the set that a person named -> reach of each disk,
# whether the own set is known, the codes that are told
ROWS = {
    # The memory knows a set.
    "own": lambda: ([a := disk()], known(a), None, ["ours"], True, []),
    "own, two": lambda: (
        [a := disk(index=0, count=2), b := disk(index=1, count=2)],
        known(a, b), None, ["ours", "ours"], True, [],
    ),
    "own and a visitor": lambda: (
        [disk(X), a := disk()], known(a), None, ["foreign", "ours"], True, []
    ),
    "own empty, visitor with the code": lambda: (
        [disk(X), a := empty()], known(a), None, ["foreign", "ours"], True, []
    ),
    "own absent, another set": lambda: (
        [disk(X)], known(disk()), None, ["foreign"], False, ["set-other", "member-missing"]
    ),
    "own absent, no region": lambda: (
        [blank()], known(disk()), None, ["no-region"], False, ["member-missing"]
    ),
    "own absent, no disk": lambda: ([], known(disk()), None, [], False, ["member-missing"]),
    "own at another place": lambda: (
        [moved(a := disk())], known(a), None, ["new"], True, ["member-new", "member-missing"]
    ),
    "own set, unknown region": lambda: (
        [a := disk(), disk(index=1, count=2)], known(a), None, ["ours", "new"], True,
        ["member-new"],
    ),
    "own twice": lambda: (
        [a := disk(), clone(a)], known(a), None, ["ours", "new"], True, ["member-new"]
    ),
    "own, a partition reaches in": lambda: (
        [claimed(a := disk())], known(a), None, ["claimed"], True, ["region-claimed"]
    ),
    "own, head lost": lambda: ([without(a := disk(), 0)], known(a), None, ["ours"], True, []),
    "own, tails lost": lambda: ([without(a := disk(), 1, 2)], known(a), None, ["ours"], True, []),
    "own, head forged": lambda: ([disagreeing(a := disk())], known(a), None, ["ours"], True, []),
    "own, slots used by others": lambda: (
        [of_others(a := disk())], known(a), None, ["ours"], True, []
    ),
    "own does not answer": lambda: (
        [dead(a := disk())], known(a), None, ["failed"], False, ["disk-failed"]
    ),
    "another set in the place of the own": lambda: (
        [disk(X)], known(disk(X), set_id=S), None, ["foreign"], False,
        ["set-other", "member-missing"],
    ),
    # It knows none.
    "one set": lambda: ([disk()], None, None, ["ours"], True, []),
    "one set, memory lost": lambda: ([disk()], "lost", None, ["ours"], True, []),
    "one set, no memory": lambda: ([disk()], "none", None, ["ours"], True, []),
    "one set, empty": lambda: ([empty()], None, None, ["ours"], True, []),
    "two sets": lambda: ([disk(), disk(X)], None, None, ["foreign"] * 2, False, ["set-unclear"]),
    "two sets, one has more members": lambda: (
        [disk(index=i, count=3) for i in range(3)] + [disk(X)],
        None, None, ["foreign"] * 4, False, ["set-unclear"],
    ),
    "two sets, no memory": lambda: (
        [disk(), disk(X)], "none", None, ["foreign"] * 2, False, ["set-unclear"]
    ),
    "two empty sets": lambda: (
        [empty(), empty(X)], None, None, ["foreign"] * 2, False, ["set-unclear"]
    ),
    "a set and an empty one": lambda: (
        [empty(X), disk()], None, None, ["foreign", "ours"], True, []
    ),
    "a set and one of another product": lambda: (
        [disk(X, image=sim.noise(5, 6 * sim.ERASE), raw=OTHER), disk()],
        None, None, ["foreign", "ours"], True, [],
    ),
    "a set and one with a record only": lambda: (
        [disk(X, raw=NEW[:-1] + b"?"), disk()], None, None, ["foreign", "ours"], True, []
    ),
    "head and tails disagree": lambda: (
        [disagreeing(disk())], None, None, ["foreign"], False, ["set-unclear"]
    ),
    "only the tails": lambda: (
        [without(disk(), 0)], None, None, ["foreign"], False, ["set-unclear"]
    ),
    "head and one tail": lambda: ([without(disk(), 1)], None, None, ["ours"], True, []),
    "one member agrees, the other does not": lambda: (
        [disk(index=0, count=2), without(disk(index=1, count=2), 0)],
        None, None, ["ours", "new"], True, ["member-new"],
    ),
    "slots used by others": lambda: (
        [of_others(disk())], None, None, ["new"], True, ["member-new"]
    ),
    "nothing": lambda: ([], None, None, [], False, []),
    "no region": lambda: ([blank()], None, None, ["no-region"], False, []),
    # A person has named one.
    "adopt another": lambda: (
        [a := disk(), disk(X)], known(a), X, ["foreign", "ours"], True, []
    ),
    "adopt one of two": lambda: ([disk(), disk(X)], None, X, ["foreign", "ours"], True, []),
    "adopt an empty one": lambda: ([disk(), empty(X)], None, X, ["foreign", "ours"], True, []),
    "adopt what is absent": lambda: (
        [disk()], None, X, ["foreign"], False, ["set-other"]
    ),
    "adopt a new member": lambda: (
        [a := disk(count=2), disk(index=1, count=2)], known(a), S, ["ours", "ours"], True, []
    ),
    "adopt the own at another place": lambda: (
        [moved(a := disk())], known(a), S, ["ours"], True, []
    ),
    "adopt what disagrees": lambda: (
        [without(disk(X), 0)], None, X, ["new"], True, ["member-new"]
    ),
    "adopt a larger set": lambda: (
        [disk(X, 0, 2), disk(X, 1, 2)], known(disk()), X, ["ours", "ours"], True, []
    ),
    "adopt a smaller set": lambda: (
        [disk(X)], known(disk(count=2), disk(index=1, count=2)), X, ["ours"], True, []
    ),
    "adopt a set of which one is absent": lambda: (
        [disk(X, 0, 2)], known(disk()), X, ["ours"], True, ["member-missing"]
    ),
}  # fmt: skip


def reach_of(member):
    return "ours" if member.reach == OURS else member.state


@pytest.mark.parametrize("row", ROWS)
def test_whose_the_disks_are(row):
    drives, memory, adopt, reach, clear, told = ROWS[row]()
    members, report = run(drives, memory, adopt)
    assert [reach_of(m) for m in members] == reach
    assert report.clear is clear
    # Header copies and records that are damaged are told beside.
    assert [c for c in codes(report) if not c.startswith(("commit-", "region-f"))] == told
    assert [m.writable for m in members] == [r == "ours" for r in reach]
    assert [m.own for m in members] == [r in ("ours", "new", "claimed") for r in reach]
    assert not any(d.writes for d in drives)


def test_a_partition_of_lifeboats_own_type_claims_nothing():
    one = RamDisk("disk", sim.REGION // 512 + 400)
    first = 128
    gpt.both(one, [(gpt.LIFEBOAT, first, first + sim.REGION // 512 - 1)])
    sim.make_region(one, first)
    region_id = sim.get(one, first * 512, 512)[32:48]
    pages = sim.set_records(S, [(region_id, first, sim.REGION // 512, 512, 0, "disk")])
    for memory in (pages, None):
        members, report = run([one], memory)
        assert [reach_of(m) for m in members] == ["ours"] and codes(report) == []


def test_what_only_the_configuration_leads_to_is_not_adopted_unasked():
    """Only what lies in its own GPT partition or at the tail of the raw disk (settled.md 9)."""
    one = RamDisk("disk", sim.REGION // 512 + 400)
    sim.make_region(one, 64)
    members, report = run([one], lbas=(64,))
    assert [m.state for m in members] == ["new"] and codes(report) == ["member-new"]
    region_id = sim.get(one, 64 * 512, 512)[32:48]
    pages = sim.set_records(S, [(region_id, 64, sim.REGION // 512, 512, 0, "disk")])
    assert [reach_of(m) for m in run([one], pages, lbas=(64,))[0]] == ["ours"]
    assert [reach_of(m) for m in run([one], adopt=S, lbas=(64,))[0]] == ["ours"]


def test_a_visitor_is_never_written_and_the_own_set_is_brought_level():
    """After an update no set holds the code in flash, and the visitor has more generations."""
    visitor = sim.SimBoard(bytearray(scenarios.OLD), members=1, journal=2)
    size = sim.region_size(sim.SLOT, journal=2)
    sim.make_region(visitor.drives[0], set_id=X, size=size, journal=2)
    visitor.remember(visitor.drives, X)
    lifeboat.power_on(visitor)
    visitor.nor.data[:] = scenarios.NEW
    lifeboat.power_on(visitor)
    board = sim.SimBoard(bytearray(sim.image(seed=3, version="3.0")), members=1, journal=2)
    lifeboat.power_on(board)
    own, other = board.drives = [board.drives[0], visitor.drives[0]]
    other.name, other.power = "disk1", board.power
    assert [m["state"] for m in lifeboat.power_on(board).data["members"]] == ["level", "foreign"]
    board.nor.data[:] = sim.image(seed=4, version="4.0")
    before = dict(other.sectors)
    report = lifeboat.power_on(board)
    assert report.verdict == "RUN" and not codes(report)
    assert [m["state"] for m in report.data["members"]] == ["created", "foreign"]
    assert other.sectors == before


def test_no_set_is_written_when_nobody_remembers_whose_it_is():
    board = sim.SimBoard(bytearray(scenarios.NEW), members=1, remembers="nothing", journal=2)
    stranger = sim.SimBoard(bytearray(scenarios.OLD), members=1, remembers="nothing", journal=2)
    for one in (board, stranger):
        assert lifeboat.power_on(one).verdict == "RUN"
    board.chip.data[:] = b"\xff" * len(board.chip.data)
    own, other = board.drives[0], stranger.drives[0]
    size = sim.region_size(sim.SLOT, journal=2)
    slots = [sim.get(other, scenarios.slot_of(other, i, journal=2), sim.SLOT) for i in (0, 1)]
    sim.make_region(other, set_id=X, size=size, journal=2)
    for i, slot in enumerate(slots):
        sim.put(other, scenarios.slot_of(other, i, journal=2), slot)
    board.drives = [own, other]
    other.name, other.power = "disk1", board.power
    board.nor.data[:] = sim.image(seed=4, version="4.0")
    before = dict(own.sectors), dict(other.sectors), bytes(board.chip.data)
    report = lifeboat.power_on(board)
    assert report.verdict == "RUN_DEGRADED" and "set-unclear" in codes(report)
    assert [m["state"] for m in report.data["members"]] == ["foreign", "foreign"]
    assert (own.sectors, other.sectors, board.chip.data) == before
    board.drives = [own]
    report = lifeboat.power_on(board)
    assert report.data["members"][0]["state"] == "created" and "adopted" in codes(report)
    # Now it is remembered, and the other one is a visitor.
    board.drives = [own, other]
    report = lifeboat.power_on(board)
    assert [m["state"] for m in report.data["members"]] == ["level", "foreign"]
    assert report.verdict == "RUN" and not codes(report)


# Members that are missing


def missing(report):
    return [where for code, where, _ in report.data["reasons"] if code == "member-missing"]


def three():
    return [disk(index=i, count=3) for i in range(3)]


@pytest.mark.parametrize("remembered", [True, False])
def test_a_missing_member_is_named_by_its_number(remembered):
    drives = three()
    _, report = run([drives[0], drives[2]], known(*drives) if remembered else None)
    assert missing(report) == ["member 2/3"]
    assert report.data["members"] == [{"disk": None, "state": "missing", "generation": None}]


@pytest.mark.parametrize("here", [(), (0,), (2, 1), (0, 1, 2)], ids=str)
def test_all_that_are_missing_are_named(here):
    drives = three()
    _, report = run([drives[i] for i in here], known(*drives))
    assert missing(report) == ["member %d/3" % (i + 1) for i in range(3) if i not in here]


@pytest.mark.parametrize("failed", [0, 1, 2])
def test_a_disk_that_can_not_be_read_may_be_the_one_that_is_missing(failed):
    drives = three()
    memory = known(*drives)
    dead(drives[failed])
    _, report = run(drives, memory)
    assert missing(report) == []
    del drives[(failed + 1) % 3]
    _, report = run(drives, memory)
    assert len(missing(report)) == 1


def test_a_region_that_is_not_remembered_does_not_stand_for_one_that_is():
    drives = three()
    memory = known(*drives)
    _, report = run([drives[0], moved(drives[1]), drives[2]], memory)
    assert missing(report) == ["member 2/3"]


def test_a_claimed_member_is_not_missing():
    drives = three()
    memory = known(*drives)
    claimed(drives[1])
    members, report = run(drives, memory)
    assert [m.state for m in members] == ["level", "claimed", "level"] and missing(report) == []


def test_without_a_memory_the_headers_of_a_set_that_is_unclear_say_nothing():
    _, report = run([disk(index=0, count=3), disk(X, 0, 2)])
    assert missing(report) == []


def test_a_memory_that_claims_many_members_does_not_fill_the_heap():
    """I5, I11: a set has 64 members at most, in the memory 16."""
    one = disk()
    _, report = run([one], known(one, count=65535))
    assert len(report.data["members"]) <= 64 and len(report.data["reasons"]) <= 64


def test_six_members_are_all_level():
    drives = backed_up(6)
    members, report = run(drives, known(*drives))
    assert [m.state for m in members] == ["level"] * 6 and not report.data["reasons"]


@pytest.mark.parametrize("memory", [None, "none", "lost"])
def test_no_disks_at_all(memory):
    members, report = run([], memory)
    assert members == [] and not report.clear


# Which of them hold the backup


@pytest.mark.parametrize(
    "newer, state",
    [
        ({"image": scenarios.OLD, "raw": OLD}, "stale"),  # other code ran last
        ({"image": scenarios.OLD, "raw": OLD[:-1] + b"?"}, "level"),  # it only claims to be newer
        ({"image": scenarios.NEW, "raw": NEW}, "level"),
    ],
    ids=["other", "broken", "same"],
)
def test_without_a_memory_the_newest_copy_says_which_code_ran_last(newer, state):
    one = disk()
    put_copy(one, 1, generation=2, **newer)
    members, _ = run([one])
    assert [m.state for m in members] == [state]
    # The memory of builds knows better.
    members, _ = run([one], known(one, builds=(OLD, NEW)))
    assert [m.state for m in members] == ["level"]


@pytest.mark.parametrize("generation, state", [(0xFEFFFFFF, "stale"), (0xFF000000, "level")])
def test_a_generation_that_only_forgery_reaches_is_older_than_all(generation, state):
    one = disk()
    put_copy(one, 1, scenarios.OLD, OLD, generation)
    assert [m.state for m in run([one])[0]] == [state]


@pytest.mark.parametrize("reach", ["foreign", "new", "claimed"])
def test_what_is_only_read_is_no_backup(reach):
    one = disk()
    memory = known(one)
    drives = {
        "foreign": lambda: [disk(X), one],
        "new": lambda: [clone(one), one],
        "claimed": lambda: [claimed(one)],
    }[reach]()
    if reach == "new":
        drives.reverse()
    members, _ = run(drives, memory)
    (member,) = [m for m in members if m.state == reach]
    assert member.backup == "stale"
