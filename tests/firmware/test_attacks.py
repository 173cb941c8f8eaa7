"""Somebody who can write any sector of any member disk, and what lifeboat does then (I1-I13).

Each attack is a test with the outcome that docs/recovery.md and docs/format.md demand, on boards
that remember in a chip of their own, in their code flash, or not at all.
"""

import struct
from errno import EIO, ENODEV, EPERM

import pytest

import lifeboat
from fakes import board as sim
from fakes import gpt
from fakes.forgery import Place, image, install, lying_manifest, parts, same_crc
from lifeboat import running
from lifeboat.scrub import Scrubber
from lifeboat.userarea import user_area
from sim.disk import RamDisk

REMEMBERING = ["set", "nothing", "flash"]
ALL = [*REMEMBERING, None]
LIMIT = 0xFFFFFFEF
SIZE = sim.ERASE


class Controller:
    """A board that ran these versions one after the other, and made their backups."""

    def __init__(self, remembers="set", *versions, **kwargs):
        self.remembers = remembers
        self.old, self.new, self.evil, self.other = (
            image(seed, version, remembers)
            for seed, version in ((2, "1.0"), (1, "2.0"), (666, "2.0"), (77, "3.0"))
        )
        self.total = len(self.new) // SIZE
        self.slots, self.journal = kwargs.get("slots", 2), kwargs.get("journal", 0)
        images = [getattr(self, version) for version in versions or ("new",)]
        self.board = sim.SimBoard(bytearray(images[0]), remembers=remembers, **kwargs)
        for content in images:
            install(self.board, content)
            assert self.on().verdict == "RUN"
        self.fresh()

    def fresh(self):
        self.board.nor.erases = 0
        for disk in self.board.drives:
            disk.writes = 0
            disk.written.clear()

    def on(self, **kwargs):
        self.report = lifeboat.power_on(self.board, **kwargs)
        assert "internal" not in self.codes, self.report.data
        return self.report

    @property
    def codes(self):
        return {code for code, _, _ in self.report.data["reasons"]}

    @property
    def states(self):
        return [m["state"] for m in self.report.data["members"]]

    @property
    def places(self):
        return [self.place(disk) for disk in self.board.drives]

    def place(self, disk):
        return Place(disk, self.total, self.slots, self.journal)

    def runs(self, content):
        """Whether code and manifest in flash are just this image's."""
        code, manifest = parts(content)
        data = self.board.nor.data
        return data[: len(code)] == code and data[-SIZE:] == manifest.ljust(SIZE, b"\xff")

    def rot(self, *blocks):
        for block in blocks:
            self.board.nor.data[block * SIZE + 11] ^= 0x40

    def rot_manifest(self):
        self.board.nor.data[-SIZE + 20] ^= 1

    def state(self):
        disks = [dict(disk.sectors) for disk in self.board.drives]
        return bytes(self.board.nor.data), disks

    def scrub(self, passes=2):
        running.attended = False
        scrubber = Scrubber(self.board)
        for _ in range(100000):
            scrubber.step(50)
            if scrubber.passes >= passes:
                return
        raise AssertionError("no pass ends")


def another_disk(controller, content, set_id=b"E" * 16, name="evil", generation=9):
    """A disk of another controller of the same product."""
    disk = RamDisk(name, controller.board.drives[0].count, controller.board.power)
    place = controller.place(disk)
    sim.make_region(
        disk, set_id=set_id, slot=place.slot_size, slots=place.slots, size=place.size,
        journal=place.pages,
    )  # fmt: skip
    # Its region id is its own.
    place.header(f32=b"\x99" * 16)
    place.plant(0, content, generation)
    place.put(place.slot(1), bytes(4096))
    return disk


# Code of an unknown build


@pytest.mark.usefixtures("no_parity")
@pytest.mark.parametrize("remembers", ALL)
def test_a_planted_build_does_not_take_the_place_of_a_block_that_rotted(remembers):
    """poc_trust p1"""
    it = Controller(remembers)
    for place in it.places:
        place.put(place.block(0, 0), bytes(6 * SIZE))
        place.plant(1, it.evil, 1)
    assert it.on().verdict == "RUN"
    it.rot(3)
    before, _ = it.state()
    assert it.on().verdict == "RESCUE" and "block-lost" in it.codes
    assert it.board.nor.data == before and it.board.nor.erases == 0
    assert ("build-unknown" in it.codes) == (remembers is not None)


