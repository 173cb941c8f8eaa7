"""The conformance suites ask for what docs/porting.md lists, and for nothing else."""

import errno

import pytest
from conformance.disk import Failed, disk_checks
from conformance.flash import Failed as FlashFailed
from conformance.flash import flash_checks


class LeastDisk:
    """What "Drivers" in docs/porting.md demands of a disk, without anything optional."""

    name = "least"

    def __init__(self, size):
        self.size, self.data = size, bytearray(1000 * size)

    def _range(self, lba, buf):
        start = lba * self.size
        if lba < 0 or len(buf) % self.size or start + len(buf) > len(self.data):
            raise OSError(errno.EINVAL)
        return slice(start, start + len(buf))

    def readblocks(self, lba, buf):
        buf[:] = self.data[self._range(lba, buf)]

    def writeblocks(self, lba, buf):
        self.data[self._range(lba, buf)] = buf

    def ioctl(self, op, arg):
        return {1: 0, 3: None, 4: len(self.data) // self.size, 5: self.size}[op]


class LeastFlash:
    name = "least"

    def __init__(self, size, blocks=8):
        self.size, self.data = size, bytearray(b"\0" * size * blocks)

    def _range(self, block, buf, offset):
        if offset is None and len(buf) % self.size:
            raise OSError(errno.EINVAL)
        start = block * self.size + (offset or 0)
        if block < 0 or (offset or 0) < 0 or start + len(buf) > len(self.data):
            raise OSError(errno.EINVAL)
        if block * self.size >= len(self.data):
            raise OSError(errno.EINVAL)
        return range(start, start + len(buf))

    def readblocks(self, block, buf, offset=None):
        at = self._range(block, buf, offset)
        buf[:] = self.data[at.start : at.stop]

    def writeblocks(self, block, buf, offset=None):
        at = self._range(block, buf, offset)
        if offset is None:
            for n in range(len(buf) // self.size):
                self.ioctl(6, block + n)
        for i, byte in zip(at, buf):
            self.data[i] &= byte

    def ioctl(self, op, arg):
        if op == 6:
            at = self._range(arg, bytes(self.size), None)
            self.data[at.start : at.stop] = b"\xff" * self.size
            return None
        return {1: 0, 3: None, 4: len(self.data) // self.size, 5: self.size}[op]


@pytest.mark.parametrize("size", [512, 4096])
def test_the_least_disk_of_the_docs_passes(size):
    claims = list(disk_checks(LeastDisk(size), 100, 64, 1 << 20))
    assert len(claims) == 8 and not any("extended" in claim for claim in claims)


@pytest.mark.parametrize("size", [512, 4096, 65536])
def test_the_least_flash_of_the_docs_passes(size):
    claims = list(flash_checks(LeastFlash(size), 2, 3))
    assert len(claims) == 10 and not any("view" in c or "erase_blocks" in c for c in claims)


# Each takes one sentence of the docs away, from drivers that have everything else.


class Lazy(LeastDisk):
    def writeblocks(self, lba, buf):
        super().writeblocks(lba, buf[: self.size])


class Wraps(LeastDisk):
    def readblocks(self, lba, buf):
        super().readblocks(lba % 1000, buf)


class Nameless(LeastDisk):
    name = ""


class Odd(LeastDisk):
    def ioctl(self, op, arg):
        return 520 if op == 5 else super().ioctl(op, arg)


class BadModel(LeastDisk):
    model = b"bytes"


class BadCycles(LeastDisk):
    def power_cycles(self):
        return None


class BadErase(LeastDisk):
    def readblocks(self, lba, buf, offset=0):
        at = lba * self.size + offset
        if offset < 0 or lba < 0 or at + len(buf) > len(self.data):
            raise OSError(errno.EINVAL)
        buf[:] = self.data[at : at + len(buf)]

    def writeblocks(self, lba, buf, offset=0):
        at = lba * self.size + offset
        self.data[at : at + len(buf)] = buf

    def ioctl(self, op, arg):
        return -errno.EINVAL if op == 6 else super().ioctl(op, arg)


@pytest.mark.parametrize(
    "kind, claim",
    [
        (Lazy, "several sectors"),
        (Wraps, "outside"),
        (Nameless, "no name"),
        (Odd, "geometry"),
        (BadModel, "model"),
        (BadCycles, "power cycles"),
        (BadErase, r"ioctl\(6\)"),
    ],
)
def test_a_disk_that_lacks_one_of_it_fails_by_name(kind, claim):
    with pytest.raises(Failed, match=claim):
        list(disk_checks(kind(512), 100, 64, 1 << 20))


class NeverErases(LeastFlash):
    def ioctl(self, op, arg):
        return None if op == 6 else super().ioctl(op, arg)


class ErasesMore(LeastFlash):
    def erase_blocks(self, first, count):
        for block in range(first - 1, first + count):
            self.ioctl(6, block)


class ErasesOnOffset(LeastFlash):
    def writeblocks(self, block, buf, offset=None):
        if offset == 0:
            self.ioctl(6, block)
        super().writeblocks(block, buf, offset)


class Shifted(LeastFlash):
    def view(self, offset, length):
        return memoryview(self.data)[offset + 1 : offset + 1 + length]


@pytest.mark.parametrize(
    "kind, claim",
    [
        (NeverErases, "erases one block"),
        (ErasesMore, "erase_blocks"),
        (ErasesOnOffset, "never erases"),
        (Shifted, "seen in memory"),
    ],
)
def test_a_flash_that_lacks_one_of_it_fails_by_name(kind, claim):
    with pytest.raises(FlashFailed, match=claim):
        list(flash_checks(kind(4096), 2, 3))
