"""A serial NOR flash at the level of its bus: bytes in, bytes out, a chip select.

Models silicon as the data sheets of such chips describe it (IS25WP256, W25Q256, MT25QL256,
S25FL256S), stricter than QEMU's m25p80: commands take effect when the chip is deselected, and only
with the right number of bytes; nothing but status is answered while busy; programming ANDs and
wraps inside its page; erases are aligned down; the write enable latch falls after each operation;
protected ranges refuse programs and erases. What it should not have been told is kept in
`misuse`: the tests that use it look whether that is empty.

It runs on CPython and on MicroPython.
"""

_OPCODES4 = {0x12: 0x02, 0x13: 0x03, 0x0C: 0x0B, 0x21: 0x20, 0x5C: 0x52, 0xDC: 0xD8}

IS25WP256 = b"\x9d\x70\x19"


class Chip:
    """The chip.

    ident       what RDID answers, over and over
    size        bytes; the memory wraps around there
    sfdp        its parameters, None for a chip that does not know the command
    opcodes4    whether it has commands with 4-byte addresses
    mode4       how it enters 4-byte mode: None not at all, 0 at once, 1 after write enable only
    erases      {opcode with 3-byte address: bytes}
    outcome     (command that reads, failed program, failed erase, protected, command that clears):
                bits that tell how the last operation ended; None for a chip without
    bp          status register -> (start, end) of what is protected
    sfdp4       in 4-byte mode RDSFDP takes a 4-byte address, too (S25FL064L data sheet, "Read
                Serial Flash Discoverable Parameters")
    resets      software resets it knows: 0x99 (after 66h), 0xF0 (S25FL-S data sheet, "Software
                Reset")
    locks       blocks that are locked from each power-up or reset on, and how the chip shows it:
        "sst26"     in a register of its own (SST26VF064B data sheet, "Write-Protection Lock": RBPR
                    72h, ULBPR 98h)
        "wps"       not at all while WPS is set, bit 2 of 15h (W25Q128JV data sheet, "Individual
                    Block/Sector Memory Protection": 98h)
        "wpsel"     not at all while WPSEL is set, bit 7 of 2Bh (MX25L25635F data sheet, "Advanced
                    Sector Protection": GBULK 98h)
        "at25df"    by bits 3:2 of the status; bit 4 is the level of WP#; bit 7 locks them
                    (AT25DF641 data sheet, "Global Protect/Unprotect": WRSR)
    welded      these locks do not open (SST26: lock-down for ever, nVWLDR)

    fault, one of:
        "wren"      write enable is not taken
        "busy"      an operation never ends
        "program"   programs change nothing and say nothing      "erase"    the same for erases
        "program-error", "erase-error"    they change nothing and the chip says so
        "stale"     reads give what was there when the fault was set
        "ff", "00"  nobody drives the bus
    stuck_low, stuck_high   {address: bits} of the memory that keep their value
    """

    def __init__(
        self,
        size=1 << 25,
        ident=IS25WP256,
        sfdp=None,
        opcodes4=True,
        mode4=0,
        erases=None,
        outcome=(0x81, 0x04, 0x08, 0x02, 0x82),
        bp=None,
        sfdp4=False,
        resets=(0x99,),
        locks=None,
    ):
        self.size = size
        self.ident = ident
        self.sfdp = sfdp
        self.opcodes4 = opcodes4
        self.mode4 = mode4
        self.erases = erases or {0x20: 4096, 0x52: 32768, 0xD8: 65536}
        self.outcome = outcome
        self.bp = bp or _issi
        self.sfdp4 = sfdp4
        self.resets = resets
        self.locks = locks
        self.shut = locks is not None
        self.welded = False
        self.blocks = {}  # block of 4 KB: its bytes; those not there are blank
        self.registers = {0x48: 0, 0x35: 0}  # those that are only read
        if locks in ("wps", "wpsel"):
            self.registers.update({"wps": {0x15: 0x04}, "wpsel": {0x2B: 0x80}}[locks])
        self.status = 0  # the bits that are not busy and write enable
        self.high = 0  # extended address register
        self.busy = 0  # so many looks at the status until the operation is over
        self.program_time = 2
        self.erase_time = 5
        self.enabled = self.four = self.asleep = self.continuous = self.suspended = False
        self.armed = False  # reset enable was the last command
        self.ended = 0  # outcome bits
        self.log = []  # (opcode, address or None) of what was executed
        self.misuse = []
        self.stuck_low, self.stuck_high = {}, {}
        self._fault = None
        self._old = {}
        self._selected = False
        self._in = bytearray()
        self._quiet = False  # what was selected for drives nothing
        self._reading = None  # address of the next byte of memory that is read

    @property
    def fault(self):
        return self._fault

    @fault.setter
    def fault(self, name):
        self._fault = name
        if name == "stale":
            self._old = {n: bytes(b) for n, b in self.blocks.items()}

    # The memory as a test sees it.

    def peek(self, at, n):
        """Return n bytes at address `at`."""
        out = bytearray(n)
        for i in range(n):
            out[i] = self._cell(self.blocks, (at + i) % self.size)
        return bytes(out)

    def poke(self, at, data):
        """Let the memory hold data at address `at`."""
        for i, byte in enumerate(data):
            self._block((at + i) % self.size)[(at + i) % 4096] = byte

    def _block(self, at):
        if at >> 12 not in self.blocks:
            self.blocks[at >> 12] = bytearray(b"\xff" * 4096)
        return self.blocks[at >> 12]

    def _cell(self, blocks, at):
        byte = blocks[at >> 12][at & 4095] if at >> 12 in blocks else 0xFF
        if self.stuck_low or self.stuck_high:
            byte = byte & ~self.stuck_low.get(at, 0) | self.stuck_high.get(at, 0)
        return byte

    # The bus.

    def select(self, level):
        """Drive the chip select: 0 selects."""
        if level == 0:
            if self._selected:
                self.misuse.append("selected twice")
            self._in = bytearray()
            self._quiet = False
            self._reading = None
        elif self._selected and self._in and self._fault not in ("ff", "00"):
            self._execute(self._in)
        self._selected = level == 0

    def transfer(self, byte):
        """Clock one byte in and one out."""
        if not self._selected:
            self.misuse.append("clocked while not selected")
            return 0xFF
        if self._fault == "00":
            return 0
        if self._fault == "ff":
            return 0xFF
        if self._reading is not None:
            return self._next()
        self._in.append(byte)
        if self._quiet:
            return 0xFF
        n = len(self._in) - 1
        answer = self._answer(self._in[0], n) if n else None
        return 0xFF if answer is None else answer

    def _next(self):
        at = self._reading
        self._reading = (at + 1) % self.size
        return self._cell(self._old if self._fault == "stale" else self.blocks, at)

    # What the chip drives while byte `n` is clocked in, None when nothing.
    def _answer(self, op, n):
        if self.continuous:
            return 0xA5
        if self.asleep:
            return None
        if op == 0x05:
            return self._look()
        if self.outcome and op == self.outcome[0]:
            # Micron's has a bit that says ready.
            return self.ended | (0x80 if op == 0x70 and not self.busy else 0)
        if self.busy:
            return None
        if op == 0x9F:
            return self.ident[(n - 1) % len(self.ident)]
        if op == 0x72 and self.locks == "sst26":
            # Two bits for each 8 KB at both ends, of which the first locks reads.
            if n > (self.size >> 16) + 16 >> 3:
                return 0
            return (0x55 if n < 3 else 0xFF) if self.shut else 0
        if op in self.registers and n == 1:
            return self.registers[op]
        width = 4 if self.sfdp4 and self.four else 3
        if op == 0x5A and self.sfdp is not None and n > width + 1:
            at = int.from_bytes(self._in[1 : 1 + width], "big") + n - width - 2
            return self.sfdp[at] if at < len(self.sfdp) else 0xFF
        base, width = self._decode(op)
        self._quiet = base not in (0x03, 0x0B, 0x5A)
        if base not in (0x03, 0x0B) or n < 1 + width + (base == 0x0B):
            return None
        self._reading = self._address(width)
        self.log.append((op, self._reading))
        return self._next()

    # Each look at the status takes a part of the time that an operation takes.
    def _look(self):
        value = self.status | (1 if self.busy else 0) | (2 if self.enabled else 0)
        if self.locks == "at25df":
            value |= 0x1C if self.shut else 0x10
        if self.outcome and self.outcome[0] == 0x05 and self.busy < 2:
            value |= self.ended
        # A failure that the status shows stays busy until it is cleared (S25FL-S).
        failed = value & self.ended & 0x60
        if self.busy and self._fault != "busy" and not (failed and self.busy == 1):
            self.busy -= 1
            if not self.busy:
                self.enabled = False
        return value

    # (the command with a 3-byte address that this one is, bytes of its address)
    def _decode(self, op):
        if op in _OPCODES4:
            return (_OPCODES4[op], 4) if self.opcodes4 else (None, 0)
        return op, 4 if self.four else 3

    def _address(self, width):
        at = int.from_bytes(self._in[1 : 1 + width], "big")
        if width == 3:
            at |= self.high << 24
        elif at >= self.size:
            self.misuse.append("address %x" % at)
        return at % self.size

    # The chip was deselected after these bytes.
    def _execute(self, sent):
        op, n = sent[0], len(sent)
        armed, self.armed = self.armed, False
        if self.continuous:
            self.continuous = bytes(sent[:2]) != b"\xff\xff"
            return
        if self.asleep:
            self.asleep = op != 0xAB
            return
        if self.busy == 1 and self.ended and (op, n) == (0x30, 1) and self._ask() == 0x05:
            self.busy = self.ended = 0
            return
        if self.busy:
            # 66 99 would be heard, and end the operation half way.
            if op not in (0x05, 0x9F, 0xAB, 0xFF, 0x04) and (op, n) != (self._ask(), n):
                self.misuse.append("%02x while busy" % op)
            return
        if n == 1 and op in self.resets and (armed or op == 0xF0):
            self.shut = self.locks is not None
            self.enabled = self.four = self.suspended = False
            self.high = self.ended = 0
            self.log.append((op, None))
        elif n == 1 and op in (0x06, 0x04, 0x66, 0xB9, 0xB7, 0xE9) or op == 0xC5 and n == 2:
            self._simple(op, sent)
        elif (op, n) == (0x98, 1) and self.locks in ("sst26", "wps", "wpsel") and self.enabled:
            self.log.append((op, None))
            self.shut, self.enabled = self.welded, False
        elif (op, n) == (0x01, 2) and self.enabled:
            self.log.append((op, sent[1]))
            self.enabled = False
            if self.locks == "at25df" and not self.status & 0x80:
                self.shut = bool(sent[1] & 0x3C)
            elif self.locks != "at25df":
                self.misuse.append("status written for ever")
        elif self.outcome and op == self.outcome[4] and n == 1:
            self.ended = 0
        else:
            base, width = self._decode(op)
            if base == 0x02 and n > 1 + width:
                self._program(op, self._address(width), sent[1 + width :])
            elif base in self.erases and n == 1 + width:
                self._erase(op, self._address(width), self.erases[base])

    def _ask(self):
        return self.outcome[0] if self.outcome else None

    def _simple(self, op, sent):
        if op == 0x06:
            self.enabled = self._fault != "wren"
        elif op == 0x04:
            self.enabled = False
        elif op == 0x66:
            self.armed = True
        elif op == 0xB9:
            self.asleep = True
        elif self.mode4 is not None and (self.enabled or not self.mode4):
            self.log.append((op, None))
            if op == 0xC5:
                self.high = sent[1]
                self.enabled = False
            else:
                self.four = op == 0xB7
                if op == 0xE9 and self.ident[0] == 0xEF:
                    self.high = 1  # as W25Q256FV does

    # Whether the operation on the sectors or pages of n bytes around `at` goes ahead.
    def _begin(self, op, at, n, error):
        self.log.append((op, at))
        at -= at % n
        if not self.enabled:
            self.misuse.append("%02x without write enable" % op)
            return False
        start, end = (0, self.size) if self.shut else self.bp(self)
        if at < end and at + n > start:
            # It is not even begun; a chip with outcome bits says so and keeps the latch.
            self.misuse.append("%02x in a protected range" % op)
            if self.outcome:
                self.ended |= self.outcome[error] | self.outcome[3]
            else:
                self.enabled = False
            return False
        return True

    def _program(self, op, at, data):
        if not self._begin(op, at, 256, 1):
            return
        self.busy = self.program_time
        if self._fault == "program-error":
            self.ended |= self.outcome[1]
        elif self._fault != "program":
            if at % 256 + len(data) > 256:
                self.misuse.append("page left at %x" % at)
            page = at & ~255
            latch = bytearray(b"\xff" * 256)
            for i in range(len(data)):
                latch[(at + i) & 255] = data[i]
            block = self._block(page)
            page %= 4096
            for i in range(256):
                block[page + i] &= latch[i]

    def _erase(self, op, at, n):
        if at % n:
            self.misuse.append("erase of %d at %x" % (n, at))
        if not self._begin(op, at, n, 2):
            return
        at -= at % n
        self.busy = self.erase_time
        if self._fault == "erase-error":
            self.ended |= self.outcome[2]
        elif self._fault != "erase":
            for i in range(at >> 12, at + n >> 12):
                if i in self.blocks:
                    del self.blocks[i]


