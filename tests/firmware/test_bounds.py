"""What a power-on reads, writes and waits for at most, whatever records claim (I11).

The formulas are docs/operations.md's, section "Bounds". Hostile records are the worst that are
known: whoever finds worse ones adds them here.
"""

import struct
from binascii import crc32
from math import log2

import pytest

import lifeboat
from fakes import board as sim
from fakes import gpt
from fakes.forgery import Place, image, install, large_manifest, parts, same_crc
from lifeboat import members as members_module
from lifeboat import running
from lifeboat.scrub import Scrubber

NEW, OLD, OLDER = image(1, "2.0"), image(2, "1.0"), image(3, "0.9")
EVIL = image(666, "6.6")
SIZE = sim.ERASE
BLOCKS = 6
CODE = sim.BLOCKS * SIZE  # "the code" of the bound is the code flash

# A healthy power-on with hostile records: times a normal one, which has the same slots, journal
# and partition table, genuine records, and one lasting condition.
HEALTHY = 3
# Two partition tables of 1 MiB, and their headers.
TABLES = 2 * (1048576 + 4096)
# Copies read before RESCUE: times members x code; what is repaired is read once more, in each of
# four plans.
RESCUE, PLANS = 4, 4
# Journal pages that a lasting condition costs.
MOST_PAGES = 4

SHAPES = [(1, 2), (1, 16), (6, 2), (6, 16)]


class Counted:
    """A board that ran NEW, and what its power-ons read."""

    def __init__(self, members=1, slots=2, journal=8, remembers="set", history=(NEW,), extra=600):
        self.board = sim.SimBoard(
            bytearray(history[0]), members=members, slots=slots, journal=journal,
            remembers=remembers, extra=extra,
        )  # fmt: skip
        for content in history:
            install(self.board, content)
            assert lifeboat.power_on(self.board).verdict == "RUN"
        self.places = [Place(d, slots=slots, journal=journal) for d in self.board.drives]

    def on(self, **kwargs):
        """Power on; returns (read commands, bytes)."""
        drives = self.board.drives
        before = sum(d.reads for d in drives), sum(d.read_sectors for d in drives)
        self.report = lifeboat.power_on(self.board, **kwargs)
        assert "internal" not in [code for code, _, _ in self.report.data["reasons"]]
        reads, sectors = sum(d.reads for d in drives), sum(d.read_sectors for d in drives)
        return reads - before[0], (sectors - before[1]) * drives[0].size

    def rot(self, *blocks):
        for block in blocks:
            self.board.nor.data[block * SIZE + 11] ^= 0x40

    @property
    def codes(self):
        return {code for code, _, _ in self.report.data["reasons"]}


def one_condition(it):
    """A commit record that is no record any more: told once."""
    place = it.places[0]
    place.put(place.slot(1), b"LBCOMMIT" + bytes(504))


def forged_commits(it, generation=0xFEFFFFFF, first=1):
    """Every slot but the first: the largest manifest there is, of another build each."""
    n = 0
    for place in it.places:
        for slot in range(first, place.slots):
            n += 1
            manifest = large_manifest("x%d" % n)
            place.put(place.slot(slot), place.record(slot, manifest, generation))
            place.put(place.manifest(slot), manifest)


def newest_commits(it):
    forged_commits(it, 0xFFFFFFEF)


def garbage_copies(it):
    """Every slot but the first claims the build that runs."""
    for place in it.places:
        for slot in range(1, place.slots):
            place.plant(slot, NEW, 9, code=bytes(BLOCKS * SIZE))


def newer_manifests(it):
    """One member has no slot to spare, so it is tried at every power-on; the others are full of
    forged manifests that have to be asked for their generation."""
    forged_commits(it)
    place = it.places[0]
    for slot in range(place.slots):
        raw = bytearray(large_manifest("n%d" % slot))
        raw[8] = 2
        raw[-4:] = struct.pack("<I", crc32(raw[:-4]))
        place.put(place.slot(slot), place.record(slot, bytes(raw), 5))
        place.put(place.manifest(slot), raw)


