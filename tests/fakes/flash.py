"""NOR flash in RAM: programming clears bits, only an erase sets them, both can be torn."""

from errno import EINVAL, EIO

from fakes.power import Power


class RamFlash:
    """A memory-mapped NOR flash as a block device.

    data: bytearray, the content. It raises AssertionError when a program would have to set a
    bit: real flash would silently hold the AND of both. mapped: whether view() is there.
    """

    def __init__(self, data, erase_size, power=None, mapped=True):
        self.name = "ramflash"
        self.data = data
        self.size = erase_size
        self.power = power or Power()
        self.erases = 0
        self.programs = 0
        self.fail_erase = ()  # erase blocks that give EIO
        self.stuck = ()  # addresses of bytes that keep their value, erased or programmed
        if mapped:
            self.view = self._view

    def _view(self, offset, length):
        at = self._at(0, offset, length)
        return memoryview(self.data)[at : at + length]

    def readblocks(self, block, buf, offset=None):
        at = self._at(block, offset, len(buf))
        buf[:] = self.data[at : at + len(buf)]

    # offset None: the simple form, whole blocks only.
    def _at(self, block, offset, length):
        at = block * self.size + (offset or 0)
        whole = offset is not None or length % self.size == 0
        if block < 0 or (offset or 0) < 0 or at + length > len(self.data) or not whole:
            raise OSError(EINVAL, self.name)
        return at

    def writeblocks(self, block, buf, offset=None):
        at = self._at(block, offset, len(buf))
        if offset is None:
            for i in range(len(buf) // self.size):
                self.ioctl(6, block + i)
        for i in range(0, len(buf), 4096):
            piece = bytes(buf[i : i + 4096])
            half = piece[: len(piece) // 2]
            self.power.operation(
                "flash", "program", at + i, lambda h=half, i=i: self._program(at + i, h)
            )
            self._program(at + i, piece)
        return 0

    def _program(self, at, piece):
        self.programs += 1
        old = self.data[at : at + len(piece)]
        for i, (o, n) in enumerate(zip(old, piece)):
            if o & n != n and at + i not in self.stuck:
                raise AssertionError("flash programmed without erase at 0x%x" % (at + i))
        self._store(at, piece)

    def _store(self, at, piece):
        for address in self.stuck:
            if at <= address < at + len(piece):
                piece = bytearray(piece)
                piece[address - at] = self.data[address]
        self.data[at : at + len(piece)] = piece

    def ioctl(self, op, arg):
        if op in (1, 2, 3):
            return 0
        if op == 4:
            return len(self.data) // self.size
        if op == 5:
            return self.size
        if op == 6:
            at = self._at(arg, 0, self.size)
            if arg in self.fail_erase:
                raise OSError(EIO)
            # A torn erase leaves some cells erased and others neither 0 nor 1.
            torn = bytes(b"\xff\xa5" * (self.size // 4))
            self.power.operation("flash", "erase", at, lambda: self._store(at, torn))
            self.erases += 1
            self._store(at, b"\xff" * self.size)
            return 0
        return None
