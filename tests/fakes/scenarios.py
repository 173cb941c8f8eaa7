"""Power cuts and garbage, as every floor runs them: states, sweeps over them, what must hold.

No test framework here; a broken claim is an AssertionError whose text reruns it.
"""

import hashlib
import struct
from binascii import crc32

import lifeboat
from fakes import board as sim
from sim.power import Power, PowerCut

NEW = sim.image(seed=1, version="2.0")
OLD = sim.image(seed=2, version="1.0")
MANIFEST_AT = (sim.BLOCKS - 1) * sim.ERASE
MANIFEST_SIZE = struct.unpack_from("<I", NEW, MANIFEST_AT + 12)[0]


def region_of(disk, slots=2, journal=0):
    """Return the offset of the region at the end of a disk of a SimBoard."""
    return disk.count * disk.size - sim.region_size(sim.SLOT, slots, journal)


def slot_of(disk, slot, slots=2, journal=0):
    """Return the offset of a slot of that region."""
    return region_of(disk, slots, journal) + 4096 + slot * sim.SLOT


def whole_copies(disk, journal=0):
    """Return the versions of all committed and whole copies on a disk, by format.md alone."""
    found = []
    for slot in range(2):
        at = slot_of(disk, slot, journal=journal)
        record = sim.get(disk, at, 512)
        if (
            record[:8] != b"LBCOMMIT"
            or crc32(record[:508]) != struct.unpack("<I", record[508:])[0]
        ):
            continue
        size, block, count = struct.unpack_from("<III", record, 68)
        manifest = sim.get(disk, at + 4096, 8192)[:size]
        if crc32(manifest[:-4]) != struct.unpack("<I", manifest[-4:])[0]:
            continue
        if hashlib.sha256(manifest[:-4]).digest() != record[32:64]:
            continue
        digests = size - 4 - 32 * count
        if all(
            hashlib.sha256(sim.get(disk, at + 69632 + i * block, block)).digest()
            == manifest[digests + 32 * i : digests + 32 * i + 32]
            for i in range(count)
        ):
            found.append(manifest[72:96].rstrip(b"\0").decode())
    return found


def spoil_parity(board, slot, journal=0):
    """Take the parity record of a slot away: there is none then."""
    for disk in board.drives:
        sim.put(disk, slot_of(disk, slot, journal=journal) + 69632 + 6 * sim.ERASE, bytes(512))


def told(disk, journal):
    """Return the numbers of the entries in the whole pages of a disk's journal, likewise."""
    found = set()
    for i in range(journal):
        page = sim.get(disk, slot_of(disk, 2, journal=journal) + i * 4096, 4096)
        if page[:8] == b"LBJOURNL" and crc32(page[:4092]) == struct.unpack("<I", page[4092:])[0]:
            (count,) = struct.unpack_from("<I", page, 32)
            found |= {struct.unpack_from("<I", page, 64 * (1 + i))[0] for i in range(count)}
    return found


def codes(report):
    """Return the reason codes of a report."""
    return [code for code, _, _ in report.data["reasons"]]


def states(report):
    """Return the states of the members in a report."""
    return [member["state"] for member in report.data["members"]]


class Scenario:
    """A state from which a power-on writes.

    members_hold: images that were in flash at the power-ons before, so that every member has
    copies of them; flash: what it holds now; damage(board): done last; journal: pages a member.
    """

    def __init__(self, name, flash, members_hold=(), damage=None, journal=0):
        self.name = name
        self.journal = journal
        board = sim.SimBoard(bytearray(NEW), journal=journal)
        for image in members_hold:
            board.nor.data[:] = image
            assert lifeboat.power_on(board).verdict == "RUN"
        board.nor.data[:] = flash
        if damage:
            damage(board)
        self.flash = bytes(board.nor.data)
        self.media = [dict(disk.sectors) for disk in board.drives]
        self.memory = bytes(board.chip.data)
        self.copies_stay_whole = all(whole_copies(disk, journal) for disk in board.drives)
        self.told = [told(disk, journal) for disk in board.drives]
        assert not journal or all(self.told)

    def board(self, power=None):
        """Return a board in this state."""
        board = sim.SimBoard(bytearray(self.flash), power=power, journal=self.journal)
        board.chip.data[:] = self.memory
        for disk, media in zip(board.drives, self.media):
            disk.sectors = dict(media)
        return board

    def undisturbed(self):
        """Return the flash that a power-on without a cut leaves, and its number of operations."""
        board = self.board()
        assert lifeboat.power_on(board).verdict == "RUN"
        return bytes(board.nor.data), board.power.count


