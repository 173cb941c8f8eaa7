"""NOR flash in RAM: programming clears bits, only an erase sets them, both can be torn.

What an operation leaves when the power fails within it differs from chip to chip. Measured on one
microcontroller's NOR flash: an erase that ends at its first moment leaves 4.5 % of the zeros, one
that ends after 15 us 0.35 %, and it is always the same cells that are slow. Of flash in general:
cells whose operation was cut short may read differently each time, and a block whose erase was cut
short has to be erased again before it is programmed (Tseng, Grupp, Swanson: "Understanding the
impact of power loss on flash memory", DAC 2011). The shapes are these, and harder ones.
"""

from errno import EINVAL, EIO

from fakes.rng import Rng
from sim.power import Power

ERASES = ("half", "front", "begun", "bits", "slow", "late", "weak", "unstable")
PROGRAMS = ("half", "begun", "bits", "weak", "unstable")
CODED = ("half", "wrong")  # where units have a correcting code: some are whole, one fits nothing
_SLOW = {"slow": 2949, "late": 229}  # 4.5 and 0.35 % of 65536
_TILE = 4096
_masks = {}


def slow_cells(shape):
    """Return the cells that are slow, as ones in 4096 bytes: 4.5 % ("slow") or 0.35 % ("late").

    Those of "late" are among those of "slow".
    """
    if shape not in _masks:
        pick = Rng("cells").bytes(16 * _TILE)
        limit = _SLOW[shape]
        mask = bytearray(_TILE)
        for i in range(8 * _TILE):
            if pick[2 * i] | pick[2 * i + 1] << 8 < limit:
                mask[i >> 3] |= 1 << (i & 7)
        _masks[shape] = bytes(mask)
    return _masks[shape]


