"""Parity and evidence of damage, as `region verify` and `log --evidence` tell of them."""

import json
import random
import zlib

import handmade
import pytest

from lifeboat_host.disk.disk import Disk
from lifeboat_host.model import evidence, parity, region

B = handmade.B
END = 4096 + handmade.SECTORS * 512
RING = handmade.AFTER_SLOTS
UNITS = 30
BLOCKS = handmade.BLOCKS[1:]  # two: their slot has just the room for parity
RAW = handmade.manifest(BLOCKS, [(b"os", 1, 0, 5000)])


@pytest.fixture
def disk_file(tmp_path):
    def make(content, name="disk.img"):
        path = tmp_path / name
        path.write_bytes(content)
        return path

    return make


# --- parity --------------------------------------------------------------------------------


def with_parity(blocks=BLOCKS, content=None, **keywords):
    raw = handmade.manifest(blocks, [(b"os", 1, 0, 5000)])
    data = handmade.disk(END, slots=[(0, 1, blocks, {"segments": [(b"os", 1, 0, 5000)]})])
    at = 4096 + 4096 + 69632 + len(blocks) * B
    content = handmade.parity(blocks, raw, **keywords) if content is None else content
    data[at : at + len(content)] = content
    return data


def state(path):
    with Disk(path) as disk:
        header = region.find(disk).header
        (check,) = region.verify(disk, region.read_slots(disk, header))
        return parity.state(disk, header, check)


def test_parity_that_fits_its_copy_is_whole(disk_file, lifeboat):
    path = disk_file(with_parity())
    assert state(path) == "whole"
    code, out, _ = lifeboat("region", "verify", path)
    assert code == 0 and out.strip().endswith("ok, with parity")
    result = json.loads(lifeboat("region", "verify", path, "--json")[1])
    assert result["members"][0]["copies"][0]["parity"] == "whole"


def test_a_slot_without_room_for_parity_is_told(disk_file, lifeboat):
    path = disk_file(with_parity(handmade.BLOCKS, b""))
    assert state(path) == "no-room"
    code, out, _ = lifeboat("region", "verify", path)
    assert code == 0 and "no room for parity" in out


def test_parity_blocks_are_read_and_held_against_the_copy(disk_file, lifeboat):
    good = handmade.parity(BLOCKS, RAW)
    path = disk_file(with_parity(content=good[:-1] + b"!"))
    assert state(path) == "damaged"
    code, out, _ = lifeboat("region", "verify", path)
    assert code == 3 and "slot 0: its parity is damaged" in out and "scrubber" in out
    # Well-formed, but not of these blocks.
    other = bytes(x ^ 1 for x in good[4096:])
    record = good[:128] + handmade.u32(zlib.crc32(other)) + good[132:4092]
    assert state(disk_file(with_parity(content=handmade.sealed(record) + other))) == "damaged"


def test_parity_is_whole_where_the_copy_has_a_bad_block(disk_file):
    data = with_parity()
    data[4096 + 4096 + 69632] ^= 1
    assert state(disk_file(data)) == "whole"


@pytest.mark.parametrize(
    "at, new, want",
    [
        (0, b"X", "none"), (8, b"\2", "newer"), (10, b"\0", "none"), (12, b"\1", "none"),
        (16, b"X", "none"), (32, b"X", "none"), (64, b"\2", "none"), (69, b"\x20", "none"),
        (72, b"\1", "newer"), (76, b"\1", "newer"),
    ],
)  # fmt: skip
def test_a_record_that_breaks_a_rule_is_none(disk_file, at, new, want):
    assert state(disk_file(with_parity(patch=[(at, new)]))) == want


def test_no_parity_is_no_problem(disk_file, lifeboat):
    path = disk_file(with_parity(content=bytes(8192)))
    assert state(path) == "none" and lifeboat("region", "verify", path)[0] == 0


# --- evidence ------------------------------------------------------------------------------


def disk_with(*units, slots=(), extent=(2, 0, UNITS, RING)):
    """A disk whose ring begins with these."""
    data = handmade.disk(END, slots=slots)
    for at in (4096, END - 8192, END - 4096):
        data[at : at + 4096] = handmade.region(extents=[extent])
    content = b"".join(units)
    data[4096 + RING : 4096 + RING + len(content)] = content
    return bytes(data)


