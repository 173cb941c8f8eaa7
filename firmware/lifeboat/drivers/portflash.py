"""Flash that MicroPython's port itself has a block device for: rp2.Flash, esp32.Partition.

    flash = PortFlash(rp2.Flash(start=0, len=1 << 20), page=256)
    flash = PortFlash(esp32.Partition("lifeboat"))

Such objects program and erase well enough, but some check no bounds, take whole pages only or
raise errors with numbers of their own. A block device whose block is the port's, with the
extended interface. Errors are OSErrors:

    EINVAL     outside the flash, or a buffer of the wrong size; nothing was done
    EIO        the port said no

What is written has to lie in RAM: the RP2040 can not program its flash from its flash.
"""

from errno import EINVAL, EIO


class PortFlash:
    """dev: the port's object; page: bytes, what it programs is a multiple of and aligned to.

    unit: bytes that the chip keeps one error correction code for, and that can be programmed only
    once between two erases; 1 where there is none, which is NOR flash whatever its pages are.
    It is told to others as program_size.

    Where dev has the buffer protocol the flash is memory mapped, and view() there.
    """

    def __init__(self, dev, page=1, name="flash", unit=1):
        self.name = name
        self.program_size = unit
        self._dev = dev
        page = max(page, unit)
        self._page = page
        self._bounce = bytearray(page)
        self.count = dev.ioctl(4, 0)
        self.size = dev.ioctl(5, 0)
        try:
            self._memory = memoryview(dev)
            self.view = self._view
        except TypeError:
            pass

    # Where the access begins, in bytes. offset None: the simple form, whole blocks only.
    def _at(self, block, offset, length):
        at = block * self.size + (offset or 0)
        if (
            block < 0
            or (offset or 0) < 0
            or at + length > self.count * self.size
            or (offset is None and length % self.size)
        ):
            raise OSError(EINVAL)
        return at

    def _view(self, offset, length):
        at = self._at(0, offset, length)
        return self._memory[at : at + length]

    def readblocks(self, block, buf, offset=None):
        self._at(block, offset, len(buf))
        self._done(self._dev.readblocks, block, buf, offset or 0)

    def writeblocks(self, block, buf, offset=None):
        at = self._at(block, offset, len(buf))
        if offset is None:
            for i in range(len(buf) // self.size):
                self._done(self._dev.ioctl, 6, block + i)
        view = memoryview(buf)
        page, size = self._page, self.size
        done = 0
        while done < len(buf):
            before = at % page
            left = len(buf) - done
            if before or left < page:
                # To program ones changes nothing.
                n = min(page - before, left)
                piece = self._bounce
                for i in range(page):
                    piece[i] = 0xFF
                piece[before : before + n] = view[done : done + n]
            else:
                # A block at most: a port may have interrupts off until it is programmed.
                n = min(left, size - at % size)
                n -= n % page
                piece = view[done : done + n]
            self._done(self._dev.writeblocks, (at - before) // size, piece, (at - before) % size)
            done += n
            at += n

    def ioctl(self, op, arg):
        if op == 4:
            return self.count
        if op == 5:
            return self.size
        if op == 6:
            self._at(arg, 0, self.size)
            self._done(self._dev.ioctl, 6, arg)
        return 0 if 1 <= op <= 6 else None

    # Success is None or 0; esp32 raises its own negative numbers.
    @staticmethod
    def _done(call, *args):
        try:
            result = call(*args)
        except OSError:
            result = -EIO
        if result:
            raise OSError(EIO)