def rot(board):
    """Damage the flash in two blocks, and another one of them in each copy."""
    for i, disk in enumerate(board.drives):
        block = (1, 4)[i]
        board.nor.data[block * sim.ERASE] ^= 1
        assert sim.get(disk, slot_of(disk, 0), 512)[:8] == b"LBCOMMIT"
        sim.put(disk, slot_of(disk, 0) + 69632 + block * sim.ERASE, b"rotten" + bytes(506))


def tear_header(board):
    disk = board.drives[0]
    sim.put(disk, region_of(disk), bytes(512))


_BLANK = b"\xff" * len(NEW)
_HALF = bytes(NEW[: 3 * sim.ERASE] + OLD[3 * sim.ERASE :])
_PADDED = bytes(NEW[:-2]) + b"\x00\xff"

SCENARIOS = [
    Scenario("first-create", NEW),
    Scenario("update", NEW, members_hold=[OLD]),
    Scenario("second-update", NEW, members_hold=[NEW, OLD]),
    Scenario("recover-erased", _BLANK, members_hold=[NEW]),
    Scenario("recover-half-other", _HALF, members_hold=[OLD, NEW]),
    Scenario("recover-padding", _PADDED, members_hold=[NEW]),
    Scenario("recover-and-mend", NEW, members_hold=[NEW], damage=rot),
    Scenario("mend-header", NEW, members_hold=[NEW], damage=tear_header),
]


def cut_power(board):
    """Power on a board whose supply fails on the way."""
    try:
        lifeboat.power_on(board)
    except PowerCut:
        return
    raise AssertionError("the power did not fail")


def sweep(scenario, torn, keep, cuts=None, shows=None):
    """Cut the power at each device operation (or those in cuts); I2 and I4 must hold after each.

    shows: called with the media of each. Returns how many cuts there were.
    """
    final, operations = scenario.undisturbed()
    done = 0
    for cut in cuts or range(1, operations + 1):
        where = "%s cut %d %s keep=%s" % (scenario.name, cut, "torn" if torn else "before", keep)
        power = Power(cut, torn)
        board = scenario.board(power)
        if shows:
            shows(flash=board.nor, **{disk.name: disk for disk in board.drives})
        cut_power(board)
        assert power.off and power.count == cut, where
        for disk in board.drives:
            disk.settle(keep, cut)
        if scenario.copies_stay_whole:
            assert all(whole_copies(disk, scenario.journal) for disk in board.drives), where  # I2
        for disk, entries in zip(board.drives, scenario.told):
            assert entries <= told(disk, scenario.journal), where
        board.supply(Power())
        report = lifeboat.power_on(board)
        assert report.verdict == "RUN", where
        assert bytes(board.nor.data) == final, where
        # No copy is lost: afterwards every member has the code that runs. (Where copies had
        # rotten, only the blocks that were read are known and mended.)
        version = report.data["version"]
        if scenario.name not in ("recover-and-mend", "from-parity"):
            for disk in board.drives:
                assert version in whole_copies(disk, scenario.journal), where
        states = {m["state"] for m in report.data["members"]}
        assert states <= {"level", "created", "mended"}, where
        done += 1
    return done


def backed_up():
    """Return what two disks hold after a power-on with intact code."""
    board = sim.SimBoard(bytearray(NEW))
    assert lifeboat.power_on(board).verdict == "RUN"
    return [disk.sectors for disk in board.drives]