@pytest.mark.parametrize("remembers", REMEMBERING)
@pytest.mark.parametrize("damage", ["manifest", "all", "half"])
def test_a_planted_build_does_not_come_back_when_the_manifest_is_gone(remembers, damage):
    it = Controller(remembers)
    for place in it.places:
        place.put(place.slot(0), bytes(512))
        place.put(place.block(0, 0), bytes(6 * SIZE))
        place.plant(1, it.evil, LIMIT - 1)
        place.plant(0, it.evil, 5)
    data = it.board.nor.data
    if damage == "manifest":
        it.rot_manifest()
    else:
        data[: 6 * SIZE if damage == "all" else 3 * SIZE] = b"\xff" * (
            6 * SIZE if damage == "all" else 3 * SIZE
        )
        data[-SIZE:] = b"\xff" * SIZE
    before = bytes(data)
    for _ in range(2):
        assert it.on().verdict == "RESCUE"
        assert {"block-lost", "build-unknown"} <= it.codes
        assert data == before and it.board.nor.erases == 0


@pytest.mark.parametrize("remembers", REMEMBERING)
def test_an_interrupted_update_ends_with_a_known_build_not_with_a_planted_one(remembers):
    """A person's tool had put half of a new image when power failed; disks hold a planted one."""
    it = Controller(remembers)
    for place in it.places:
        place.plant(1, it.evil, LIMIT)
    code, _ = parts(it.other)
    it.board.nor.data[: 3 * SIZE] = code[: 3 * SIZE]
    it.board.nor.data[-SIZE:] = b"\xff" * SIZE
    assert it.on().verdict == "RUN" and it.runs(it.new)


@pytest.mark.parametrize("remembers", ALL)
def test_a_manifest_of_a_newer_format_on_a_disk_is_no_build(remembers):
    it = Controller(remembers)
    code, manifest = parts(it.evil)
    raw = bytearray(manifest)
    raw[8] = 2
    raw[-4:] = struct.pack("<I", sim.crc32(raw[:-4]))
    for place in it.places:
        place.put(place.slot(1), place.record(1, bytes(raw), LIMIT))
        place.put(place.manifest(1), bytes(raw).ljust(4096, b"\0"))
        place.put(place.block(1, 0), code)
    it.rot(1)
    it.rot_manifest()
    assert it.on().verdict == "RUN" and it.runs(it.new)


# CRC-preserving changes


def forge_all(it, slot=0, blocks=range(6), which=None):
    code, _ = parts(it.new)
    for place in which or it.places:
        for block in blocks:
            forged = same_crc(code[block * SIZE : (block + 1) * SIZE])
            place.put(place.block(slot, block), forged)


@pytest.mark.usefixtures("no_parity")
@pytest.mark.parametrize("remembers", REMEMBERING)
def test_copies_with_the_right_crc_only_are_passed_by_for_a_whole_older_one(remembers):
    """poc_trust p1b"""
    it = Controller(remembers, "old", "new")
    forge_all(it, slot=1)
    it.rot(3)
    assert it.on().verdict == "RUN" and it.runs(it.old)
    assert "older-build" in it.codes
    it.rot(2)
    assert it.on().verdict == "RUN" and it.runs(it.old)


@pytest.mark.parametrize("remembers", ALL)
@pytest.mark.parametrize("manifest_too", [False, True])
def test_a_copy_with_the_right_crc_only_is_passed_by_for_the_other_member(remembers, manifest_too):
    it = Controller(remembers)
    forge_all(it, which=it.places[:1])
    it.rot(0, 3, 5)
    if manifest_too:
        it.rot_manifest()
    assert it.on().verdict == "RUN" and it.runs(it.new)
    assert it.board.nor.erases == 3 + manifest_too


@pytest.mark.parametrize("remembers", ALL)
def test_the_scrubber_mends_copies_with_the_right_crc_only(remembers):
    it = Controller(remembers)
    forge_all(it)
    assert it.on().verdict == "RUN"
    it.scrub()
    assert all(place.holds(0, it.new) for place in it.places)


def test_the_scrubber_spreads_no_copy_with_the_right_crc_only():
    """Of an older build only the disks have the bytes: a forged one is no source for the other."""
    it = Controller("set", "old", "new")
    code, _ = parts(it.old)
    forged = same_crc(code[2 * SIZE : 3 * SIZE])
    one, two = it.places
    one.put(one.block(0, 2), forged)
    two.spoil(0, 2)
    assert it.on().verdict == "RUN"
    it.scrub()
    assert two.get(two.block(0, 2), SIZE) != forged
    assert {"block-lost"} <= {code for code, _, _ in it.report.data["reasons"]}