class RamFlash:
    """A memory-mapped NOR flash as a block device.

    data: bytearray, the content. It raises AssertionError when a program would have to set a
    bit: real flash would silently hold the AND of both. mapped: whether view() is there; unit:
    bytes that are programmed in one piece, and once between erases, since the chip keeps a
    correcting code for them; 0: as one likes. tears: the shape of a torn operation that names
    none. Cells in `marginal`, {address: bits}, read as 0 or 1 until their block is erased.
    """

    label = "flash"

    def __init__(self, data, erase_size, power=None, mapped=True, unit=0, tears="half", seed=0):
        self.name = "ramflash"
        self.data = data
        self.size = erase_size
        self.power = power or Power()
        self.unit = unit
        self.program_size = unit or 1
        self.tears = tears
        self.rng = Rng("nor/%s" % seed)
        self.erases = 0
        self.programs = 0
        self.wear = {}  # erases of each block
        self.done = set()  # units programmed since their erase
        self.marginal = {}
        self.wrong = set()  # units whose code fits nothing: they can't be read
        self.fail_erase = ()  # erase blocks that give EIO
        self.stuck = ()  # addresses of bytes that keep their value, erased or programmed
        if mapped:
            self.view = self._view

    def _view(self, offset, length):
        at = self._at(0, offset, length)
        self._waver(at, length)
        return memoryview(self.data)[at : at + length]

    def readblocks(self, block, buf, offset=None):
        at = self._at(block, offset, len(buf))
        self._waver(at, len(buf))
        if any(at - self.unit < bad < at + len(buf) for bad in self.wrong):
            raise OSError(EIO, EIO)
        buf[:] = self.data[at : at + len(buf)]

    # Marginal cells read as they like.
    def _waver(self, at, length):
        for address in self.marginal:
            if at <= address < at + length:
                mask = self.marginal[address]
                self.data[address] ^= mask & self.rng.bytes(1)[0]
                self.touched(address, 1)

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
            where, piece = self._whole(at + i, bytes(buf[i : i + 4096]))
            self.power.operation(self, "program", where, piece)
            self._mark(where, len(piece))
            self._program(where, piece)
        return 0

    # A driver fills units with ones, and none is programmed twice.
    def _whole(self, at, piece):
        unit = self.unit
        if unit:
            before = at % unit
            piece = b"\xff" * before + piece
            piece += b"\xff" * (-len(piece) % unit)
            at -= before
            for where in range(at, at + len(piece), unit):
                assert where not in self.done, "unit at 0x%x programmed twice" % where
        return at, piece

    def _mark(self, at, length):
        if self.unit:
            self.done.update(range(at - at % self.unit, at + length, self.unit))

    def _program(self, at, piece):
        self.programs += 1
        old = self.data[at : at + len(piece)]
        o, n = int.from_bytes(old, "little"), int.from_bytes(piece, "little")
        if o & n != n and old != b"\xff" * len(old):
            for i in range(len(piece)):
                if old[i] & piece[i] != piece[i] and at + i not in self.stuck:
                    raise AssertionError("flash programmed without erase at 0x%x" % (at + i))
        for address in [a for a in self.marginal if at <= a < at + len(piece)]:
            self.marginal[address] &= piece[address - at]  # what is programmed is 0 for good
        self._store(at, piece)

    def _store(self, at, piece):
        for address in self.stuck:
            if at <= address < at + len(piece):
                piece = bytearray(piece)
                piece[address - at] = self.data[address]
        self.data[at : at + len(piece)] = piece
        self.touched(at, len(piece))

    def touched(self, at, length):
        """These bytes have changed; for who keeps copies of the content."""

    def shapes(self, name):
        """Return the ways in which an operation of that name can be torn."""
        if self.unit:
            return CODED
        return ERASES if name == "erase" else PROGRAMS

    def tear(self, name, at, data, shape=None):
        """Do a part of an operation, as a power cut leaves it."""
        shape = shape or self.tears
        if shape == "wrong":
            self._mistake(at, self.size if name == "erase" else len(data))
        elif name == "erase":
            self._forget(at)
            self._store(at, self._torn_erase(at, shape))
        elif shape == "half":
            half = len(data) // 2
            self._mark(at, half + 1)  # the unit in the middle was begun
            self._program(at, data[:half])
        else:
            self._mark(at, len(data))
            weak = self._weak(at, len(data), data) if shape == "unstable" else {}
            if not weak:
                data = self._torn_program(at, data, shape)
            for address in weak:
                data = bytearray(data)
                data[address - at] |= weak[address]
            self._program(at, bytes(data))
            self.marginal.update(weak)

    # A unit in the middle has a code that fits nothing, or each of a block.
    def _mistake(self, at, length):
        unit = self.unit
        units = range(at, at + length, unit)
        if length < self.size:
            units = units[len(units) // 2 :][:1]
        self.done.update(units)
        self.wrong.update(units)

    # A block is erased, or nearly: what was known of its cells is no longer true.
    def _forget(self, at):
        end = at + self.size
        self.done = {where for where in self.done if not at <= where < end}
        self.marginal = {a: bits for a, bits in self.marginal.items() if not at <= a < end}
        self.wrong = {where for where in self.wrong if not at <= where < end}

    # Bits of up to eight bytes, as {address: bits}; of a program: such as it clears.
    def _weak(self, at, length, data):
        found = {}
        for _ in range(8):
            where = self.rng.below(length)
            bits = self.data[at + where] & ~data[where] & 0xFF if data else 0xFF
            if bits:
                found[at + where] = bits
        return found

    def _torn_program(self, at, data, shape):
        every = 2 if shape == "bits" else 40
        old = self.data[at : at + len(data)]
        pick = self.rng.bytes(len(data))
        more = self.rng.bytes(len(data))
        if shape == "weak":
            return bytes(
                (n | (1 << m % 8) & o) if p % every == 0 else n
                for n, o, p, m in zip(data, old, pick, more)
            )
        return bytes(
            o & (n | m) if p % every == 0 else o for n, o, p, m in zip(data, old, pick, more)
        )

    def _torn_erase(self, at, shape):
        size = self.size
        old = bytes(self.data[at : at + size])
        if shape == "half":  # some cells erased, and others neither 0 nor 1
            return b"\xff\xa5" * (size // 2)
        if shape == "front":
            return b"\xff" * (size // 2) + old[size // 2 :]
        if shape in _SLOW:
            # Zeros stay in slow cells only; each block of a chip has its own.
            turn = at // size * 97 % _TILE
            mask = slow_cells(shape)
            mask = (mask[turn:] + mask[:turn]) * (size // _TILE + 1)
            zeros = int.from_bytes(mask[:size], "little") & ~int.from_bytes(old, "little")
            return (~zeros & (1 << 8 * size) - 1).to_bytes(size, "little")
        if shape == "bits":
            cells = int.from_bytes(self.rng.bytes(size), "little")
            return (int.from_bytes(old, "little") | cells).to_bytes(size, "little")
        if shape == "begun":
            torn = bytearray(old)
            for _ in range(4):
                torn[self.rng.below(size)] |= 0x55
            return bytes(torn)
        if shape == "unstable":
            self.marginal.update(self._weak(at, size, None))
        torn = bytearray(b"\xff" * size)
        if shape == "weak":
            torn[self.rng.below(size)] = 0xFB
        return bytes(torn)

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
            self.power.operation(self, "erase", at)
            self.erases += 1
            self.wear[arg] = self.wear.get(arg, 0) + 1
            self._forget(at)
            self._store(at, b"\xff" * self.size)
            return 0
        return None