# ISSI IS25LP256/IS25WP256 data sheet, table "Block assignment by Block Write Protect bits".
def _issi(chip):
    bits = chip.status >> 2 & 15
    length = min(0x8000 << bits, chip.size) if bits else 0
    return (0, length) if chip.registers[0x48] & 2 else (chip.size - length, chip.size)


class Select:
    """machine.Pin-shaped chip select."""

    OUT = 1

    def __init__(self, chip):
        self.chip = chip
        self.mode = None

    def init(self, mode, value):
        self.mode = mode
        self(value)

    def __call__(self, level):
        self.chip.select(level)


class Bus:
    """machine.SPI-shaped bus with one chip on it. inits: what init() was called with."""

    def __init__(self, chip):
        self.chip = chip
        self.inits = []
        self.transfers = 0

    def init(self, **settings):
        self.inits.append(settings)

    def write(self, buf):
        self.transfers += 1
        transfer = self.chip.transfer
        for byte in buf:
            transfer(byte)

    def readinto(self, buf, write=0):
        self.transfers += 1
        transfer = self.chip.transfer
        for i in range(len(buf)):
            buf[i] = transfer(write)

    def write_readinto(self, write_buf, read_buf):
        self.transfers += 1
        for i, byte in enumerate(bytes(write_buf)):
            read_buf[i] = self.chip.transfer(byte)
