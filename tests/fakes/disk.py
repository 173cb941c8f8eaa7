"""A disk in RAM with a volatile write cache and the ways in which disks misbehave."""

from errno import EINVAL, EIO, ENODEV, ETIMEDOUT

from fakes.power import Power
from fakes.rng import Rng


class RamDisk:
    """A sparse disk as a block device. sectors: dict LBA -> bytes, the medium.

    Writes stay in the cache until they are flushed; settle() says what a power cut leaves.
    fault(op, lba, count) -> errno or None is asked first, op being "init", "read", "write" or
    "flush". Errors have two arguments, since CPython sets errno for those only.
    lose: LBAs whose writes the disk acknowledges and forgets.
    """

    def __init__(self, name, count, power=None, size=512):
        self.name = name
        self.model = "RamDisk"
        self.serial = name
        self.count = count
        self.size = size
        self.power = power or Power()
        self.sectors = {}
        self.cache = []  # (number of the write, LBA, bytes), in order of writing
        self.fault = None
        self.lose = ()
        self.reads = 0
        self.read_sectors = 0
        self.writes = 0
        self.written = set()

    def _check(self, op, lba, length):
        if length % self.size or lba < 0 or lba + length // self.size > self.count:
            raise OSError(EINVAL, self.name)
        error = self.fault and self.fault(op, lba, length // self.size)
        if error:
            raise OSError(error, error)  # CPython: an errno alone is no errno

    # The sectors around bytes that are no whole sectors: first one, and bytes before and in them.
    def _around(self, lba, offset, length):
        if lba < 0 or offset < 0:
            raise OSError(EINVAL, self.name)
        before = offset % self.size
        sectors = (before + length + self.size - 1) // self.size
        return lba + offset // self.size, before, bytearray(sectors * self.size)

    def readblocks(self, lba, buf, offset=None):
        if offset is not None:
            lba, before, whole = self._around(lba, offset, len(buf))
            self.readblocks(lba, whole)
            buf[:] = whole[before : before + len(buf)]
            return
        self._check("read", lba, len(buf))
        self.reads += 1
        size = self.size
        self.read_sectors += len(buf) // size
        newest = {where: data for _, where, data in self.cache}
        zeros = bytes(size)
        for i in range(len(buf) // size):
            data = newest.get(lba + i) or self.sectors.get(lba + i, zeros)
            buf[i * size : (i + 1) * size] = data

    def writeblocks(self, lba, buf, offset=None):
        if offset is not None:
            lba, before, whole = self._around(lba, offset, len(buf))
            self.readblocks(lba, whole)
            whole[before : before + len(buf)] = buf
            buf = whole
        self._check("write", lba, len(buf))
        if not len(buf):
            return
        size = self.size
        n = self.writes
        pieces = [
            (n, lba + i, bytes(buf[i * size : (i + 1) * size])) for i in range(len(buf) // size)
        ]
        self.power.operation(self.name, "write", lba, lambda: self._tear(pieces))
        self.writes += 1
        for piece in pieces:
            self.written.add(piece[1])
            if piece[1] not in self.lose:
                self.cache.append(piece)

    # Half of the sectors arrive, and the one in the middle is torn.
    def _tear(self, pieces):
        half = len(pieces) // 2
        n, lba, data = pieces[half]
        old = bytearray(self.size)
        self.readblocks(lba, old)
        middle = self.size // 2
        self.cache += pieces[:half] + [(n, lba, data[:middle] + bytes(old[middle:]))]

    def settle(self, keep, seed=0):
        """Empty the cache as a power cut does: keep "none", "all", only the "last" write or a
        "random" part of what was not flushed."""
        rng = Rng(seed)
        last = self.cache[-1][0] if self.cache else None
        for n, lba, data in self.cache:
            if keep == "all" or (keep == "last" and n == last):
                self.sectors[lba] = data
            elif keep == "random" and rng.below(2):
                self.sectors[lba] = data
        self.cache = []

    def ioctl(self, op, arg):
        if op == 3:
            self._check("flush", 0, 0)
            self.power.operation(self.name, "flush", 0)
            self.settle("all")
            return 0
        if op == 4:
            return self.count
        if op == 5:
            return self.size
        if op in (1, 2):
            self._check("init", 0, 0)
        return 0


def dead(op, lba, count):
    """A fault: every command fails."""
    return EIO if op != "init" else None


def hung(op, lba, count):
    """A fault: no command ever completes."""
    return ETIMEDOUT if op != "init" else None


def gone(op, lba, count):
    """A fault: the disk is not there any more."""
    return ENODEV
