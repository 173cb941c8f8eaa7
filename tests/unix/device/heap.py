"""What hostile records cost of the heap; arguments: case, and KB that are free for it.

Cases: recover-good, recover-hostile: the flash is blank, and the first member's manifests say
that they are larger than they are. scrub-good, scrub-hostile: fifteen slots of each member hold
the largest manifests that there are, "-none" on a board that remembers nothing.
"""

import gc
import sys

import lifeboat
from fakes import board as sim
from fakes.forgery import Place, large_manifest, parts
from fakes.scenarios import NEW
from lifeboat.scrub import Scrubber

case, kilobytes = sys.argv[1], int(sys.argv[2])


def ballast(left):
    """Take the heap but so many bytes."""
    taken = None  # a chain: a list would have to grow
    gc.collect()
    for n in (16384, 1024, 64):
        # To ask each time how much is free would take minutes.
        for _ in range((gc.mem_free() - left) // (n + 64)):
            try:
                taken = bytearray(n), taken
            except MemoryError:
                break
    gc.collect()
    return taken


def recover(hostile):
    board = sim.SimBoard(bytearray(NEW), members=2)
    assert lifeboat.power_on(board).verdict == "RUN"
    if hostile:
        place = Place(board.drives[0])
        manifest = bytearray(parts(NEW)[1])
        for slot in range(2):
            for size in (65536, 1048576):
                manifest[12:16] = size.to_bytes(4, "little")
                record = place.record(slot, manifest, 9, manifest_size=min(size, 65536),
                                      build=sim.build_id(parts(NEW)[1]))  # fmt: skip
                place.put(place.slot(slot), record)
                place.put(place.manifest(slot), manifest)
    board.nor.data[:] = b"\xff" * len(board.nor.data)
    taken = ballast(kilobytes * 1024)
    print("free", gc.mem_free())
    report = lifeboat.power_on(board)
    del taken
    assert board.nor.data == NEW or not report.runs
    print("recover", report.verdict, [code for code, _, _ in report.data["reasons"]])


def scrub(hostile, remembers):
    board = sim.SimBoard(bytearray(NEW), members=2, slots=16, remembers=remembers)
    assert lifeboat.power_on(board).verdict == "RUN"
    if hostile:
        for disk in board.drives:
            place = Place(disk, slots=16)
            for slot in range(1, 16):
                manifest = large_manifest("%s%d" % (disk.name, slot))
                place.put(place.slot(slot), place.record(slot, manifest, 1))
                place.put(place.manifest(slot), manifest)
    gc.collect()
    free = gc.mem_free()
    scrubber = Scrubber(board)
    gc.collect()
    print("scrub", free - gc.mem_free())
    assert scrubber.status()["units"] > 0


what, kind = case.split("-")[:2]
if what == "recover":
    recover(kind == "hostile")
else:
    scrub(kind == "hostile", None if case.endswith("none") else "set")