@pytest.mark.parametrize("remembers", ALL)
def test_flash_with_the_right_crc_only_is_not_spread(remembers):
    it = Controller(remembers, slots=3)
    code, _ = parts(it.new)
    for place in it.places:
        place.put(place.slot(0), bytes(4096))
    forged = same_crc(code[SIZE : 2 * SIZE])
    it.board.nor.data[SIZE : 2 * SIZE] = forged
    it.on()
    assert "flash-changed" in it.codes
    for place in it.places:
        for slot in range(3):
            record = place.get(place.slot(slot))
            assert record[:8] != b"LBCOMMIT", "a copy of code that is not the manifest's"


# Generations and newer formats


@pytest.mark.parametrize("remembers", ALL)
@pytest.mark.parametrize("forged", [1, 2])
def test_forged_generations_do_not_stop_the_backups(remembers, forged):
    """poc_trust p2"""
    it = Controller(remembers, "old")
    for place in it.places[:forged]:
        place.plant(1, it.evil, LIMIT)
    install(it.board, it.new)
    assert it.on().verdict == "RUN" and it.states == ["created", "created"]
    assert all(place.holds(0, it.new) or place.holds(1, it.new) for place in it.places)
    assert it.on().verdict == "RUN" and it.states == ["level", "level"]
    assert it.report.data["disk_writes"] == 0
    it.rot(0, 4)
    assert it.on().verdict == "RUN" and it.runs(it.new)


@pytest.mark.parametrize("remembers", ALL)
@pytest.mark.parametrize("generation", [0xFEFFFFFF, 0xFF000000, LIMIT])
def test_a_genuine_copy_with_a_forged_generation_leaves_room_for_the_next(remembers, generation):
    it = Controller(remembers, "old")
    for place in it.places:
        place.plant(0, it.old, generation)
    for content in (it.new, it.other, it.old, it.new):
        install(it.board, content)
        assert it.on().verdict == "RUN"
        assert it.states == ["created"] * 2 or it.states == ["level"] * 2
        assert it.on().verdict == "RUN" and it.states == ["level"] * 2
        it.rot(2)
        assert it.on().verdict == "RUN" and it.runs(content)


def newer_commit(it, place):
    for slot in range(place.slots):
        record = place.record(slot, parts(it.evil)[1], 5, major=2)
        place.put(place.slot(slot), record)


def needed_bit_in_commit(it, place):
    for slot in range(place.slots):
        place.put(place.slot(slot), place.record(slot, parts(it.evil)[1], 5, incompat=1 << 9))


def read_only_commit(it, place):
    for slot in range(place.slots):
        place.put(place.slot(slot), place.record(slot, parts(it.evil)[1], 5, ro_compat=1))


def newer_manifest(it, place):
    raw = bytearray(parts(it.evil)[1])
    raw[8] = 9
    raw[-4:] = struct.pack("<I", sim.crc32(raw[:-4]))
    for slot in range(place.slots):
        place.put(place.slot(slot), place.record(slot, bytes(raw), LIMIT))
        place.put(place.manifest(slot), bytes(raw).ljust(4096, b"\0"))


def newer_header(it, place):
    place.header(f8=b"\2")


def needed_bit_in_header(it, place):
    place.header(f92=b"\1")


def read_only_header(it, place):
    place.header(f96=b"\1")


NEWER = [newer_commit, needed_bit_in_commit, read_only_commit, newer_manifest, newer_header,
         needed_bit_in_header, read_only_header]  # fmt: skip


@pytest.mark.parametrize("remembers", REMEMBERING)
@pytest.mark.parametrize("attack", NEWER, ids=lambda f: f.__name__)
def test_records_of_a_newer_format_stop_one_member_and_not_the_others(remembers, attack):
    it = Controller(remembers, "old", members=3)
    attack(it, it.places[1])
    before = dict(it.board.drives[1].sectors)
    install(it.board, it.new)
    for states in (("created", "created"), ("level", "level")):
        assert it.on().verdict == "RUN"
        assert (it.states[0], it.states[2]) == states
        assert it.states[1] not in ("created", "level", "mended")
        assert it.codes & {"commit-version", "region-version", "member-missing", "read-only"}
        assert it.board.drives[1].sectors == before
    it.rot(0, 5)
    it.rot_manifest()
    assert it.on().verdict == "RUN" and it.runs(it.new)


@pytest.mark.parametrize("remembers", ALL)
def test_a_journal_of_a_newer_format_is_left_alone_and_the_others_are_told(remembers):
    it = Controller(remembers, journal=4)
    one, two = it.places
    for page in range(4):
        one.journal_page(page, 5, major=2)
    pages = one.get(one.page(0), 4 * 4096)
    it.rot(1)
    assert it.on().verdict == "RUN" and it.runs(it.new)
    assert "journal-version" in it.codes
    assert one.get(one.page(0), 4 * 4096) == pages
    told = two.get(two.page(0), 4 * 4096)
    assert b"repaired" in told


