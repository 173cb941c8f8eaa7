"""Parts of MicroPython block devices, and the guard that keeps lifeboat's writes inside them.

Protocol: os.AbstractBlockDev of MicroPython's documentation, simple and extended form.
"""

from micropython import const

# The same everywhere.
_EPERM = const(1)
_EIO = const(5)
_EINVAL = const(22)
_EROFS = const(30)

INIT = const(1)
SYNC = const(3)
COUNT = const(4)
SIZE = const(5)
ERASE = const(6)


def geometry(dev):
    """Return (number of blocks, bytes per block); raises OSError(_EINVAL) on nonsense."""
    count, size = dev.ioctl(COUNT, 0), dev.ioctl(SIZE, 0)
    if not count or not size or min(count, size) < 0:
        raise OSError(_EINVAL)
    return count, size


class Checked:
    """Any block device, with every failure an OSError.

    Drivers may return False or a negative errno instead of raising, have no writeblocks when
    they are read-only, no name, no answer to "block size" (then it is 512), and errors of
    their own: one of them is not to keep the others from being used. Their errors' last argument
    may say why in words.
    """

    def __init__(self, dev, name=""):
        self._dev = dev
        self.name = str(getattr(dev, "name", name))
        self.program_size = getattr(dev, "program_size", 1)
        self.view = getattr(dev, "view", None)
        self.mapped = getattr(dev, "mapped", self.view is not None)

    def _call(self, method, args):
        try:
            result = getattr(self._dev, method)(*args)
        except Exception as error:
            # What the driver names stays its last argument; CPython: an errno alone is no errno.
            known = isinstance(error, OSError) and error.args or (_EIO, repr(error))
            raise OSError(known[0], known[-1]) from None
        if result is False:
            raise OSError(_EIO, method)
        if result and result < 0:
            raise OSError(-result, method)
        return result

    def readblocks(self, *args):
        self._call("readblocks", args)

    def writeblocks(self, *args):
        if not hasattr(self._dev, "writeblocks"):
            raise OSError(_EROFS, "read-only")
        self._call("writeblocks", args)

    def ioctl(self, op, arg):
        result = self._call("ioctl", (op, arg))
        return 512 if op == SIZE and result is None else result

    @property
    def note(self):
        """What a device that works can't do, in words; "" when that is nothing."""
        return getattr(self._dev, "note", "")

    def power_cycles(self):
        """Return how often the device counts to have been switched on; 0: it does not count."""
        return self._call("power_cycles", ()) if hasattr(self._dev, "power_cycles") else 0

    def erase_blocks(self, first, count):
        """Erase blocks; a device with a method of this name may do many with one command."""
        if hasattr(self._dev, "erase_blocks"):
            self._call("erase_blocks", (first, count))
            return
        for block in range(first, first + count):
            self.ioctl(ERASE, block)


class Window:
    """The blocks [first, first + count) of a device, as a device of its own.

    Invariant I3 stands here: lifeboat holds windows only, and a window refuses, with
    OSError(EPERM) and before the device is touched, every access that leaves it.
    writes counts write calls.
    """

    def __init__(self, dev, first, count):
        if not isinstance(dev, Checked):
            dev = Checked(dev)
        total, self.size = geometry(dev)
        if first < 0 or count < 1 or first + count > total:
            raise OSError(_EINVAL)
        self._dev = dev
        self._first = first
        self.count = count
        self.program_size = dev.program_size
        self.mapped = dev.mapped  # whether view() works
        self.writes = 0

    # The block of the device, when length bytes from an offset in a block on are inside.
    def _at(self, block, length, offset=0):
        end = block * self.size + offset + length
        if min(block, length, offset) < 0 or end > self.count * self.size:
            raise OSError(_EPERM)
        return self._first + block

    def readblocks(self, block, buf, *offset):
        self._dev.readblocks(self._at(block, len(buf), *offset), buf, *offset)

    def writeblocks(self, block, buf, *offset):
        block = self._at(block, len(buf), *offset)
        self.writes += 1
        self._dev.writeblocks(block, buf, *offset)

    def ioctl(self, op, arg):
        if op == COUNT:
            return self.count
        if op == ERASE:
            arg = self._at(arg, self.size)
        return self._dev.ioctl(op, arg)

    def erase_blocks(self, first, count):
        """Erase blocks, with as few commands as the device can."""
        self._dev.erase_blocks(self._at(first, count * self.size), count)

    def view(self, offset, length):
        """Return a view of the window's bytes [offset, offset + length), without a copy."""
        # Not by _at(): the inspection asks this for every block.
        if offset < 0 or offset + length > self.count * self.size:
            raise OSError(_EPERM)
        return self._dev.view(self._first * self.size + offset, length)


class Scratch:
    """Memory of one block for the policy's reads and writes, allocated when first needed.

    After a command that did not end in time its buffer is dropped: a controller that was
    stopped should leave memory alone, but not every one does, and what is verified in this
    buffer goes into flash.

    left: how many bytes of copies may still be read into it, None: any number (I11); spent:
    whether a read was left out for that.
    """

    def __init__(self, size):
        self._size = size
        self._buf = None
        self.left = None
        self.spent = False

    def get(self):
        """Return the memoryview; valid until the next drop()."""
        if self._buf is None:
            self._buf = memoryview(bytearray(self._size))
        return self._buf

    def short(self, kept=0):
        """Return whether no read is left but so many that are kept for others."""
        short = self.left is not None and self.left < (kept + 1) * self._size
        self.spent |= short
        return short

    def take(self):
        """Return the memoryview for a read that counts, or None when no bytes are left."""
        if self.short():
            return None
        if self.left is not None:
            self.left -= self._size
        return self.get()

    def drop(self):
        """Never use this buffer again."""
        self._buf = None
