"""Parts of MicroPython block devices, and the guard that keeps lifeboat's writes inside them.

Protocol: os.AbstractBlockDev of MicroPython's documentation, simple and extended form.
"""

from errno import EINVAL, EIO, EPERM

from micropython import const

_EROFS = const(30)  # not in MicroPython's errno

INIT = const(1)
SYNC = const(3)
COUNT = const(4)
SIZE = const(5)
ERASE = const(6)


def geometry(dev):
    """Return (number of blocks, bytes per block); raises OSError(EINVAL) on nonsense."""
    count, size = dev.ioctl(COUNT, 0), dev.ioctl(SIZE, 0)
    if not count or not size or count < 0 or size < 0:
        raise OSError(EINVAL)
    return count, size


class Checked:
    """Any block device, with every failure an OSError.

    Drivers may return False or a negative errno instead of raising, have no writeblocks when
    they are read-only, no name, no answer to "block size" (then it is 512), and errors of
    their own: one of them is not to keep the others from being used.
    """

    def __init__(self, dev, name=""):
        self._dev = dev
        self.name = str(getattr(dev, "name", name))
        self.mapped = getattr(dev, "mapped", hasattr(dev, "view"))
        if self.mapped:
            self.view = dev.view

    def _call(self, method, *args):
        try:
            result = getattr(self._dev, method)(*args)
        except OSError:
            raise
        except Exception as error:
            raise OSError(EIO, repr(error)) from None
        if result is False:
            raise OSError(EIO, method)
        if result is not None and result is not True and result < 0:
            raise OSError(-result, method)
        return result

    def readblocks(self, *args):
        self._call("readblocks", *args)

    def writeblocks(self, *args):
        if not hasattr(self._dev, "writeblocks"):
            raise OSError(_EROFS, "read-only")
        self._call("writeblocks", *args)

    def ioctl(self, op, arg):
        result = self._call("ioctl", op, arg)
        return 512 if op == SIZE and result is None else result

    def power_cycles(self):
        """Return how often the device counts to have been switched on; 0: it does not count."""
        return self._call("power_cycles") if hasattr(self._dev, "power_cycles") else 0

    def erase_blocks(self, first, count):
        """Erase blocks; a device with a method of this name may do many with one command."""
        if hasattr(self._dev, "erase_blocks"):
            self._call("erase_blocks", first, count)
            return
        for block in range(first, first + count):
            self.ioctl(ERASE, block)


class Window:
    """The blocks [first, first + count) of a device, as a device of its own.

    Invariant I3 stands here: lifeboat holds windows only, and a window refuses, with
    OSError(EPERM) and before the device is touched, every access that leaves it.
    writes counts write calls, erases counts erased blocks.
    """

    def __init__(self, dev, first, count):
        if not isinstance(dev, Checked):
            dev = Checked(dev)
        total, self.size = geometry(dev)
        if first < 0 or count < 1 or first + count > total:
            raise OSError(EINVAL)
        self._dev = dev
        self._first = first
        self.count = count
        self.writes = 0
        self.erases = 0

    def _check(self, block, offset, length):
        if block < 0 or offset < 0 or block * self.size + offset + length > self.count * self.size:
            raise OSError(EPERM)
        return self._first + block

    def readblocks(self, block, buf, offset=None):
        block = self._check(block, offset or 0, len(buf))
        if offset is None:
            return self._dev.readblocks(block, buf)
        return self._dev.readblocks(block, buf, offset)

    def writeblocks(self, block, buf, offset=None):
        block = self._check(block, offset or 0, len(buf))
        self.writes += 1
        if offset is None:
            return self._dev.writeblocks(block, buf)
        return self._dev.writeblocks(block, buf, offset)

    def ioctl(self, op, arg):
        if op == COUNT:
            return self.count
        if op == ERASE:
            arg = self._check(arg, 0, self.size)
            self.erases += 1
        return self._dev.ioctl(op, arg)

    @property
    def mapped(self):
        """Whether view() works: the device is memory mapped."""
        return self._dev.mapped

    def erase_blocks(self, first, count):
        """Erase blocks, with as few commands as the device can."""
        self._check(first, 0, count * self.size)
        self.erases += count
        self._dev.erase_blocks(self._first + first, count)

    def view(self, offset, length):
        """Return a view of the window's bytes [offset, offset + length), without a copy."""
        size = self.size
        if offset < 0 or length < 0 or offset + length > self.count * size:
            raise OSError(EPERM)
        return self._dev.view(self._first * size + offset, length)


class UserArea:
    """A disk as if its blocks [first, end) were not there, for file systems and applications.

    The other blocks keep their numbers, so partitions stay where they are; when nothing useful
    follows them the disk just ends before them. Whatever touches one of them is refused with
    OSError(EPERM) before the disk is asked.
    """

    # How many calls are under way, on any disk: code that interrupts one keeps its hands off.
    busy = 0

    def __init__(self, dev, first, end):
        self._dev = dev
        self._first = first
        self._end = end
        self.name = dev.name
        self.count, self.size = geometry(dev)
        # A tail that is not even a unit long is what rounding has left.
        if (self.count - end) * self.size < 4096:
            self.count = first

    def _transfer(self, method, block, buf, offset):
        first = block * self.size + (offset or 0)
        end = first + len(buf)
        if (
            first < 0
            or end > self.count * self.size
            or (first < self._end * self.size and end > self._first * self.size)
        ):
            raise OSError(EPERM, self.name)
        if offset is None:
            return self._use(method, block, buf)
        return self._use(method, block, buf, offset)

    def _use(self, method, *args):
        UserArea.busy += 1
        try:
            return method(*args)
        finally:
            UserArea.busy -= 1

    def readblocks(self, block, buf, offset=None):
        return self._transfer(self._dev.readblocks, block, buf, offset)

    def writeblocks(self, block, buf, offset=None):
        return self._transfer(self._dev.writeblocks, block, buf, offset)

    # Blocks of a disk need no erasing.
    def ioctl(self, op, arg):
        if op == COUNT:
            return self.count
        return 0 if op == ERASE else self._use(self._dev.ioctl, op, arg)


class Scratch:
    """Memory of one block for the policy's reads and writes, allocated when first needed.

    After a command that did not end in time its buffer is dropped: a controller that was
    stopped should leave memory alone, but not every one does, and what is verified in this
    buffer goes into flash.
    """

    def __init__(self, size):
        self._size = size
        self._buf = None

    def get(self):
        """Return the memoryview; valid until the next drop()."""
        if self._buf is None:
            self._buf = memoryview(bytearray(self._size))
        return self._buf

    def drop(self):
        """Never use this buffer again."""
        self._buf = None