def board_with(media):
    """Return a board with intact code and these media."""
    board = sim.SimBoard(bytearray(NEW))
    for disk, sectors in zip(board.drives, media):
        disk.sectors = dict(sectors)
    return board


# The sectors in which the header copies of a disk, as they are, let lifeboat write.
def _allowed(disk):
    first = region_of(disk) // 512
    ranges = [range(first, disk.count)]
    for lba in (first, disk.count - 16, disk.count - 8):
        start, sectors = struct.unpack_from("<QQ", sim.get(disk, lba * 512, 512), 48)
        if start + sectors <= disk.count:
            ranges.append(range(start, start + sectors))
    return ranges


class Endless(BaseException):
    """A power-on reads and reads. Not an Exception: it would be taken for a disk's."""


# Count down what a disk is read from here on; no record makes a power-on read more than this.
def bound_reads(disk):
    left = 2 * sim.REGION // disk.size

    def fault(op, lba, count):
        nonlocal left
        if op == "read":
            left -= count
            if left < 0:
                raise Endless(disk.name)

    disk.fault = fault


def judge(board, code_is_good):
    """Power on; assert what holds whatever the bytes were. Returns the report."""
    rules = [_allowed(disk) for disk in board.drives]
    for disk in board.drives:
        bound_reads(disk)
    before = bytes(board.nor.data)
    report = lifeboat.power_on(board)
    assert "internal" not in [code for code, _, _ in report.data["reasons"]], report.data
    if code_is_good:
        assert report.runs, report.data
    if not report.runs:
        assert bytes(board.nor.data) == before
    for disk, ranges in zip(board.drives, rules):
        assert all(any(lba in r for r in ranges) for lba in disk.written)
    return report


# Change one to four fields' worth of bytes; fix: make the CRC right again.
def _mutate(rng, data, crc_at, fix):
    data = bytearray(data)
    for _ in range(1 + rng.below(4)):
        size = rng.choice((1, 1, 2, 4, 8))
        at = rng.below(rng.choice((crc_at - size, 96)))  # most fields stand at the front
        data[at : at + size] = rng.choice((rng.bytes(size), b"\xff" * size, bytes(size)))
    if fix:
        struct.pack_into("<I", data, crc_at, crc32(data[:crc_at]))
    return bytes(data)


PARTS = "header", "commit", "flash-manifest", "slot-manifest", "all"


def mutated(media, part, rng, fix, damaged):
    """Power on with mutated records, three of four with right CRCs; returns the report."""
    board = board_with(media)
    if damaged:
        board.nor.data[rng.below(6 * sim.ERASE)] ^= 1 << rng.below(8)
    for disk in board.drives[: 1 + rng.below(2)]:
        region = region_of(disk)
        places = {
            "header": [region, region + sim.REGION - 8192, region + sim.REGION - 4096],
            "commit": [slot_of(disk, 0), slot_of(disk, 1)],
        }
        for name in sorted(places):
            if part in (name, "all"):
                offsets = places[name]
                record = _mutate(rng, sim.get(disk, offsets[0], 512), 508, fix)
                for offset in offsets[: 1 + rng.below(len(offsets))]:
                    sim.put(disk, offset, record)
        if part in ("slot-manifest", "all"):
            at = slot_of(disk, 0) + 4096
            raw = _mutate(rng, sim.get(disk, at, 4096)[:MANIFEST_SIZE], MANIFEST_SIZE - 4, fix)
            sim.put(disk, at, raw + bytes(4096 - len(raw)))
    if part in ("flash-manifest", "all"):
        raw = bytes(board.nor.data[MANIFEST_AT : MANIFEST_AT + MANIFEST_SIZE])
        raw = _mutate(rng, raw, MANIFEST_SIZE - 4, fix)
        board.nor.data[MANIFEST_AT : MANIFEST_AT + MANIFEST_SIZE] = raw
    return judge(board, not damaged and part not in ("flash-manifest", "all"))
