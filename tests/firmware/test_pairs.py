"""Two conditions at once, each of which is harmless alone."""

import struct
from binascii import crc32
from errno import EIO, ETIMEDOUT

import pytest

import lifeboat
from fakes import board as sim
from fakes.forgery import Place, image, install, parts, same_crc, sealed
from fakes.scenarios import codes, states
from lifeboat import running, trust
from lifeboat.codeflash import CodeFlash
from lifeboat.scrub import Scrubber
from sim.disk import RamDisk

SIZE = sim.ERASE
READ_ONLY = struct.pack("<II", 0, 1)  # incompat, ro_compat


def board(*versions, members=2, **kwargs):
    """A board that ran these versions, and whose members have backups of the last two."""
    it = sim.SimBoard(bytearray(image(1, versions[0])), members=members, **kwargs)
    for i, version in enumerate(versions):
        install(it, image(1 + i, version))
        assert lifeboat.power_on(it).verdict == "RUN"
    it.nor.erases = 0
    return it


def scrubber_of(it):
    running.attended = False
    return Scrubber(it, start=0)


def recall(it):
    return trust.Trust(it, CodeFlash(it.nor, SIZE)).recall().memory


def failing_flash(it, error, first):
    """Reads of the bytes [first, first + 512) fail until something was erased."""
    read = it.nor.readblocks

    def readblocks(block, buf, offset=0):
        at = block * SIZE + offset
        if at < first + 512 and first < at + len(buf) and not it.nor.erases:
            raise OSError(error, "flash")
        return read(block, buf, offset)

    it.nor.readblocks = readblocks


@pytest.mark.parametrize("remembers", ["set", None])
def test_an_erased_flash_with_a_block_that_can_not_be_read_is_restored(remembers):
    it = board("1.0", mapped=False, remembers=remembers)
    it.nor.data[:] = b"\xff" * len(it.nor.data)
    failing_flash(it, EIO, 0)
    report = lifeboat.power_on(it)
    assert report.verdict == "RUN"
    assert codes(report) == ([] if remembers else ["memory-none"])
    assert it.nor.data == image(1, "1.0")


def test_a_flash_that_stops_to_answer_while_the_plan_is_made_is_named():
    it = board("1.0", mapped=False)
    it.nor.data[-SIZE] ^= 1  # the manifest's magic
    failing_flash(it, ETIMEDOUT, 2 * SIZE)
    report = lifeboat.power_on(it)
    assert report.verdict == "RESCUE"
    assert "flash-failed" in codes(report) and "internal" not in codes(report)


@pytest.mark.usefixtures("no_parity")
def test_what_a_disk_holds_does_not_use_up_the_tries_of_a_block():
    it = board("1.0", members=1)
    place = Place(it.drives[0])
    good = place.get(place.block(0, 1), SIZE)
    place.put(place.block(0, 1), same_crc(good))
    it.nor.data[SIZE + 11] ^= 1
    recall(it).count_failure(1, 1)
    for _ in range(4):
        report = lifeboat.power_on(it)
        assert report.verdict == "RESCUE" and "block-lost" in codes(report)
        assert recall(it).failed == {1: 1} and it.nor.erases == 0
    place.put(place.block(0, 1), good)
    assert lifeboat.power_on(it).verdict == "RUN"
    assert recall(it).failed == {}


def test_a_failing_block_and_a_memory_that_takes_no_record_are_both_told():
    it = board("1.0", members=1)
    it.nor.data[SIZE + 7] ^= 1
    it.nor.stuck = (SIZE + 7,)

    def writeblocks(*args):
        raise OSError(EIO, "memory")

    it.chip.writeblocks = writeblocks
    report = lifeboat.power_on(it)
    assert report.verdict == "RESCUE"
    assert {"flash-verify", "memory-failed"} <= set(codes(report))


@pytest.mark.parametrize("first", [True, False])
def test_a_disk_with_the_ids_of_a_member_does_not_shut_the_member_out(first):
    it = board("1.0", members=1)
    clone = RamDisk("usb", it.drives[0].count + 400, it.power)
    sim.make_region(clone, member=0, members=1)
    it.drives.insert(0 if first else 1, clone)
    install(it, image(2, "2.0"))
    clone.written.clear()
    report = lifeboat.power_on(it)
    assert report.verdict == "RUN" and sorted(states(report)) == ["created", "new"]
    assert not clone.written


def test_adopting_a_set_takes_one_disk_for_each_member():
    it = board("1.0", members=1)
    clone = RamDisk("usb", it.drives[0].count + 400, it.power)
    sim.make_region(clone, member=0, members=1)
    it.drives.append(clone)
    clone.written.clear()
    lifeboat.power_on(it, adopt=b"S" * 16)
    (member,) = recall(it).members
    assert member[7].rstrip(b"\0") == b"disk0"
    assert not clone.written


def test_a_memory_without_a_set_adopts_none_unasked():
    it = board("1.0", members=1)
    recall(it).remember_set([])
    it.drives[0].sectors.clear()
    sim.make_region(it.drives[0], set_id=b"X" * 16)
    it.drives[0].written.clear()
    report = lifeboat.power_on(it)
    assert report.verdict == "RUN_DEGRADED" and "set-unclear" in codes(report)
    assert not it.drives[0].written and recall(it).set_id is None
    assert lifeboat.power_on(it, adopt=b"X" * 16).verdict == "RUN"


