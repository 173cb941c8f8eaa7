"""The last table of docs/recovery.md, run row by row: what a signed board starts and restores."""

import itertools

import pytest

import lifeboat
from cpython_floor import ROOT
from fakes import board as sim
from fakes import forgery, signer
from fakes.forgery import Place, install, parts

SIZE = sim.ERASE
OWNER, STRANGER = signer.key(1), signer.key(666)
RAN = OWNER.image(forgery.image(1, "1.0"), counter=2)
OTHER = OWNER.image(forgery.image(2, "2.0"), counter=2)
OLDER = OWNER.image(forgery.image(3, "0.9"), counter=1)
FOREIGN = STRANGER.image(forgery.image(4, "6.6"), counter=9)
UNSIGNED = forgery.image(5, "6.7")
WORTHLESS = (FOREIGN, UNSIGNED, OLDER)


def rows():
    section = (ROOT / "docs" / "recovery.md").read_text().split("## On a signed board")[1]
    lines = [line for line in section.split("\n## ")[0].splitlines() if line.startswith("| ")]
    head = next(i for i, line in enumerate(lines) if line.startswith("| memory | flash |"))
    return [tuple(c.strip() for c in line.strip("|").split("|")) for line in lines[head + 2 :]]


def prepare(memory, flash, copies):
    board = sim.SimBoard(bytearray(RAN), members=2, slots=3, journal=4)
    board.UNSIGNED, board.KEYS = False, signer.key_set(1, (signer.ALL, OWNER))
    assert lifeboat.power_on(board).data["counter"] == 2
    for disk in board.drives:
        place = Place(disk, len(RAN) // SIZE, 3, 4)
        for slot in range(3):
            content = {"ran": RAN, "other": OTHER, "worthless": WORTHLESS[slot]}.get(copies)
            if content:
                place.plant(slot, content, 7 + slot)
    put = {"foreign": FOREIGN, "unsigned": UNSIGNED, "older": OLDER}.get(flash)
    if put:
        install(board, put)
    if flash in ("damaged", "bare"):
        board.nor.data[2 * SIZE + 7] ^= 1
    if flash == "bare":
        board.nor.data[60 - SIZE] ^= 1
    if memory == "empty":
        board.chip.data[:] = b"\xff" * len(board.chip.data)
    return board


def outcome(memory, flash, copies):
    board = prepare(memory, flash, copies)
    report = lifeboat.power_on(board)
    now = parts(board.nor.data)
    names = {"ran": RAN, "other": OTHER, "older": OLDER}
    runs = [name for name, content in names.items() if now == parts(content)]
    assert report.runs == bool(runs and report.runs), "only what the owner signed runs"
    codes = sorted({code for code, _, _ in report.data["reasons"]})
    return runs[0] if report.runs else "-", ", ".join(codes) or "-"


def every():
    for memory in ("ok", "empty"):
        yield memory, "ran", "-"
        flashes = ("foreign", "unsigned", "older", "damaged", "bare")
        yield from itertools.product([memory], flashes, ("ran", "other", "worthless"))


def test_the_table_has_every_combination():
    assert [row[:3] for row in rows()] == list(every())


@pytest.mark.parametrize("row", rows(), ids="-".join)
def test_row(row):
    assert outcome(*row[:3]) == row[3:]