def newer_manifests_all(it):
    for place in it.places:
        other = Counted.__new__(Counted)
        other.places = [place]
        newer_manifests(other)


def read_only_headers(it):
    newer_manifests(it)
    for place in it.places[1:]:
        place.header(f96=b"\1")


def different_headers(it):
    """Three headers, each of another serial."""
    forged_commits(it)
    for place in it.places:
        for i, at in enumerate(place.headers):
            raw = bytearray(place.get(at))
            raw[100] = 3 - i
            raw[508:] = struct.pack("<I", crc32(raw[:508]))
            place.put(at, raw)
        place.header(f96=b"\1")


HOSTILE = [forged_commits, newest_commits, garbage_copies, newer_manifests, newer_manifests_all,
           read_only_headers, different_headers]  # fmt: skip


@pytest.mark.parametrize("remembers", ["set", "nothing", None])
@pytest.mark.parametrize("members, slots", SHAPES)
@pytest.mark.parametrize("attack", HOSTILE, ids=lambda f: f.__name__)
def test_a_healthy_power_on_reads_three_times_the_normal_at_most(
    attack, members, slots, remembers
):
    normal = Counted(members, slots, remembers=remembers)
    one_condition(normal)
    hostile = Counted(members, slots, remembers=remembers)
    attack(hostile)
    for it in (normal, hostile):
        it.on()
    want = normal.on()
    for _ in range(2):
        reads, size = hostile.on()
        assert hostile.report.runs and not hostile.report.data["disk_writes"]
        assert reads <= HEALTHY * want[0] and size <= HEALTHY * want[1]


def test_huge_partition_tables_are_read_twice_at_most():
    it = Counted(extra=6000)
    normal = it.on()[1]
    (disk,) = it.board.drives
    for lba in (1, disk.count - 1):
        start = 2 if lba == 1 else 3000
        gpt.table(disk, [(gpt.LINUX, 64, 100)], lba=lba, entries=8192, entries_lba=start)
        disk.sectors[start + 2000] = b"x" * 512
    reads, size = it.on()
    assert size - normal <= TABLES and it.report.runs
    # What claims to be larger is not read.
    gpt.table(disk, [(gpt.LINUX, 64, 100)], lba=1, entries=8192 + 1, entries_lba=2)
    assert it.on()[1] - normal <= TABLES // 2


# Damaged


def adversarial(it, images, member=0, first=0, lost=True):
    """Copies that claim a build each; a block is right in one of them only, the one that is asked
    last; the last block in none."""
    place = it.places[member]
    slots = range(first, place.slots)
    for slot in slots:
        place.plant(slot, images, 9, code=bytes(BLOCKS * SIZE))
    code, _ = parts(images)
    for block in range(BLOCKS - lost):
        slot = slots[-1 - block % len(slots)]
        place.put(place.block(slot, block), code[block * SIZE : (block + 1) * SIZE])


def round_robin(it):
    for i in range(len(it.places)):
        adversarial(it, NEW, i)


def older_builds(it):
    for i in range(len(it.places)):
        adversarial(it, OLD if i % 2 else NEW, i)


def crc_only(it):
    """What is found wrong in the last moment: a plan each."""
    code, _ = parts(NEW)
    for place in it.places:
        for slot in range(place.slots):
            place.plant(slot, NEW, 9)
            for block in range(BLOCKS):
                good = code[block * SIZE : (block + 1) * SIZE]
                place.put(place.block(slot, block), same_crc(good))


