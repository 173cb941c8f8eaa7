"""Every row of the decision table in docs/recovery.md, on a board out of fakes."""

import struct
import zlib

import pytest

import lifeboat
from cpython_floor import ROOT
from fakes import board as sim
from sim import disk as disks
from sim.power import Power

GOOD = sim.image(seed=1, version="2.0")
OLDER = sim.image(seed=2, version="1.0")
OTHER = sim.manifest(sim.noise(3, sim.ERASE), product="another")
MANIFEST_AT = (sim.BLOCKS - 1) * sim.ERASE
MANIFEST_SIZE = struct.unpack_from("<I", GOOD, MANIFEST_AT + 12)[0]
DAMAGED = 1, 4


def rows():
    """Return the cells of the last table of the document."""
    text = (ROOT / "docs" / "recovery.md").read_text().split("\n## On a signed board")[0]
    table = [line for line in text.splitlines() if line.startswith("|")]
    head = next(i for i, line in enumerate(table) if line.startswith("| manifest | blocks |"))
    return [tuple(c.strip() for c in line.strip("|").split("|")) for line in table[head + 2 :]]


def back_up(board, image):
    """Let lifeboat itself fill the regions, as a power-on with this image in flash does."""
    flash = bytes(board.nor.data)
    board.nor.data[:] = image
    assert lifeboat.power_on(board).verdict == "RUN"
    board.nor.data[:] = flash
    board.supply(Power())


def prepare(manifest, blocks, members):
    board = sim.SimBoard(bytearray(GOOD), members={"none": 0}.get(members, 2))
    if members in ("failing", "current", "partial", "split"):
        back_up(board, GOOD)
    if members == "older":
        back_up(board, OLDER)
    for i, disk in enumerate(board.drives):
        if members == "failing":
            disk.fault = disks.dead
        region = disk.count * 512 - sim.REGION
        lacking = {"partial": DAMAGED, "split": (DAMAGED[i],)}.get(members, ())
        for block in lacking:
            sim.put(disk, region + 4096 + 69632 + block * sim.ERASE, b"rotten".ljust(512, b"\0"))
    if blocks == "damaged":
        for block in DAMAGED:
            board.nor.data[block * sim.ERASE + 100] ^= 0x10
    if manifest == "padding":
        board.nor.data[MANIFEST_AT + 3000] = 0xFE
    if manifest == "bad":
        board.nor.data[MANIFEST_AT + 40] ^= 1
    if manifest == "newer":
        raw = bytearray(GOOD[MANIFEST_AT : MANIFEST_AT + MANIFEST_SIZE - 4])
        raw[8] = 2
        raw += struct.pack("<I", zlib.crc32(raw))
        board.nor.data[MANIFEST_AT : MANIFEST_AT + MANIFEST_SIZE] = raw
    if manifest == "other":
        board.nor.data[MANIFEST_AT : MANIFEST_AT + len(OTHER)] = OTHER
    return board


def same_blocks(a, b):
    return sum(a[i : i + sim.ERASE] == b[i : i + sim.ERASE] for i in range(0, len(a), sim.ERASE))


def test_the_table_has_every_combination():
    keys = {row[:3] for row in rows()}
    assert len(keys) == len(rows()) == 5 * 2 * 7


@pytest.mark.parametrize("row", rows(), ids="-".join)
def test_row(row):
    manifest, blocks, members, action, flash, verdict = row
    board = prepare(manifest, blocks, members)
    before = bytes(board.nor.data)
    media = [dict(d.sectors) for d in board.drives]
    report = lifeboat.power_on(board)
    assert report.verdict == verdict
    want = {"same": GOOD, "older": OLDER, "untouched": before}[flash]
    assert board.nor.data == want
    # I8: what is erased is what differs, no block more.
    assert board.nor.erases == report.data["erases"] == sim.BLOCKS - same_blocks(before, want)
    written = [d.sectors != old for d, old in zip(board.drives, media)]
    states = [m["state"] for m in report.data["members"]]
    if action == "create":
        assert all(written) and states == ["created", "created"]
    elif action == "repair, mend":
        assert all(written) and states == ["mended", "mended"]
    else:
        assert not any(written)
    if action == "nothing":
        assert board.power.count == 0
    if verdict == "RESCUE":
        assert report.data["reasons"]
        assert report.data["lost"] or report.data["manifest"] == "bad"
    # Whatever was done is done: the next power-on finds nothing more to do, but for the
    # padding that waited for its backup.
    if verdict == "RUN":
        again = lifeboat.power_on(board)
        assert again.verdict == "RUN"
        if manifest == "padding" and action == "create":
            assert board.nor.data == GOOD
        else:
            assert again.data["erases"] == 0 and again.data["disk_writes"] == 0


def test_header_size_of_the_fake_is_the_specified_one():
    assert struct.unpack_from("<H", GOOD, MANIFEST_AT + 10)[0] == 128