@pytest.mark.parametrize("serial", [0xFEFFFFFF, 0xFF000000, LIMIT])
@pytest.mark.parametrize("number", [1, 0xFEFFFFFF, 0xFFFFFFFF])
def test_a_forged_journal_page_does_not_stop_the_journal(serial, number):
    it = Controller("set", journal=4)
    for place in it.places:
        place.journal_page(2, serial, number=number)
    for _ in range(3):
        it.rot(1)
        assert it.on().verdict == "RUN" and it.runs(it.new)
        for place in it.places:
            assert b"repaired" in place.get(place.page(0), 4 * 4096)


# Other sets, other disks


@pytest.mark.parametrize("remembers", ["set", "flash"])
@pytest.mark.parametrize("first", [False, True], ids=["behind", "before"])
def test_a_region_on_another_disk_does_not_make_the_own_one_foreign(remembers, first):
    """poc_trust p10"""
    it = Controller(remembers, "new", members=1)
    other = another_disk(it, it.new, generation=LIMIT)
    it.board.drives.insert(0 if first else 1, other)
    before = dict(other.sectors)
    own = it.board.drives[1 if first else 0]
    assert it.on().verdict == "RUN"
    assert sorted(it.states) == ["foreign", "level"]
    install(it.board, it.old)
    assert it.on().verdict == "RUN" and sorted(it.states) == ["created", "foreign"]
    assert it.place(own).holds(1, it.old) and other.sectors == before
    it.rot_manifest()
    assert it.on().verdict == "RUN" and it.runs(it.old) and other.sectors == before


@pytest.mark.parametrize("remembers", ALL)
@pytest.mark.parametrize("alone", [False, True])
def test_a_fleet_mate_already_updated_is_not_taken_for_the_own_backup(remembers, alone):
    it = Controller(remembers, "old")
    mate = another_disk(it, it.other, generation=50)
    if alone:
        it.board.drives[:] = [mate]
    else:
        it.board.drives.insert(0, mate)
    before = dict(mate.sectors)
    it.on()
    if remembers:
        assert mate.sectors == before
        assert not alone or "set-other" in it.codes
    it.rot_manifest()
    it.on()
    if remembers:
        assert not it.runs(it.other) and mate.sectors == before
    assert remembers or not alone or it.codes & {"memory-none"}
    if not alone and remembers:
        assert it.runs(it.old)


@pytest.mark.parametrize("remembers", REMEMBERING)
def test_disks_of_another_controller_alone_are_read_for_the_own_build_and_not_written(remembers):
    it = Controller(remembers)
    other = another_disk(it, it.new)
    it.board.drives[:] = [other]
    before = dict(other.sectors)
    it.rot(1, 2)
    it.rot_manifest()
    report = it.on()
    assert report.runs and it.runs(it.new) and "set-other" in it.codes
    assert other.sectors == before and it.states == ["foreign", "missing", "missing"]


@pytest.mark.parametrize("remembers", REMEMBERING)
def test_two_disks_that_were_updated_apart_come_together_as_the_memory_says(remembers):
    it = Controller(remembers, "old", "new")
    one, two = it.places
    # The second disk was away and comes back with a generation that another controller gave it.
    two.plant(0, it.old, 200)
    two.plant(1, it.other, 201)
    for content in (it.new, it.new):
        it.rot(3)
        assert it.on().verdict == "RUN" and it.runs(content)
    assert two.holds(1, it.new) or two.holds(0, it.new)
    it.board.nor.data[: 6 * SIZE] = b"\xff" * (6 * SIZE)
    it.rot_manifest()
    assert it.on().verdict == "RUN" and it.runs(it.new)


@pytest.mark.parametrize("remembers", REMEMBERING)
@pytest.mark.parametrize("stale", [0, 1])
def test_a_stale_disk_with_a_higher_generation_does_not_bring_the_old_build_back(remembers, stale):
    it = Controller(remembers, "old", "new")
    it.places[stale].plant(0, it.old, 0xFE000000)
    it.places[stale].plant(1, it.old, 0xFE000001)
    it.rot(0, 1, 2, 3, 4, 5)
    it.rot_manifest()
    assert it.on().verdict == "RUN" and it.runs(it.new) and "older-build" not in it.codes


@pytest.mark.parametrize("remembers", REMEMBERING)
@pytest.mark.parametrize("damage", ["block", "manifest"])
def test_an_older_build_over_intact_newer_blocks_is_told(remembers, damage):
    it = Controller(remembers, "old", "new")
    for place in it.places:
        place.plant(0, it.old, 7)
        place.plant(1, it.old, 8)
    it.rot_manifest() if damage == "manifest" else it.rot(2)
    report = it.on()
    assert report.verdict == "RUN" and it.runs(it.old)
    assert ["older-build", "flash", "1.0"] in report.data["reasons"]