def entries(path):
    with Disk(path) as disk:
        return evidence.read(disk, region.find(disk).header)


RIGHT = random.Random(1).randbytes(B)
SOME = [100, 300, 302]  # offsets of bytes that are not 0xFF


def but(changes, right=RIGHT):
    damaged = bytearray(right)
    for at, value in changes.items():
        damaged[at] = value
    return bytes(damaged)


def kind_of(disk_file, was, right=RIGHT, slots=(), **keywords):
    path = disk_file(disk_with(handmade.evidence(was, right, **keywords), slots=slots))
    (entry,) = entries(path)
    with Disk(path) as disk:
        builds = [
            slot.manifest
            for slot in region.read_slots(disk, region.find(disk).header)
            if slot.manifest
        ]
    return evidence.kind(entry, builds)


def test_cells_that_lost_their_charge(disk_file):
    right = but(dict.fromkeys(SOME, 0x11))
    kind, text = kind_of(disk_file, but(dict.fromkeys(SOME, 0x91), right), right)
    assert kind == "charge-lost" and text == "3 bits lost their charge (0 became 1)"
    one = but({100: 0x91}, right)
    assert kind_of(disk_file, one, right)[1] == "1 bit lost its charge (0 became 1)"


def test_cells_that_gained_charge_and_both_at_once(disk_file):
    right = but({100: 0x11, 300: 0x11})
    assert kind_of(disk_file, but({100: 0x01}, right), right)[0] == "bits"
    assert kind_of(disk_file, but({100: 0x01, 300: 0x91}, right), right)[0] == "bits"


def test_an_interrupted_erase(disk_file):
    """Most of the zeros have become ones, not all."""
    dice = random.Random(2)
    was = bytes(x | dice.randrange(256) | dice.randrange(256) for x in RIGHT)
    assert kind_of(disk_file, was)[0] == "erase-torn"


def test_an_interrupted_write(disk_file):
    was = RIGHT[:0x600] + b"\xff" * (B - 0x600)
    assert kind_of(disk_file, was)[0] == "program-torn"
    kind, text = kind_of(disk_file, was, raw=True)
    assert kind == "program-torn" and text == "erased, and programmed up to byte 0x600 only"
    assert kind_of(disk_file, b"\xff" * B)[1] == "it was blank: erased, and not programmed again"


def test_an_overwrite(disk_file):
    clear = bytes(x & y for x, y in zip(RIGHT, random.Random(3).randbytes(B)))
    assert kind_of(disk_file, clear)[0] == "overwritten"
    assert "without an erase" in kind_of(disk_file, clear)[1]
    assert kind_of(disk_file, random.Random(4).randbytes(B))[0] == "overwritten"


def test_another_builds_block(disk_file):
    blocks = [random.Random(seed).randbytes(B) for seed in (7, 8)]
    slots = [(0, 1, blocks, {"segments": [(b"os", 1, 0, 5000)], "version": b"0.9"})]
    kind, text = kind_of(disk_file, blocks[1], slots=slots)
    assert kind == "other-build" and text.startswith("it held block 1 of version 0.9, build ")


def test_the_command_shows_it(disk_file, lifeboat):
    right = but({100: 0x11, 4000: 0x11})
    one = handmade.evidence(
        but({100: 0x91}, right), right, block=7, session=3, time=1795775682, reason=b"scrub"
    )
    two = handmade.evidence(but({4000: 0x91}, right), right, serial=2, block=8, session=3)
    path = disk_file(disk_with(one, two))
    code, out, _ = lifeboat("log", "--evidence", path)
    assert code == 0
    assert "session 3  2026-11-27 10:34:42 UTC  repaired by the scrubber" in out
    assert "block 7     [#...............]  1 bit lost its charge (0 became 1)" in out
    assert "block 8     [...............#]" in out and "repaired by the power-on" in out
    result = json.loads(lifeboat("log", "--evidence", "--json", path)[1])
    by_block = {found["block"]: found for found in result["evidence"]}
    assert by_block[7]["differences"] == [[100, 0x91, 0x11]] and by_block[7]["complete"]
    assert by_block[7]["kind"] == "charge-lost" and by_block[7]["raw"] is None
    assert "evidence" not in json.loads(lifeboat("log", "--json", path)[1] or "{}")


