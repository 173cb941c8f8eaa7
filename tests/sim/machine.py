"""What a power cut can leave of a machine, kept so that it can be powered on later.

A State is immutable and cheap: blocks of flash and sectors that did not change are shared with the
states before it.
"""

from __future__ import annotations

from typing import NamedTuple

from fakes import board as boards
from fakes.rng import Rng
from sim.disk import KEEPS
from sim.power import Power


class Geometry(NamedTuple):
    """Of a machine: bytes of an erase block, of a program unit (1: any) and of a sector; how many
    slots and members; where the regions lie, and where the memory; blocks of code."""

    erase: int = 4096
    unit: int = 1
    sector: int = 512
    slots: int = 2
    members: int = 2
    place: str = "end"
    memory: str = "chip"
    code: int = 3

    def __str__(self):
        return (
            f"{self.erase // 1024}k-{self.unit}-{self.sector}"
            f"-{self.slots}s-{self.members}m-{self.place}-{self.memory}-{self.code}"
        )

    @property
    def page(self):
        """Bytes of a record in the memory."""
        return max(256, self.unit)

    @property
    def mirror(self):
        """Bytes of a mirror of the memory."""
        return -(-64 * self.page // self.erase) * self.erase

    @property
    def memory_blocks(self):
        """Blocks of the code flash that are the memory."""
        return 2 * self.mirror // self.erase if self.memory == "flash" else 0

    @property
    def total(self):
        """Blocks of the code flash: code, two that are blank, memory and manifest."""
        return self.code + 2 + self.memory_blocks + 1

    def image(self, seed, version):
        """Return a build; its first block is the same in all."""
        common = boards.noise(0, self.erase)
        code = common + boards.noise(seed, (self.code - 1) * self.erase)
        flash = bytearray(code + b"\xff" * ((self.total - self.code) * self.erase))
        raw = boards.manifest(code, self.erase, version=version, memory=self.memory_blocks)
        at = (self.total - 1) * self.erase
        flash[at : at + len(raw)] = raw
        return flash

    def board(self, content, **kwargs):
        """Return a board of this geometry that remembers its set, with an image in flash."""
        flash = self.memory == "flash"
        board = boards.SimBoard(
            bytearray(content),
            self.members,
            block=self.erase,
            erase=self.erase,
            mapped=self.unit == 1,
            sector=self.sector,
            slots=self.slots,
            remembers="flash" if flash else "set",
            unit=0 if self.unit == 1 else self.unit,
            place=self.place,
            **kwargs,
        )
        if flash:
            chip = boards.SimBoard(bytearray(content), 0, unit=board.nor.unit, erase=self.erase)
            chip.remember(board.drives)
            at = (self.total - 1) * self.erase - 2 * self.mirror
            board.nor.data[at : at + 2 * self.mirror] = chip.chip.data
        for flash in flashes(board):
            if flash.unit:
                blank = b"\xff" * flash.unit
                flash.done = {
                    at
                    for at in range(0, len(flash.data), flash.unit)
                    if flash.data[at : at + flash.unit] != blank
                }
        for disk in board.drives:  # somebody's data around the region
            for lba in (*range(1, 12, 3), disk.count - 1):
                disk.sectors.setdefault(lba, b"user%04d" % lba * (disk.size // 8))
        return board


def flashes(board):
    """Return the flashes of a board: of its code, and of its memory where that is a chip."""
    return [board.nor, board.chip] if board.chip else [board.nor]


class State(NamedTuple):
    """What the devices of a machine hold without power."""

    flash: tuple  # of each: its blocks, marginal cells, units done, units that can't be read
    disks: tuple  # of each: {LBA: sector}, LBAs that can't be read

    def key(self):
        """Return a number that two states share only by chance of 1 in 2**61."""
        disks = tuple((hash(frozenset(held.items())), bad) for held, bad in self.disks)
        return hash((self.flash, disks))


class Machine:
    """A board whose states can be taken at any moment."""

    def __init__(self, board):
        self.board = board
        self._blocks = {}
        self._dirty = {}
        for flash in flashes(board):
            self._blocks[flash] = [b""] * (len(flash.data) // flash.size)
            self._dirty[flash] = set(range(len(self._blocks[flash])))
            flash.touched = self._watch(flash)

    def _watch(self, flash):
        dirty, size = self._dirty[flash], flash.size

        def touched(at, length):
            dirty.update(range(at // size, (at + length - 1) // size + 1))

        return touched

    def _flash(self, flash):
        blocks, size = self._blocks[flash], flash.size
        for n in self._dirty[flash]:
            new = bytes(flash.data[n * size : (n + 1) * size])
            if new != blocks[n]:
                blocks[n] = new
        self._dirty[flash].clear()
        marginal = tuple(sorted(flash.marginal.items()))
        done = frozenset(flash.done) if flash.unit else frozenset()
        return tuple(blocks), marginal, done, frozenset(flash.wrong)

    def state(self, keep="all", seed=0):
        """Return the state that is left when the power fails now; keep: as for a disk's settle."""
        return State(
            tuple(self._flash(flash) for flash in flashes(self.board)),
            tuple(_settled(disk, keep, seed) for disk in self.board.drives),
        )

    def put(self, state):
        """Make the board hold a state."""
        for flash, (blocks, marginal, done, wrong) in zip(flashes(self.board), state.flash):
            flash.data[:] = b"".join(blocks)
            flash.marginal, flash.done, flash.wrong = dict(marginal), set(done), set(wrong)
            self._blocks[flash] = list(blocks)
            self._dirty[flash].clear()
        for disk, (held, bad) in zip(self.board.drives, state.disks):
            disk.sectors, disk.pending, disk.cache = dict(held), set(bad), []

    def keeps(self):
        """Return the fates of what the disks have not flushed; one where they have all."""
        return KEEPS if any(disk.cache for disk in self.board.drives) else KEEPS[:1]

    def torn(self, device, name, where, data, shape, seed):
        """Return the states after a part of an operation, as (keep, State), and undo that part.

        shape: None: nothing of it happened.
        """
        if shape is None:
            return [(keep, self.state(keep, seed)) for keep in self.keeps()]
        undo = _undo(device, name, where, data)
        device.rng = Rng(seed)
        device.tear(name, where, data, shape)
        found = [(keep, self.state(keep, seed)) for keep in self.keeps()]
        undo()
        return found


def _settled(disk, keep, seed):
    if not disk.cache:
        return disk.sectors.copy(), frozenset(disk.pending)
    sectors, cache, pending = disk.sectors, disk.cache, disk.pending
    disk.sectors, disk.pending = dict(sectors), set(pending)
    disk.settle(keep, seed)
    found = disk.sectors, frozenset(disk.pending)
    disk.sectors, disk.cache, disk.pending = sectors, cache, pending
    return found


def _undo(device, name, where, data):
    if name == "write":
        cache, pending = list(device.cache), set(device.pending)

        def undo():
            device.cache, device.pending = cache, pending
    else:
        length = device.size if name == "erase" else len(data)
        old = bytes(device.data[where : where + length])
        kept = dict(device.marginal), set(device.done), set(device.wrong), device.programs

        def undo():
            device._store(where, old)
            device.marginal, device.done, device.wrong, device.programs = kept

    return undo


class Trace(Power):
    """A supply that never fails, but tells at each operation what was left if it did.

    wanted(number) -> whether the cut point of that number is to be looked at; found(point, state)
    is called with each that is. A point is (operation, shape or "before", keep).
    """

    def __init__(self, machine, found, wanted=lambda number: True):
        super().__init__()
        self._machine = machine
        self._found = found
        self._wanted = wanted
        self.points = 0

    def operation(self, device, name, where, data=None):
        super().operation(device, name, where)
        for shape in (None, *device.shapes(name)):
            keeps = len(self._machine.keeps()) if shape is None or name != "write" else len(KEEPS)
            numbers = range(self.points, self.points + keeps)
            self.points += keeps
            if not any(map(self._wanted, numbers)):
                continue
            seed = f"{self.count}/{shape}"
            left = self._machine.torn(device, name, where, data, shape, seed)
            if len(left) < keeps:  # a torn write that left nothing in any cache
                left += left[:1] * (keeps - len(left))
            for number, (keep, state) in zip(numbers, left):
                if self._wanted(number):
                    self._found((self.count, shape or "before", keep), state)