@pytest.mark.parametrize("members, slots", SHAPES)
@pytest.mark.parametrize(
    "attack", [round_robin, older_builds, crc_only, forged_commits, garbage_copies],
    ids=lambda f: f.__name__,
)  # fmt: skip
@pytest.mark.parametrize("bare", [False, True])
@pytest.mark.parametrize("remembers", ["set", None])
def test_before_rescue_four_times_the_code_of_all_members_is_read(
    attack, members, slots, bare, remembers
):
    records = Counted(members, slots, remembers=remembers)
    newer_manifests_all(records)
    records.on()
    forged = records.on()[1]
    it = Counted(members, slots, remembers=remembers, history=(OLD, NEW))
    attack(it)
    it.rot(*range(BLOCKS))
    if bare:
        it.board.nor.data[-SIZE:] = b"\xff" * SIZE
    for _ in range(2):
        size = it.on()[1]
        most = RESCUE * members * CODE + PLANS * BLOCKS * SIZE + HEALTHY * forged
        assert size <= most
        if it.report.runs:
            break
        if attack in (round_robin,) and slots == 16 and members == 1 and not bare:
            assert "read-limit" in it.codes


@pytest.mark.parametrize("place", range(4))
@pytest.mark.parametrize("other", [NEW, OLD], ids=["newest", "older"])
@pytest.mark.parametrize("bare", [False, True])
def test_a_whole_known_copy_among_the_first_four_is_found(place, other, bare):
    """The others claim a known build, too, and the slots behind are made to be asked in vain."""
    it = Counted(1, 16, history=(OLDER, OLD, NEW))
    adversarial(it, NEW)
    (disk,) = it.places
    for slot in range(4, 16):
        disk.put(disk.slot(slot), bytes(512))
    disk.plant(place, other, 9)
    it.rot(*range(BLOCKS))
    if bare:
        it.board.nor.data[-SIZE:] = b"\xff" * SIZE
    it.on()
    assert it.report.verdict == "RUN", it.report.data
    assert it.board.nor.data == other


def test_a_whole_known_copy_is_found_though_every_other_slot_of_six_members_is_asked_in_vain():
    it = Counted(6, 16, history=(OLD, NEW))
    for i, place in enumerate(it.places):
        adversarial(it, NEW, i)
        for slot in range(place.slots):
            place.put(place.slot(slot), bytes(512))
    it.places[0].plant(0, NEW, 9, code=bytes(BLOCKS * SIZE))
    it.places[0].plant(1, OLD, 8)
    it.rot(*range(BLOCKS))
    it.on()
    assert it.report.verdict == "RUN" and it.board.nor.data == OLD


def test_a_person_has_all_copies_read():
    it = Counted(1, 16, history=(OLD, NEW))
    adversarial(it, NEW, lost=False)
    (place,) = it.places
    it.rot(*range(BLOCKS))
    it.on()
    assert it.report.verdict == "RESCUE" and "read-limit" in it.codes
    it.on(unlimited=True)
    assert it.report.verdict == "RUN" and it.board.nor.data == NEW
    assert place


# Journal


def pages_read(it):
    """Power on; how many different reads of journal pages there were, on the busiest member."""
    counts = []
    for place in it.places:
        first, end = place.page(0) // 512, place.page(place.pages) // 512
        count = []

        def fault(op, lba, n, first=first, end=end, count=count):
            if op == "read" and first <= lba < end:
                count.append(lba)

        place.disk.fault = fault
        counts.append(count)
    it.on()
    return max(len(count) for count in counts)


def full_journal(place, newest, pages, start=1000):
    """A ring that was written around; the newest pair is this one."""
    pairs = pages // 2
    for k in range(pairs):
        serial = start + 2 * ((k - newest - 1) % pairs)
        place.journal_page(2 * k, serial, 1, serial)
        place.journal_page(2 * k + 1, serial + 1, 1, serial)


