"""Two x16 CFI flash chips side by side on a 32-bit bus, at the level of bus cycles.

Commands, status and query follow JESD68.01, JEP137 and the command sets they name 0001 and 0003.
The chips are two: each has its own status and its own faults. Programming clears bits only; busy
chips take no commands; what a driver must never do is an AssertionError.
"""

from bisect import bisect_right
from dataclasses import dataclass, field

READY, ERASE_FAILED, PROGRAM_FAILED, NO_VPP, LOCKED = 0x80, 0x20, 0x10, 0x08, 0x02

_ADDRESS_OF_QUERY = 0x55


@dataclass
class Query:
    """What a chip says of itself. Times are powers of two: us, us, ms; `longest` multiplies them.

    regions: (blocks, bytes) of each erase region, the lowest first: those of boot block parts
    differ (28F128P30T data sheet, "CFI", words 2Dh to 34h). buffer: power of two, 0 for none.
    width: interface code (JEP137): 0 x8, 1 x16, 2 either.
    """

    command_set: int = 1
    regions: tuple = ((8, 2048),)
    buffer: int = 5
    typical: tuple = (7, 7, 9)
    longest: tuple = (2, 2, 2)
    features: int = 0
    width: int = 1
    signature: bytes = b"QRY"
    size: int = field(default=0)

    def __post_init__(self):
        self.size = self.size or sum(n * size for n, size in self.regions).bit_length() - 1

    def bytes(self):
        q = bytearray(0x80)
        q[0x10:0x13] = self.signature
        q[0x13:0x15] = self.command_set.to_bytes(2, "little")
        q[0x15] = extended = 0x10 + 0x1D + 4 * len(self.regions)
        for i, (typical, longest) in enumerate(zip(self.typical, self.longest)):
            q[0x1F + i], q[0x23 + i] = typical, longest if typical else 0
        q[0x27] = self.size
        q[0x28] = self.width
        q[0x2A] = self.buffer
        q[0x2C] = len(self.regions)
        for i, (blocks, size) in enumerate(self.regions):
            units = size // 256 if size > 128 else 0
            q[0x2D + 4 * i : 0x31 + 4 * i] = (blocks - 1 | units << 16).to_bytes(4, "little")
        q[extended : extended + 5] = b"PRI11"
        q[extended + 5] = self.features
        return bytes(q)


