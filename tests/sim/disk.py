"""A disk in RAM with a volatile write cache and the ways in which disks misbehave."""

from errno import EINVAL, EIO, ENODEV, ETIMEDOUT

from fakes.rng import Rng
from sim.power import Power

# What a power cut leaves of the sectors of a write: half of them, the one in the middle being
# torn itself; half of the first one; the last ones only; half of them, and then one that can't be
# read until it is written again.
WRITES = ("half", "sector", "late", "pending")
# And of writes that were not flushed, see settle().
KEEPS = ("none", "all", "last", "first", "random")


class RamDisk:
    """A sparse disk as a block device. sectors: dict LBA -> bytes, the medium.

    Writes stay in the cache until they are flushed; settle() says what a power cut leaves.
    fault(op, lba, count) -> errno or None is asked first, op being "init", "read", "write" or
    "flush". Errors have two arguments, since CPython sets errno for those only.
    lose: LBAs whose writes the disk acknowledges and forgets. lies: a flush does nothing.
    pending: LBAs that can't be read until they are written again.
    """

    def __init__(self, name, count, power=None, size=512):
        self.name = self.label = name
        self.model = "RamDisk"
        self.serial = name
        self.count = count
        self.size = size
        self.power = power or Power()
        self.sectors = {}
        self.cache = []  # (number of the write, LBA, bytes), in order of writing
        self.fault = None
        self.lose = ()
        self.lies = False
        self.pending = set()
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
        if self.pending and any(
            lba <= bad < lba + len(buf) // size and bad not in newest for bad in self.pending
        ):
            raise OSError(EIO, EIO)
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
        data = bytes(buf)
        self.power.operation(self, "write", lba, data)
        n = self.writes
        self.writes += 1
        for i in range(len(data) // size):
            piece = n, lba + i, data[i * size : (i + 1) * size]
            self.written.add(piece[1])
            if piece[1] not in self.lose:
                self.cache.append(piece)

    def shapes(self, name):
        """Return the ways in which an operation of that name can be torn."""
        return WRITES if name == "write" else ()

    def tear(self, name, lba, data, shape=None):
        """Do a part of a write, as a power cut leaves it in the cache."""
        if name != "write":
            return
        size = self.size
        count = len(data) // size
        half = 0 if shape == "sector" else count // 2
        done = range(half + 1, count) if shape == "late" else range(half)
        for i in done:
            self.cache.append((self.writes, lba + i, data[i * size : (i + 1) * size]))
        if shape == "pending":
            self.pending.add(lba + half)
        elif shape != "late":
            old = self.sectors.get(lba + half, bytes(size))
            for _, where, newer in self.cache:
                if where == lba + half:
                    old = newer
            middle = half * size + size // 2
            torn = data[half * size : middle] + old[size // 2 :]
            self.cache.append((self.writes, lba + half, torn))

    def settle(self, keep, seed=0):
        """Empty the cache as a power cut does: keep "none", "all", only the "last" write, all but
        it ("first"), or a "random" part of the sectors that were not flushed."""
        rng = Rng(seed)
        last = self.cache[-1][0] if self.cache else None
        for n, lba, data in self.cache:
            if (
                keep == "all"
                or (keep == "last" and n == last)
                or (keep == "first" and n != last)
                or (keep == "random" and rng.below(2))
            ):
                self.sectors[lba] = data
                self.pending.discard(lba)
        self.cache = []

    def ioctl(self, op, arg):
        if op == 3:
            self._check("flush", 0, 0)
            self.power.operation(self, "flush", 0)
            if not self.lies:
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
