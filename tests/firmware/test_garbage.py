"""I5: any bytes whatever in region, slots and manifest give a verdict, and no write but by the rules."""

import random
import struct
import zlib

import pytest
from fakes import board as sim

import lifeboat

GOOD = sim.image(seed=1, version="2.0")
MANIFEST_AT = (sim.BLOCKS - 1) * sim.ERASE
MANIFEST_SIZE = struct.unpack_from("<I", GOOD, MANIFEST_AT + 12)[0]


@pytest.fixture(scope="module")
def media():
    """What two disks hold after a power-on with intact code."""
    board = sim.SimBoard(bytearray(GOOD))
    assert lifeboat.power_on(board).verdict == "RUN"
    return [disk.sectors for disk in board.drives]


def board_with(media, flash=GOOD):
    board = sim.SimBoard(bytearray(flash))
    for disk, sectors in zip(board.drives, media):
        disk.sectors = dict(sectors)
    return board


def allowed(disk):
    """The sectors in which the header copies of a disk, as they are, let lifeboat write."""
    region = disk.count - sim.REGION // 512
    ranges = [range(region, disk.count)]
    for lba in (region, disk.count - 16, disk.count - 8):
        start, sectors = struct.unpack_from("<QQ", sim.get(disk, lba * 512, 512), 48)
        if start + sectors <= disk.count:
            ranges.append(range(start, start + sectors))
    return ranges


def run(board, *, code_is_good):
    """Power on; check what holds whatever the bytes were. Returns the report."""
    rules = [allowed(disk) for disk in board.drives]
    before = bytes(board.nor.data)
    report = lifeboat.power_on(board)
    assert "internal" not in [code for code, _, _ in report.data["reasons"]], report.data
    if code_is_good:
        assert report.runs
    if not report.runs:
        assert bytes(board.nor.data) == before
    for disk, ranges in zip(board.drives, rules):
        assert all(any(lba in r for r in ranges) for lba in disk.written)
    return report


def fill(kind, size, rng):
    return {"zeros": bytes(size), "ones": b"\xff" * size, "random": rng.randbytes(size)}[kind]


@pytest.mark.parametrize("damage_flash", [False, True], ids=["intact", "damaged"])
@pytest.mark.parametrize("where", ["region", "manifest", "both"])
@pytest.mark.parametrize("kind", ["zeros", "ones", "random"])
def test_whole_areas_of_garbage(media, kind, where, damage_flash):
    rng = random.Random(7)
    board = board_with(media)
    if damage_flash:
        board.nor.data[100] ^= 1
    if where != "manifest":
        for disk in board.drives:
            sim.put(disk, disk.count * 512 - sim.REGION, fill(kind, sim.REGION, rng))
    if where != "region":
        board.nor.data[MANIFEST_AT:] = fill(kind, sim.ERASE, rng)
    report = run(board, code_is_good=where == "region" and not damage_flash)
    healed = where == "manifest" or not (damage_flash or where == "both")
    assert report.runs == healed
    if healed:
        assert board.nor.data == GOOD


def mutate(rng, data, crc_at, fix):
    """Change one to four fields' worth of bytes; fix: make the CRC right again."""
    data = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(crc_at)
        size = rng.choice((1, 1, 2, 4, 8))
        value = rng.choice((rng.randbytes(size), b"\xff" * size, bytes(size)))
        data[at : at + size] = value[: max(0, len(data) - at)]
    data = data[: crc_at + 4]
    if fix:
        struct.pack_into("<I", data, crc_at, zlib.crc32(data[:crc_at]))
    return bytes(data)


@pytest.mark.parametrize("part", ["header", "commit", "flash-manifest", "slot-manifest", "all"])
def test_a_thousand_mutated_records(media, part):
    rng = random.Random(part)
    ran = 0
    for i in range(1000):
        board = board_with(media)
        fix = i % 4 != 0
        damaged = i % 2 == 1
        if damaged:
            board.nor.data[rng.randrange(6 * sim.ERASE)] ^= 1 << rng.randrange(8)
        for disk in board.drives[: rng.randint(1, 2)]:
            region = disk.count * 512 - sim.REGION
            places = {
                "header": [region, disk.count * 512 - 8192, disk.count * 512 - 4096],
                "commit": [region + 4096 + k * sim.SLOT for k in (0, 1)],
            }
            for name, offsets in places.items():
                if part in (name, "all"):
                    record = mutate(rng, sim.get(disk, offsets[0], 512), 508, fix)
                    for offset in offsets[: rng.randint(1, len(offsets))]:
                        sim.put(disk, offset, record)
            if part in ("slot-manifest", "all"):
                raw = sim.get(disk, region + 4096 + 4096, 4096)
                raw = mutate(rng, raw[:MANIFEST_SIZE], MANIFEST_SIZE - 4, fix).ljust(4096, b"\0")
                sim.put(disk, region + 4096 + 4096, raw)
        if part in ("flash-manifest", "all"):
            raw = bytes(board.nor.data[MANIFEST_AT : MANIFEST_AT + MANIFEST_SIZE])
            raw = mutate(rng, raw, MANIFEST_SIZE - 4, fix)
            board.nor.data[MANIFEST_AT : MANIFEST_AT + MANIFEST_SIZE] = raw
        changed = damaged or part in ("flash-manifest", "all")
        ran += run(board, code_is_good=not changed).runs
    assert 0 < ran <= 1000