@pytest.mark.parametrize("remembers", REMEMBERING)
def test_a_cloned_disk_is_read_and_only_one_of_both_is_written(remembers):
    it = Controller(remembers, "old", members=1)
    (own,) = it.board.drives
    clone = RamDisk("clone", own.count, it.board.power)
    clone.sectors = dict(own.sectors)
    it.board.drives.append(clone)
    install(it.board, it.new)
    before = dict(clone.sectors)
    assert it.on().verdict == "RUN" and it.states == ["created", "new"]
    assert clone.sectors == before and "member-new" in it.codes


@pytest.mark.parametrize("remembers", ["nothing", None])
def test_two_sets_without_a_memory_are_left_alone(remembers):
    it = Controller(None, "old", members=1)
    it.board.drives.append(another_disk(it, it.evil, generation=1))
    board = sim.SimBoard(bytearray(it.new), members=0, remembers=remembers)
    board.drives = it.board.drives
    it.board = board
    _, before = it.state()
    report = it.on()
    assert report.verdict == "RUN_DEGRADED" and "set-unclear" in it.codes
    assert it.state()[1] == before
    it.rot_manifest()
    assert it.on().verdict == "RESCUE" and not it.board.nor.erases
    assert it.state()[1] == before


# Where the region is


@pytest.mark.parametrize("remembers", ALL)
@pytest.mark.parametrize("units", ["tail", "both tails", "head", "head and tail"])
def test_forged_headers_on_a_data_disk_get_nothing_written(remembers, units):
    """poc_trust p6: the content of somebody's files, all of the disk claimed."""
    board = sim.SimBoard(image(1, "2.0", remembers), members=0, remembers=remembers)
    disk = RamDisk("data", 5000, board.power)
    for lba in range(disk.count):
        disk.sectors[lba] = (b"user %07d" % lba * 43)[:512].ljust(512, b"!")
    sectors = (disk.count - 8) // 8 * 8
    size = sectors * 512
    slot = (size - 12288) // 2 // 4096 * 4096
    unit = sim.header(disk, 8, size=size, slot=slot)
    end = 8 * 512 + size
    if units != "head":
        sim.put(disk, end - 4096, unit)
    if units == "both tails":
        sim.put(disk, end - 8192, unit)
    if "head" in units:
        sim.put(disk, 8 * 512, unit)
    board.drives.append(disk)
    before = dict(disk.sectors)
    report = lifeboat.power_on(board)
    assert report.verdict == "RUN_DEGRADED" and disk.sectors == before and not disk.written


@pytest.mark.parametrize("remembers", ["set", "flash"])
def test_forged_headers_do_not_move_a_remembered_region(remembers):
    """A second region, whole and agreed, at the disk's end; the own one in the middle."""
    it = Controller(remembers, members=1)
    (disk,) = it.board.drives
    disk.count += 5000
    unit_at = disk.count - disk.count % 8
    first = unit_at - 2000
    unit = sim.header(disk, first, size=2000 * 512, slot=400 * 1024, set_id=b"S" * 16)
    for at in (first * 512, unit_at * 512 - 8192, unit_at * 512 - 4096):
        sim.put(disk, at, unit)
    it.fresh()
    install(it.board, it.old)
    assert it.on().verdict == "RUN" and it.states == ["created"]
    assert max(disk.written) < first