class Chip:
    """One chip. Addresses are its own, of 16-bit words. Attributes that tests use:

    fail       status bits with which every erase and program fails from now on
    hang       erase and program never end
    buffer_free   whether the write buffer may be filled
    erase_us, program_us   how long they take
    locked     numbers of locked blocks
    mode       what reads show: "array", "status" or "query"
    """

    def __init__(self, query, clock):
        self.query = query
        self.fail = 0
        self.hang = False
        self.buffer_free = True
        self.erase_us, self.program_us = 5000, 100
        self.mode = "array"
        self._clock = clock
        self._query = query.bytes()
        # The first word of each block, and behind the last one.
        self._starts = [0]
        for blocks, size in query.regions:
            for _ in range(blocks):
                self._starts.append(self._starts[-1] + size // 2)
        # Chips with individual locks power up locked (0001, P+5 bit 5).
        self.locked = set(range(len(self._starts) - 1)) if query.features & 0x20 else set()
        self.cells = [0xFFFF] * (sum(n * size for n, size in query.regions) // 2)
        self._status = 0
        self._busy_until = 0
        self._next = self._command  # takes the next write cycle
        self._extended = False  # the status shown is the extended one, of the write buffer
        self._buffer = {}

    @property
    def busy(self):
        return self._clock.us < self._busy_until

    @property
    def idle(self):
        """No command is half-way, none is running, and reads show the content."""
        return self.mode == "array" and self._next == self._command and not self.busy

    @property
    def interruptible(self):
        """Reads show the status, and no command waits for its next cycle."""
        return self.mode == "status" and self._next == self._command

    def read(self, at):
        if self.mode == "array":
            return self.cells[at]
        if self.mode == "query":
            return self._query[at] if at < len(self._query) else 0
        ready = self.buffer_free if self._extended else not self.busy
        return self._status | ready * READY

    def write(self, at, value):
        self._next(at, value)

    def _block(self, at):
        return bisect_right(self._starts, at) - 1

    def _command(self, at, value):
        assert value < 0x100, "no command: %#x" % value
        if self.busy:
            if value == 0x70:
                self.mode = "status"
            return
        if value == 0 and self.query.width == 0:
            return  # the other half of a command for x16 chips
        self._extended = value == 0xE8
        if value == 0xFF:
            self.mode = "array"
        elif value == 0x70:
            self.mode = "status"
        elif value == 0x50:
            self._status = 0
        elif value == 0x98:
            assert at == _ADDRESS_OF_QUERY, "query at %#x" % at
            self.mode = "query"
        else:
            setup = {0x20: self._erase, 0x40: self._program, 0x60: self._unlock, 0xE8: self._count}
            assert value in setup, "no command: %#x" % value
            assert value != 0xE8 or self.query.buffer, "this chip has no buffer"
            assert value != 0x60 or self.query.features & 0x28, "this chip has no locks"
            self.mode = "status"
            if value != 0xE8 or self.buffer_free:
                self._next = setup[value]
            self._at = at

    def _finish(self, us, status=0):
        self._status |= status
        self._busy_until = float("inf") if self.hang else self._clock.us + us
        self._next = self._command

    def _refused(self, at, bit):
        """Status with which an operation on this address fails, or 0."""
        if self._block(at) in self.locked:
            return LOCKED | bit
        return self.fail

    def _erase(self, at, value):
        if value != 0xD0:
            self._finish(0, ERASE_FAILED | PROGRAM_FAILED)
            return
        assert self._block(at) == self._block(self._at), "confirmed in another block"
        refused = self._refused(at, ERASE_FAILED)
        if not refused:
            start, end = self._starts[self._block(at) :][:2]
            self.cells[start:end] = [0xFFFF] * (end - start)
        self._finish(0 if refused else self.erase_us, refused)

    def _program(self, at, value):
        assert at == self._at, "word program at two addresses"
        self._store({at: value})

    def _unlock(self, at, value):
        assert value == 0xD0, "locks a block"
        assert self._block(at) == self._block(self._at), "confirmed in another block"
        self.locked.discard(self._block(at))
        self._finish(10)

    def _count(self, at, value):
        self._extended = False
        assert self._block(at) == self._block(self._at), "count in another block"
        assert value < 1 << self.query.buffer - 1, "more than the buffer takes"
        self._left = value + 1
        self._buffer = {}
        self._next = self._data

    def _data(self, at, value):
        buffer = 1 << self.query.buffer - 1
        first = min(self._buffer, default=at)
        assert at // buffer == first // buffer, "buffers are aligned to their size"
        assert first <= at and at not in self._buffer, "data before the first address, or twice"
        self._buffer[at] = value
        self._left -= 1
        if not self._left:
            self._next = self._confirm

    def _confirm(self, at, value):
        if value != 0xD0:
            self._finish(0, ERASE_FAILED | PROGRAM_FAILED)
            return
        self._store(self._buffer)

    def _store(self, words):
        refused = self._refused(min(words), PROGRAM_FAILED)
        if not refused:
            for at, value in words.items():
                self.cells[at] &= value
        self._finish(0 if refused else self.program_us, refused)


class Pair:
    """Both chips at `base` of an Mmio; four where they are x8.

    writes: 32-bit write cycles so far.
    """

    def __init__(self, mmio, clock, base, query=None):
        query = query or Query()
        self._bits = 16 if query.width else 8
        self.chips = [Chip(query, clock) for _ in range(32 // self._bits)]
        self.size = 4 * len(self.chips[0].cells)
        self.writes = 0
        mmio.attach(base, self.size, self)

    def read32(self, offset):
        assert offset % 4 == 0
        mask = (1 << self._bits) - 1
        seen = (chip.read(offset // 4) & mask for chip in self.chips)
        return sum(value << self._bits * i for i, value in enumerate(seen))

    def write32(self, offset, value):
        assert offset % 4 == 0
        self.writes += 1
        for i, chip in enumerate(self.chips):
            chip.write(offset // 4, value >> self._bits * i & (1 << self._bits) - 1)

    def memory(self, offset, length):
        """What the processor sees in this range now."""
        assert offset >= 0 and offset + length <= self.size, "beyond the flash"
        start = offset & ~3
        words = (self.read32(at) for at in range(start, offset + length, 4))
        seen = b"".join(word.to_bytes(4, "little") for word in words)
        return memoryview(seen)[offset - start : offset - start + length]

    @property
    def content(self):
        """All bytes, whatever the chips show."""
        low, high = (chip.cells for chip in self.chips)
        return b"".join((a | b << 16).to_bytes(4, "little") for a, b in zip(low, high))

    @content.setter
    def content(self, data):
        for i, chip in enumerate(self.chips):
            chip.cells = [
                data[at] | data[at + 1] << 8 for at in range(2 * i, len(data), 4)
            ]  # fmt: skip