def test_a_manifest_that_found_no_memory_is_not_given_up_for_a_backup(monkeypatch):
    """I2: the other slot holds nothing whole."""
    it = board("1.0", "2.0", members=1)
    place, two = Place(it.drives[0]), image(2, "2.0")
    (slot,) = [slot for slot in (0, 1) if place.holds(slot, two)]
    place.put(place.manifest(1 - slot), b"spoilt" * 50)
    install(it, image(3, "3.0"))
    load = trust.load

    def short(*args):
        manifest = load(*args)
        if manifest.version == "2.0":
            raise MemoryError
        return manifest

    monkeypatch.setattr(trust, "load", short)
    report = lifeboat.power_on(it)
    assert states(report) == ["created"]
    assert place.holds(slot, two) and place.holds(1 - slot, image(3, "3.0"))


def read_only_code():
    """Code that a newer version of lifeboat made: this one only runs it."""
    content = image(1, "1.0")
    _, manifest = parts(content)
    raw = bytearray(manifest)
    raw[96:104] = READ_ONLY
    content[-SIZE : -SIZE + len(raw)] = raw[:-4] + struct.pack("<I", crc32(raw[:-4]))
    return content


def test_the_scrubber_makes_no_backup_of_code_that_must_not_be_backed_up():
    it = sim.SimBoard(read_only_code())
    report = lifeboat.power_on(it)
    assert report.data["manifest"] == "ok" and states(report) == ["stale", "stale"]
    before = [disk.writes for disk in it.drives]
    scrubber = scrubber_of(it)
    for _ in range(80):
        scrubber.step(20)
    assert [disk.writes for disk in it.drives] == before


def make_read_only(place, slot):
    """A copy that only a newer version may change."""
    raw = bytearray(place.get(place.slot(slot))[:508])
    raw[80:88] = READ_ONLY
    place.put(place.slot(slot), sealed(raw[:508]))


def test_a_copy_of_a_newer_version_is_not_mended_at_a_power_on():
    it = board("1.0")
    place = Place(it.drives[0])
    make_read_only(place, 0)
    place.spoil(0, 1)
    held = place.get(place.slot(0), place.slot_size)
    it.nor.data[SIZE] ^= 1
    report = lifeboat.power_on(it)
    assert report.verdict == "RUN" and it.nor.data == image(1, "1.0")
    assert place.get(place.slot(0), place.slot_size) == held


def test_the_record_of_a_copy_of_a_newer_version_is_not_written_anew():
    it = board("1.0", members=1)
    place = Place(it.drives[0])
    make_read_only(place, 0)
    lifeboat.power_on(it)
    scrubber = scrubber_of(it)
    place.put(place.slot(0), bytes(512))
    for _ in range(200):
        scrubber.step(20)
    assert place.get(place.slot(0)) == bytes(512)


def test_a_backup_that_fails_in_the_scrubber_leaves_its_patrol_whole():
    it = board("1.0", "2.0", members=1)
    install(it, image(3, "3.0"))
    (disk,), place = it.drives, Place(it.drives[0])
    disk.fault = lambda op, lba, n: EIO if op == "write" else None
    assert states(lifeboat.power_on(it)) == ["stale"]
    first = place.block(0, 1) // 512
    disk.fault = lambda op, lba, n: EIO if op == "write" and first <= lba < first + 8 else None
    report = running.report
    del report.data["reasons"][:]
    scrubber = scrubber_of(it)
    for _ in range(300):
        scrubber.step(20)
    told = [*codes(report), *[entry[0] for entry in report.data.get("operation", ())]]
    assert "internal" not in told and scrubber.passes


def test_a_disk_exchanged_during_a_backup_is_not_written_to_its_end():
    it = sim.SimBoard(image(1, "1.0"), members=1)
    (disk,), place = it.drives, Place(it.drives[0])
    disk.fault = lambda op, lba, n: EIO if op == "write" else None
    lifeboat.power_on(it)
    disk.fault = None
    scrubber = scrubber_of(it)
    blocks = range(place.block(0, 0) // 512, place.block(0, 6) // 512)
    while not disk.written & set(blocks):
        scrubber.step(0)
    disk.settle("all")
    disk.sectors.clear()
    disk.written.clear()
    for _ in range(300):
        scrubber.step(0)
    assert len(disk.written) <= SIZE // 512  # the block that was under way


def test_blocks_that_were_healed_do_not_fill_the_memory():
    it = board("1.0", members=1)
    memory = recall(it)
    for block in range(200):
        memory.count_failure(block, 1)
        memory.count_failure(block, 0)
    assert memory.failed == {} and recall(it).failed == {}
    install(it, image(2, "2.0"))
    report = lifeboat.power_on(it)
    assert report.verdict == "RUN" and "memory-full" not in codes(report)
    assert len(recall(it).builds) == 2


def test_an_interrupted_power_on_leaves_the_scrubber_its_turn():
    it = board("1.0")

    def start():
        raise KeyboardInterrupt

    it.start = start
    with pytest.raises(KeyboardInterrupt):
        lifeboat.power_on(it)
    assert not running.power_on
