"""Parity and evidence on the boards: what is bad everywhere is made again, and what damage was is
told."""

import random

from lifeboat_host.disk.disk import Disk
from lifeboat_host.model import evidence, parity, region
from lifeboat_host.model.formats import parity_groups

GROUPS = 2  # of the 8 MB image in blocks of 256 KB, at least


def parity_states(rig):
    found = []
    for path in rig.drives:
        with Disk(path) as disk:
            header = region.find(disk).header
            checks = region.verify(disk, region.read_slots(disk, header))
            found += [parity.state(disk, header, check) for check in checks]
    return found


def told(path):
    """What the evidence on a disk says: block -> (kind, differences that are listed)."""
    with Disk(path) as disk:
        header = region.find(disk).header
        slots = region.read_slots(disk, header)
        builds = [slot.manifest for slot in slots if slot.manifest]
        return {
            entry.block: (evidence.kind(entry, builds)[0], entry.differences, entry.raw)
            for entry in evidence.read(disk, header)
        }


def rotten(rig, *blocks):
    """Damage blocks in flash and in every copy."""
    size = rig.spec.block_size
    for block in blocks:
        at = block * size + 77
        rig.damage((at, bytes([rig.good[at] ^ 0x20])))
        for path in rig.drives:
            rig.rot(path, block)


def test_a_block_that_is_bad_everywhere_is_made_again(rig8):
    assert parity_states(rig8) == ["whole"] * len(rig8.drives)
    block = rig8.blocks - 2
    rotten(rig8, block, block + 1)  # neighbours are in different groups
    report = rig8.heal()
    assert report["erases"] == 2
    reasons = {code: detail for code, _, detail in report["reasons"]}
    assert reasons["parity-used"] == f"{block} {block + 1}"
    assert all(rig8.copies(path) == {"1.0": []} for path in rig8.drives)
    report, _ = rig8.power_on()
    assert report["reasons"] == [] and report["disk_writes"] == report["erases"] == 0
    assert {member["parity"] for member in report["members"]} == {"level"}


def test_two_of_a_group_are_lost_and_nothing_is_touched(rig8):
    groups = parity_groups(rig8.blocks)
    assert groups >= GROUPS
    rotten(rig8, 1, 1 + groups)
    before = rig8.hashes_but_journals()
    report, _ = rig8.power_on(app=False)
    assert report["verdict"] == "RESCUE" and report["erases"] == 0
    assert rig8.hashes_but_journals() == before


def test_evidence_tells_what_the_damage_was(rig8):
    rng = random.Random(8)
    size = rig8.spec.block_size
    good = rig8.good

    def filled(block):
        return good[block * size : (block + 1) * size].count(0xFF) < size // 2

    charge, erased, other, whole = rng.sample([i for i in range(rig8.blocks) if filled(i)], 4)
    at = next(i for i in range(charge * size, (charge + 1) * size) if not good[i] & 0x40)
    torn = bytes(x | rng.randrange(256) for x in good[erased * size : (erased + 1) * size])
    foreign = good[whole * size : (whole + 1) * size]
    rig8.damage(
        (at, bytes([good[at] | 0x40])),
        (erased * size, torn),
        (other * size, foreign),
    )
    rig8.heal()
    for path in rig8.drives:
        found = told(path)
        assert {block: kind for block, (kind, _, _) in found.items()} == {
            charge: "charge-lost",
            erased: "erase-torn",
            other: "other-build",
        }
        (difference,) = found[charge][1]
        assert (difference.offset, difference.was) == (at - charge * size, good[at] | 0x40)
        first = min(erased, other)  # one block a power-on is kept whole
        assert found[first][2] == (torn if first == erased else foreign)
    rig8.damage((at, bytes([good[at] | 0x40])))
    rig8.heal()  # the same damage once more
    assert all(len(told(path)) == 3 for path in rig8.drives)


def test_a_healthy_board_has_noted_nothing(rig8):
    rig8.power_on()
    assert all(told(path) == {} for path in rig8.drives)