def test_members_tell_the_same_once(disk_file, lifeboat):
    right = but({100: 0x11})
    units = [handmade.evidence(but({100: 0x91}, right), right, serial=serial) for serial in (1, 5)]
    paths = [disk_file(disk_with(unit), f"{i}.img") for i, unit in enumerate(units)]
    result = json.loads(lifeboat("log", "--evidence", "--json", *paths)[1])
    (found,) = result["evidence"]
    assert found["disks"] == [str(path) for path in paths]


def test_without_evidence_it_says_so(disk_file, lifeboat):
    assert (
        "none, no repair has replaced" in lifeboat("log", "--evidence", disk_file(disk_with()))[1]
    )
    code, _, err = lifeboat("log", "--evidence", disk_file(handmade.disk(END)))
    assert code == 1 and "has no journal" in err


BROKEN = [
    (0, b"X"), (8, b"\2"), (10, b"\xc0"), (12, bytes(4)), (12, b"\0\0\0\xff"), (16, b"X"),
    (124, b"\x09"), (120, b"\xe4\1"), (128, b"\1"),
]  # fmt: skip


@pytest.mark.parametrize("patch", BROKEN)
def test_an_entry_that_breaks_a_rule_does_not_count(disk_file, patch):
    was = but({100: RIGHT[100] ^ 1})
    assert len(entries(disk_file(disk_with(handmade.evidence(was, RIGHT))))) == 1
    assert entries(disk_file(disk_with(handmade.evidence(was, RIGHT, patch=[patch])))) == []


def test_raw_units_cover_what_looks_like_an_entry(disk_file):
    fake = handmade.evidence(but({0: RIGHT[0] ^ 1}), RIGHT, serial=1)
    real = handmade.evidence(fake, RIGHT, serial=2, raw=True)
    (found,) = entries(disk_file(disk_with(real)))
    assert found.serial == 2 and found.raw == fake
    # Once the ring has turned, bytes of it are other ones.
    (found,) = entries(disk_file(disk_with(real[:4096], bytes(4096))))
    assert found.raw is None and not found.complete


def test_an_entry_at_the_end_has_no_raw_units_behind_it(disk_file):
    real = handmade.evidence(but({0: RIGHT[0] ^ 1}), RIGHT, raw=True)[:4096]
    assert entries(disk_file(disk_with(bytes(4096) * (UNITS - 1), real))) == []


def test_hostile_sizes_cost_nothing(disk_file):
    was = but({100: RIGHT[100] ^ 1})
    huge = handmade.evidence(was, RIGHT, patch=[(72, b"\xff" * 4), (116, b"\xff" * 4)])
    (found,) = entries(disk_file(disk_with(huge)))
    assert len(evidence.strip(found)) == 16 and evidence.kind(found, [])[0]
    none = handmade.evidence(was, RIGHT, patch=[(72, bytes(4)), (120, bytes(4))])
    (found,) = entries(disk_file(disk_with(none)))
    assert len(evidence.strip(found)) == 16 and evidence.kind(found, [])[0]


@pytest.mark.parametrize("seed", range(5))
def test_whatever_an_entry_says_it_is_told_or_left_out(disk_file, lifeboat, seed):
    """Entries with any bytes and the right CRC."""
    dice = random.Random(seed)
    good = handmade.evidence(but({100: RIGHT[100] ^ 1}), RIGHT, raw=True)
    units = []
    for _ in range(UNITS // 2):
        unit = bytearray(good[:4092])
        for _ in range(dice.randrange(1, 6)):
            at = dice.randrange(12, 240)
            unit[at] = dice.choice((0, 1, 0x80, 0xFF, dice.randrange(256)))
        unit[16:32], unit[10:12] = handmade.REGION_ID, b"\xe0\0"
        units += [handmade.sealed(bytes(unit)), dice.randbytes(4096)]
    path = disk_file(disk_with(*units))
    code, out, err = lifeboat("log", "--evidence", path)
    assert code == 0 and "Traceback" not in err and "\x1b" not in out
    result = json.loads(lifeboat("log", "--evidence", "--json", path)[1])
    assert len(result["evidence"]) <= UNITS // 2