@pytest.mark.parametrize("pages", [2, 8, 32, 1024])
@pytest.mark.parametrize("newest", [0, 0.4, 0.75, 1])
def test_a_lasting_condition_reads_few_pages_of_a_full_journal(pages, newest):
    it = Counted(1, journal=pages)
    full_journal(it.places[0], int(newest * (pages // 2 - 1)), pages)
    one_condition(it)
    it.on()
    assert it.report.data["disk_writes"]
    for _ in range(2):
        assert pages_read(it) <= 2 * log2(pages) + MOST_PAGES
        assert not it.report.data["disk_writes"]


def zero_middle(place, pages):
    """Rot, or somebody: the first pair that a search asks is not there."""
    for page in (pages // 2, pages // 2 + 1):
        place.put(place.page(page), bytes(4096))


def low_middle(place, pages):
    for page in (pages // 2, pages // 2 + 1):
        place.journal_page(page, 3)


def high_first(place, pages):
    place.journal_page(0, 0xFE000000)


def all_different(place, pages):
    for page in range(pages):
        place.journal_page(page, 5 + 7919 * page % 99991, 62, 5 + page)


@pytest.mark.parametrize(
    "attack", [zero_middle, low_middle, high_first, all_different], ids=lambda f: f.__name__
)
def test_a_lasting_condition_reads_few_pages_of_a_hostile_journal(attack):
    """When unsure it is told again, once."""
    pages = 1024
    it = Counted(1, journal=pages)
    full_journal(it.places[0], 400, pages)
    one_condition(it)
    it.on()
    attack(it.places[0], pages)
    it.on()
    it.on()
    counted = pages_read(it)
    assert not it.report.data["disk_writes"]
    assert counted <= 2 * log2(pages) + MOST_PAGES


# Time


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 0

    monkeypatch.setattr(members_module, "ticks_ms", lambda: Clock.now)
    return Clock


DISK_S, ALL_S = 15, 30


def slow(disk, clock, ms):
    """Every command takes so long, at most its driver's patience of 5 s."""

    def fault(op, lba, n):
        if op != "init":
            clock.now += ms

    disk.fault = fault


@pytest.mark.parametrize("ms", [50, 500, 2000, 4900])
@pytest.mark.parametrize("members", [1, 2, 6])
@pytest.mark.parametrize("state", ["level", "update", "first"])
def test_intact_code_runs_in_time_however_slow_the_disks(clock, ms, members, state):
    it = Counted(members, 2, history=(OLD,))
    for disk in it.board.drives:
        slow(disk, clock, ms)
    if state != "level":
        install(it.board, NEW)
    if state == "first":
        for place in it.places:
            place.put(place.slot(0), bytes(4096))
    began = clock.now
    it.on()
    took = (clock.now - began) / 1000
    assert it.report.runs
    assert took <= (DISK_S if members == 1 else ALL_S)
    if ms >= 2000:
        assert it.codes & {"disk-slow", "backup-late"}
        assert members == 1 or "disk-slow" in it.codes


@pytest.mark.parametrize("ms", [500, 4900])
def test_one_slow_disk_does_not_cost_the_others_their_backup(clock, ms):
    it = Counted(3, 2, history=(OLD,))
    install(it.board, NEW)
    slow(it.board.drives[0], clock, ms)
    it.on()
    assert clock.now <= DISK_S * 1000 and it.report.verdict == "RUN"
    assert [m["state"] for m in it.report.data["members"]][1:] == ["created", "created"]
    assert it.codes & {"disk-slow", "backup-late"}


def test_a_backup_that_came_too_late_is_made_by_the_scrubber(clock):
    it = Counted(1, 2, history=(OLD,))
    install(it.board, NEW)
    slow(it.board.drives[0], clock, 500)
    it.on()
    assert "backup-late" in it.codes and it.report.runs and clock.now <= DISK_S * 1000
    (place,) = it.places
    assert place.holds(0, OLD) or place.holds(1, OLD), "the last good copy was given up (I2)"
    running.attended = False
    scrubber = Scrubber(it.board)
    for _ in range(10000):
        scrubber.step(5)
        if scrubber.passes:
            break
    assert place.holds(0, NEW) or place.holds(1, NEW)
    it.board.drives[0].fault = None
    it.on()
    assert it.report.verdict == "RUN" and it.report.data["members"][0]["state"] == "level"


def test_damaged_code_waits_for_slow_disks(clock):
    it = Counted(2, 2)
    for disk in it.board.drives:
        slow(disk, clock, 3000)
    it.rot(*range(BLOCKS))
    it.on()
    assert it.report.runs and it.board.nor.data == NEW
