"""The simulated devices and QEMU's models are asked the same, and give the same answers.

CFI flash and AHCI (virt), SPI flash and an SD card (sifive_u), USB disks (virt): random sequences
of what drivers may ask for, through the drivers there, and of tests/sim here. Legal ones only:
what a data sheet leaves open is in the table of docs/reliability.md.
"""

import random

import pytest

from qemu.rig import MB
from sim.disk import RamDisk
from sim.nor import RamFlash

STEPS = 150

# It runs on the board and here. Data depends on a number; what is read is told as a CRC.
PLAYER = """
from binascii import crc32

def data(seed, size):
    piece = bytes([(seed * 31 + i * seed) & 255 for i in range(256)])  # 0: zeros
    return (piece * (size // 256 + 1))[:size]

def play(flash, disk, steps):
    told = []
    for what, where, offset, size, seed in steps:
        device = disk if what[0] == "d" else flash
        try:
            if what == "erase":
                found = flash.ioctl(6, where)
            elif what.endswith("read"):
                buf = bytearray(size)
                device.readblocks(where, buf, *([] if offset is None else [offset]))
                found = crc32(buf)
            elif what.endswith("flush"):
                found = device.ioctl(3, 0)
            elif what.endswith("size"):
                found = device.ioctl(5, 0)
            else:
                device.writeblocks(where, data(seed, size), *([] if offset is None else [offset]))
                found = 0
        except OSError:
            found = "OSError"
        told.append(found or 0)
    return told
"""


class Player:
    """Makes sequences that are legal: what is programmed was erased, or loses bits only."""

    def __init__(self, seed, blocks, erase, count, size):
        self.rng = random.Random(seed)
        self.blocks, self.erase, self.count, self.size = blocks, erase, count, size
        self.free = {}  # block -> first byte that was not programmed since the erase

    def step(self):
        rng = self.rng
        what = rng.choice(
            ("erase", "program", "program", "read", "read", "dwrite", "dwrite", "dwrite", "dread",
             "dread", "dflush", "clear", "dbeyond", "beyond", "dpart", "dpartwrite")
        )  # fmt: skip
        if what == "erase" or not self.free:
            block = rng.choice(self.blocks)
            self.free[block] = 0
            return "erase", block, None, 0, 0
        block = rng.choice(sorted(self.free))
        if what == "program":
            at = self.free[block]
            size = min(rng.choice((1, 3, 64, 255, 256, 257, 1000, 4096)), self.erase - at)
            self.free[block] = at + size
            return "program", block, at, size, rng.randrange(1, 256)
        if what == "clear":  # zeros over what was programmed
            if not self.free[block]:
                return "read", block, 0, 64, 0
            size = rng.randrange(1, self.free[block] + 1)
            return "program", block, 0, size, 0
        if what == "read":
            at = rng.randrange(max(1, self.erase - 4096))
            return "read", block, at, rng.choice((1, 7, 64, 512, 4096)), 0
        if what == "beyond":
            return "read", self.blocks[-1] + (1 << 20), 0, 64, 0
        if what == "dflush":
            return "dflush", 0, None, 0, 0
        if what == "dbeyond":
            return rng.choice(("dread", "dwrite")), self.count, None, self.size, 1
        lba = rng.randrange(self.count - 64)
        if what.startswith("dpart"):
            size = rng.randrange(1, 3 * self.size)
            op = "dwrite" if what.endswith("write") else "dread"
            return op, lba, rng.randrange(2 * self.size), size, rng.randrange(256)
        size = self.size * rng.choice((1, 1, 2, 8, 33))
        return what, lba, None, size, rng.randrange(256)


@pytest.mark.parametrize("seed", [1, 2])
def test_the_same_sequence_gives_the_same_answers(empty_rig, seed):
    rig = empty_rig
    rig.make_image(2 * MB)
    rig.blank_disk(16 * MB)
    with rig.board() as board:
        board.power_on_report()
        board.repl(interrupt=True)
        ask = "import board\nflash, disk = board.flash(), board.disks()[0]\ndisk.ioctl(1, 0)\n"
        ask += "print(flash.ioctl(4, 0), flash.ioctl(5, 0), disk.ioctl(4, 0), disk.ioctl(5, 0))"
        out, err = board.run(ask)
        assert not err, err
        blocks, erase, count, size = map(int, out.split())
        # Behind the code, before the memory: nobody's blocks.
        end = rig.memory_range[0] // erase
        mine = range(end - 3, end)
        steps = []
        player = Player(seed, mine, erase, count, size)
        steps = [("erase", block, None, 0, 0) for block in mine]
        player.free = dict.fromkeys(mine, 0)
        steps += [player.step() for _ in range(STEPS)]
        steps += [("read", block, at, 4096, 0) for block in mine for at in range(0, erase, 4096)]
        assert board.run(PLAYER, 60) == ("", "")
        there = []
        for i in range(0, len(steps), 25):
            out, err = board.run(f"print(play(flash, disk, {steps[i : i + 25]!r}))", 300)
            assert not err, err
            there += eval(out)  # noqa: S307 - a list of numbers and words, of our own board
    here = {}
    exec(PLAYER, here)
    nor = RamFlash(bytearray(rig.flash.read_bytes()), erase)
    drive = RamDisk("d", count, size=size)
    simulated = here["play"](nor, drive, steps)
    differ = [(s, h, t) for s, h, t in zip(steps, simulated, there) if h != t]
    assert not differ, differ[:5]
    assert {"OSError"} < set(map(str, there)) and len(there) == len(steps)
    assert rig.flash.read_bytes()[mine[0] * erase : (mine[-1] + 1) * erase] == bytes(
        nor.data[mine[0] * erase : (mine[-1] + 1) * erase]
    )
