"""I5: any bytes in region, slots and manifest give a verdict, and no write but by the rules."""

import hashlib
import struct
from binascii import crc32

import pytest

from fakes import board as sim
from fakes import scenarios
from fakes.rng import Rng
from sim.disk import RamDisk


@pytest.fixture(scope="module")
def media():
    return scenarios.backed_up()


def fill(kind, size):
    return {"zeros": bytes(size), "ones": b"\xff" * size, "random": sim.noise(7, size)}[kind]


@pytest.mark.parametrize("damage_flash", [False, True], ids=["intact", "damaged"])
@pytest.mark.parametrize("where", ["region", "manifest", "both"])
@pytest.mark.parametrize("kind", ["zeros", "ones", "random"])
def test_whole_areas_of_garbage(media, kind, where, damage_flash):
    board = scenarios.board_with(media)
    if damage_flash:
        board.nor.data[100] ^= 1
    if where != "manifest":
        for disk in board.drives:
            sim.put(disk, scenarios.region_of(disk), fill(kind, sim.REGION))
    if where != "region":
        board.nor.data[scenarios.MANIFEST_AT :] = fill(kind, sim.ERASE)
    report = scenarios.judge(board, where == "region" and not damage_flash)
    healed = where == "manifest" or not (damage_flash or where == "both")
    assert report.runs == healed
    if healed:
        assert board.nor.data == scenarios.NEW


@pytest.mark.parametrize("part", scenarios.PARTS)
def test_a_thousand_mutated_records(media, part):
    rng = Rng(part)
    ran = 0
    for i in range(1000):
        ran += scenarios.mutated(media, part, rng, fix=i % 4 != 0, damaged=i % 2 == 1).runs
    assert ran > 500  # what is intact, and some of what is damaged


def sealed(record):
    return record + struct.pack("<I", crc32(record))


@pytest.mark.parametrize("damage_flash", [False, True], ids=["intact", "damaged"])
def test_a_copy_is_not_read_for_as_long_as_it_says(media, damage_flash):
    """A disk of 25 GB has room for copies of six blocks of 2 GB, and says that it holds them."""
    block = 1 << 31
    slot = sim.slot_size(6 + 1, block)
    size = sim.region_size(slot)
    disk = RamDisk("disk0", size // 512 + 40)
    start = sim.make_region(disk, slot=slot, size=size) * 512
    good = scenarios.NEW[scenarios.MANIFEST_AT :][: scenarios.MANIFEST_SIZE - 4]
    manifest = sealed(bytes(good[:16]) + struct.pack("<I", block) + bytes(good[20:]))
    board = scenarios.board_with(media)
    record = sim.get(board.drives[0], scenarios.slot_of(board.drives[0], 0), 512)[:508]
    for k in (0, 1):
        at = start + 4096 + k * slot
        said = bytearray(record)
        struct.pack_into("<I", said, 12, k)
        said[32:64] = hashlib.sha256(manifest[:-4]).digest()
        struct.pack_into("<II", said, 64, 7 - k, len(manifest))
        struct.pack_into("<I", said, 72, block)
        sim.put(disk, at, sealed(bytes(said)))
        sim.put(disk, at + 4096, manifest + bytes(-len(manifest) % 512))
    board.drives[:] = [disk]
    board.nor.data[100] ^= damage_flash
    assert scenarios.judge(board, not damage_flash).runs != damage_flash