@pytest.mark.parametrize("remembers", ALL)
def test_a_gpt_written_through_the_user_area_is_refused(remembers):
    """poc_trust p4"""
    it = Controller(remembers, members=1, extra=4000)
    (disk,) = it.board.drives
    area = user_area(disk)
    made = RamDisk("made", disk.count)
    first = 64
    sectors = it.places[0].size // 512
    gpt.both(made, [(gpt.LIFEBOAT, first, first + sectors - 1)])
    with pytest.raises(OSError) as error:
        area.writeblocks(1, made.sectors[1])
    assert error.value.errno == EPERM
    with pytest.raises(OSError):
        area.writeblocks(disk.count - 1, made.sectors[disk.count - 1])
    for lba, data in made.sectors.items():
        try:
            area.writeblocks(lba, data)
        except OSError:
            pass
    area.ioctl(3, 0)
    assert it.on().verdict == "RUN" and it.states == ["level"]
    with pytest.raises(OSError):
        user_area(disk).writeblocks(it.places[0].start // 512, bytes(512))


@pytest.mark.parametrize("where", ["gpt", "lba"])
@pytest.mark.parametrize("remembers", ["set", None])
def test_headers_written_through_the_user_area_do_not_move_the_region(remembers, where):
    """The region lies in the middle; the end of the disk, where regions are looked for, too, is
    the application's."""
    board = sim.SimBoard(image(1, "2.0"), members=1, remembers="nothing" if remembers else None)
    (disk,) = board.drives
    disk.count += 6000
    disk.sectors.clear()
    first = 128
    lbas = (first, first + sim.REGION // 512 - 8) if where == "lba" else ()
    board.REGION_LBAS = lbas
    if where == "gpt":
        gpt.both(disk, [(gpt.LIFEBOAT, first, first + sim.REGION // 512 - 1)])
    sim.make_region(disk, first)
    if remembers:
        board.remember([disk])
    assert lifeboat.power_on(board).verdict == "RUN"
    area = user_area(disk, lbas)
    end = disk.count - disk.count % 8
    start = end - sim.REGION // 512
    unit = sim.header(disk, start, set_id=b"E" * 16)
    for lba in (start, end - 16, end - 8):
        try:
            area.writeblocks(lba, unit)
        except OSError as error:
            assert error.errno == EPERM
    area.ioctl(3, 0)
    running.places = ()
    report = lifeboat.power_on(board)
    assert report.data["members"][0]["state"] == "level", report.data
    disk.written.clear()
    board.nor.data[:] = image(2, "1.0")
    assert lifeboat.power_on(board).verdict == "RUN"
    assert max(disk.written) < start


@pytest.mark.parametrize("remembers", ["set", "flash"])
@pytest.mark.parametrize("partitions", ["none", "all", "small"])
@pytest.mark.parametrize("tables", ["both", "primary", "backup"])
def test_a_gpt_over_the_disk_does_not_hide_the_region_and_is_not_written_over(
    remembers, partitions, tables
):
    """As sgdisk leaves it: copies are whole, the tail headers are under the backup table."""
    it = Controller(remembers, "old", members=1, extra=600, slots=3)
    (disk,) = it.board.drives
    last = disk.count - 34
    found = {"none": [], "all": [(gpt.LINUX, 40, last)], "small": [(gpt.LINUX, 40, 90)]}[
        partitions
    ]
    if tables != "backup":
        gpt.table(disk, found)
    if tables != "primary":
        gpt.table(disk, found, lba=disk.count - 1)
    before = dict(disk.sectors)
    install(it.board, it.new)
    report = it.on()
    assert report.verdict == "RUN_DEGRADED" and it.states == ["claimed"]
    assert "region-claimed" in it.codes and disk.sectors == before
    install(it.board, it.old)
    it.rot(0, 3)
    it.rot_manifest()
    assert it.on().runs and it.runs(it.old) and disk.sectors == before


@pytest.mark.parametrize("remembers", ["set", "flash"])
def test_an_mbr_over_the_region_is_told_and_the_region_only_read(remembers):
    it = Controller(remembers, members=1, extra=600)
    (disk,) = it.board.drives
    entry = struct.pack("<B3sB3sII", 0, b"", 0x83, b"", 63, disk.count - 63)
    disk.sectors[0] = bytes(446) + entry + bytes(48) + b"\x55\xaa"
    before = dict(disk.sectors)
    install(it.board, it.old)
    assert it.on().verdict == "RUN_DEGRADED" and "region-claimed" in it.codes
    assert disk.sectors == before
    install(it.board, it.new)
    it.rot(4)
    assert it.on().runs and it.runs(it.new) and disk.sectors == before


@pytest.mark.parametrize("remembers", REMEMBERING)
def test_a_raw_disk_that_lost_both_tail_headers_is_found_by_its_head(remembers):
    it = Controller(remembers, members=1)
    (place,) = it.places
    for at in place.headers[1:]:
        place.put(at, bytes(4096))
    it.rot(1)
    assert it.on().verdict == "RUN" and it.runs(it.new)
    assert "header-bad" in it.codes and it.states == ["mended"]
    assert len({place.get(at) for at in place.headers}) == 1


def test_without_a_memory_a_disk_that_lost_both_tail_headers_is_not_written():
    it = Controller(None, members=1)
    (place,) = it.places
    for at in place.headers[1:]:
        place.put(at, bytes(4096))
    before = dict(place.disk.sectors)
    assert it.on().verdict == "RUN_DEGRADED" and place.disk.sectors == before


@pytest.mark.parametrize("remembers", ["set", "flash"])
def test_headers_that_lie_about_slots_and_journal_write_only_into_the_region(remembers):
    it = Controller(remembers, "old", members=1, journal=4, slots=3, extra=4000)
    (place,) = it.places
    lies = [
        {"f68": struct.pack("<I", 16)}, {"f72": struct.pack("<Q", 1 << 40)},
        {"f80": struct.pack("<QI", 4096, 1024)}, {"f140": struct.pack("<I", 8192)},
        {"f136": struct.pack("<I", 4096)}, {"f100": b"\xff" * 4}, {"f64": b"\0\0\x40\0"},
        {"f48": struct.pack("<Q", 8)}, {"f56": struct.pack("<Q", 8)}, {"f12": b"\0\x10\0\0"},
    ]  # fmt: skip
    kept = dict(place.disk.sectors)
    for lie in lies:
        place.disk.sectors = dict(kept)
        place.header(**lie)
        it.fresh()
        for content in (it.new, it.old, it.other):
            install(it.board, content)
            assert it.on().runs, lie
            it.rot(2)
            it.on()
            first = place.start // 512
            assert all(first <= lba < first + place.size // 512 for lba in place.disk.written)
        install(it.board, it.old)


# Sums that disagree


@pytest.mark.parametrize("remembers", ALL)
@pytest.mark.parametrize("manifest_too", [False, True])
def test_a_manifest_whose_sums_disagree_gets_nothing_erased(remembers, manifest_too):
    """poc_trust p8"""
    it = Controller(remembers, members=1)
    (place,) = it.places
    memory = 8 if remembers == "flash" else 0
    raw, crcs, shas = lying_manifest(900, memory=memory)
    for slot, code in ((0, crcs), (1, shas)):
        place.put(place.slot(slot), place.record(slot, raw, LIMIT))
        place.put(place.manifest(slot), raw.ljust(65536, b"\0"))
        place.put(place.block(slot, 0), code)
    it.rot(0)
    if manifest_too:
        it.rot_manifest()
    before = bytes(it.board.nor.data)
    for _ in range(4):
        assert it.on().verdict == "RESCUE" and "block-lost" in it.codes
        assert it.board.nor.erases == 0 and it.board.nor.data == before


# Flash that does not take it


class Wrapped:
    """A code flash that refuses or swallows what is to change it. only: these blocks do."""

    def __init__(self, nor, error=None, only=None):
        self._nor, self._error, self._only = nor, error, only

    def __getattr__(self, name):
        return getattr(self._nor, name)

    def _bad(self, block):
        if self._only is not None and block not in self._only:
            return False
        if self._error:
            raise OSError(self._error, "nor")
        return True

    def writeblocks(self, block, buf, *offset):
        return None if self._bad(block) else self._nor.writeblocks(block, buf, *offset)

    def ioctl(self, op, arg):
        if op == 6 and self._bad(arg):
            return 0
        return self._nor.ioctl(op, arg)


@pytest.mark.parametrize(
    "error, code", [(30, "flash-locked"), (None, "flash-locked"), (5, "flash-failed")]
)
@pytest.mark.parametrize("remembers", ["set", None])
def test_a_flash_that_takes_no_erase_is_told_with_no_erase_counted(remembers, error, code):
    """boardmsg, deafrepair"""
    it = Controller(remembers, journal=8)
    genuine = it.board.nor
    it.rot(2)
    it.board.nor = Wrapped(genuine, error)
    for i in range(10):
        report = it.on()
        data = report.data
        assert report.verdict == "RESCUE"
        assert data["erases"] == 0 and data["repaired"] == [] and data["bad"] == [[2, 1]]
        assert it.codes & {code, "repair-limit"} and None not in [r[2] for r in data["reasons"]]
        assert it.states == ["level", "level"] or it.states == ["stale", "stale"]
        if remembers and i >= 3:
            assert "repair-limit" in it.codes
    told = it.places[0].get(it.places[0].page(0), 8 * 4096)
    assert b"repaired" not in told and code.encode() in told
    it.board.nor = genuine
    report = it.on(unlimited=True)
    assert report.verdict == "RUN" and report.data["repaired"] == [[2, 1, "disk0"]]


@pytest.mark.parametrize("remembers", REMEMBERING)
@pytest.mark.parametrize("block", [2, "manifest"])
def test_a_worn_block_is_erased_three_times_at_most_and_a_person_may_try_again(remembers, block):
    it = Controller(remembers)
    it.rot(2) if block == 2 else it.rot_manifest()
    at = 2 * SIZE + 11 if block == 2 else len(it.board.nor.data) - SIZE + 20
    it.board.nor.stuck = (at,)
    worn = []
    for _ in range(8):
        before = it.board.power.log[:]
        assert it.on().verdict == "RESCUE"
        worn += [
            where
            for device, name, where in it.board.power.log[len(before) :]
            if (device, name) == ("flash", "erase") and where == at // SIZE * SIZE
        ]
        in_memory = 2 if remembers == "flash" else 0
        assert it.report.data["erases"] <= 1 + in_memory
    assert len(worn) == 3 and "repair-limit" in it.codes
    assert it.on(unlimited=True).verdict == "RESCUE" and "flash-verify" in it.codes
    it.board.nor.stuck = ()
    assert it.on(unlimited=True).verdict == "RUN" and it.runs(it.new)
    assert it.on().verdict == "RUN" and not it.codes - {"adopted"}


def test_one_locked_block_leaves_the_other_repairs_counted_truly():
    it = Controller("set")
    genuine = it.board.nor
    it.rot(1, 3)
    it.board.nor = Wrapped(genuine, 30, only=(3,))
    report = it.on()
    assert report.verdict == "RESCUE" and "flash-locked" in it.codes
    assert report.data["erases"] == 1 and report.data["repaired"] == [[1, 1, "disk0"]]


def test_a_flash_that_is_not_found_is_told_and_the_disks_are_looked_at():
    it = Controller("set", journal=4)

    def gone():
        raise OSError(ENODEV, "unknown flash")

    it.board.flash = gone
    report = it.on()
    assert report.verdict == "RESCUE" and "flash-failed" in it.codes
    assert len(it.states) == 2 and "failed" not in it.states
    told = it.places[0].get(it.places[0].page(0), 4 * 4096)
    assert b"flash-failed" in told


def test_a_disk_that_fails_its_init_is_told_and_the_other_one_is_used():
    it = Controller("set")
    it.board.drives[1].fault = lambda op, lba, n: ENODEV if op == "init" else None
    assert it.on().verdict == "RUN" and "disk-failed" in it.codes
    assert it.states == ["level", "failed"]


@pytest.mark.parametrize("remembers", ALL)
def test_what_stands_behind_the_manifest_is_erased_only_with_a_copy_and_told(remembers):
    """envblock: somebody's data in the manifest's block."""
    it = Controller(remembers)
    at = len(it.board.nor.data) - 64
    it.board.nor.data[at : at + 8] = b"bootargs"
    for place in it.places:
        place.put(place.slot(0), bytes(4096))
    report = it.on()
    assert report.runs and it.board.nor.data[at : at + 8] == b"bootargs"
    assert "manifest-padding" in it.codes and report.data["manifest"] == "padding"
    report = it.on()
    assert it.runs(it.new) and report.data["erases"] == 1
    block = it.total - 1
    assert report.data["bad"] == [[block, 1]] and report.data["repaired"][0][0] == block


# What is told


def test_damaged_records_do_not_keep_weightier_findings_out_of_the_report():
    """Sixteen slots a disk, all with a record that is told; and a claimed region (I13)."""
    it = Controller("set", members=3, slots=16)
    for place in it.places:
        for slot in range(16):
            record = bytearray(place.record(slot, parts(it.evil)[1], 5))
            record[508] ^= 1
            place.put(place.slot(slot), record)
    disk = it.board.drives[2]
    entry = struct.pack("<B3sB3sII", 0, b"", 0x83, b"", 63, disk.count - 63)
    disk.sectors[0] = bytes(446) + entry + bytes(48) + b"\x55\xaa"
    place = it.places[1]
    place.put(place.headers[1], bytes(4096))
    it.board.drives.append(another_disk(it, it.new))
    it.on()
    assert {"region-claimed", "header-bad"} <= it.codes
    assert {"commit-crc"} <= it.codes


def test_texts_of_records_do_not_reach_the_console_as_they_are(capsys):
    it = Controller("set")
    code, manifest = parts(it.evil)
    raw = bytearray(manifest)
    raw[72:96] = b"\x1b[2J\r\nlifeboat: {}".ljust(24, b"\0")
    raw[-4:] = struct.pack("<I", sim.crc32(raw[:-4]))
    for place in it.places:
        place.put(place.slot(1), place.record(1, bytes(raw), 50))
        place.put(place.manifest(1), bytes(raw).ljust(4096, b"\0"))
        place.journal = None
    it.rot_manifest()
    it.on()
    out = capsys.readouterr().out
    assert "\x1b" not in out and "\r" not in out


def test_an_unreadable_disk_full_of_forgeries_does_not_stop_a_repair():
    it = Controller("set")
    one, two = it.places
    forge_all(it, which=[one])
    start = one.block(0, 2) // 512
    it.board.drives[0].fault = lambda op, lba, n: EIO if op == "read" and lba == start else None
    it.rot(0, 1, 2, 3, 4, 5)
    it.rot_manifest()
    assert it.on().verdict == "RUN" and it.runs(it.new)
