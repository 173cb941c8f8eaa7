"""The disk as the application gets it: without the region, and without what leads to it."""

from errno import EPERM

from . import running
from .blockdev import COUNT, ERASE, INIT, Checked, geometry
from .region import GPT_MAGIC, UNIT, Patient, find, reaches, table


# Where a table lies is asked, not what it holds.
def _none(*_):
    return False


class UserArea:
    """A disk as if its blocks [first, end) were not there, for file systems and applications.

    The other blocks keep their numbers, so partitions stay where they are; when nothing useful
    follows them the disk just ends before them. Whatever touches one of them is refused with
    OSError(EPERM) before the disk is asked. So is each write that changes where lifeboat looks
    for the region: on a disk with a GPT those to its tables and to LBA 0, on another one a GPT
    header, an MBR with a partition that reaches into the region, and region headers at its end;
    on both region headers at lbas.

    Where a file system may lie: in a partition that was there before the region, as a device of
    that partition's blocks; on a disk without partitions over all of the area, from block 0 on.
    """

    def __init__(self, dev, first, end, lbas=()):
        self._dev = dev
        self._first = first
        self._end = end
        self.name = dev.name
        self._all, self.size = geometry(dev)
        # A tail that is not even a unit long is what rounding has left.
        self.count = first if (self._all - end) * self.size < UNIT else self._all
        self._tables = []  # bytes [first, end) of a GPT's, and of LBA 0
        if first < end:
            unit = bytearray(UNIT)
            disk = Patient(dev)
            last = self._all - 1
            for lba in (1, last):
                state, _, start, sectors = table(disk, lba, _none, unit)
                # The place of a table that is damaged is known from the other one.
                if state:
                    self._tables.append((start, start + sectors))
                    self._tables += (0, 2 + sectors), (last - sectors, last + 1)
            # Sectors whose content leads to a region.
            self._leading = set(lbas)
            if not self._tables:
                tail = (self._all * self.size // UNIT - 1) * UNIT // self.size
                self._leading |= {0, 1, last, tail, tail - UNIT // self.size}

    # Raises OSError unless bytes [first, end) are the application's.
    def _check(self, block, buf, offset=0):
        first = block * self.size + offset
        if first < 0 or first + len(buf) > self.count * self.size:
            raise OSError(EPERM, self.name)
        self._refuse(first, len(buf), self._first, self._end)
        return first

    # Raises OSError when length bytes from first on reach into blocks [start, end).
    def _refuse(self, first, length, start, end):
        if first < end * self.size and first + length > start * self.size:
            raise OSError(EPERM, self.name)

    # Raises OSError when what is to be written changes where the region is looked for.
    def _check_content(self, first, buf):
        size = self.size
        for start, end in self._tables:
            self._refuse(first, len(buf), start, end)
        if self._first == self._end:
            return
        for lba in self._leading:
            # The part of this sector that is written.
            low = max(first - lba * size, 0)
            high = min(first + len(buf) - lba * size, size)
            if low < high:
                sector = bytearray(size)
                if high - low < size:
                    self._use(self._dev.readblocks, lba, sector)
                at = lba * size + low - first
                sector[low:high] = memoryview(buf)[at : at + high - low]
                if (
                    sector[:8] in (GPT_MAGIC, b"LBREGION")
                    if lba
                    else reaches(sector, self._first, self._end)
                ):
                    raise OSError(EPERM, self.name)

    # Background work keeps its hands off while a call is under way.
    def _use(self, method, *args):
        running.disk_calls += 1
        try:
            return method(*args)
        finally:
            running.disk_calls -= 1

    def readblocks(self, block, buf, *offset):
        self._check(block, buf, *offset)
        return self._use(self._dev.readblocks, block, buf, *offset)

    def writeblocks(self, block, buf, *offset):
        self._check_content(self._check(block, buf, *offset), buf)
        return self._use(self._dev.writeblocks, block, buf, *offset)

    # Blocks of a disk need no erasing.
    def ioctl(self, op, arg):
        if op == COUNT:
            return self.count
        return 0 if op == ERASE else self._use(self._dev.ioctl, op, arg)


def user_area(disk, lbas=()):
    """Return a disk as a block device on which its backup region does not exist.

    For the application: vfs.mount(VfsFat(user_area(disk, board.REGION_LBAS)), "/disk"); lbas as
    for region.find(). Without a region it is all of the disk. Raises LifeboatError when there may
    be one that can't be used: nothing is known then about where it is; OSError as the disk does.
    """
    disk = Checked(disk)
    disk.ioctl(INIT, 0)
    region = find(disk, lbas, bytearray(UNIT), running.places)
    if region is None:
        count = geometry(disk)[0]
        return UserArea(disk, count, count)
    return UserArea(disk, region.start, region.end, lbas)
