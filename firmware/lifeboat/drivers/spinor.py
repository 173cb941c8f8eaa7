"""Serial NOR flash (JEDEC commands, one data line each way) on any machine.SPI.

Size, erase commands, addressing and times come from the chip's own parameters (SFDP: JESD216),
which are checked like any other data that a broken chip may send, else from a table of chips by
JEDEC id. A SPINOR is a MicroPython block device whose block is the smallest erase, 4096 bytes with
most chips; erase_blocks() takes the largest erases that fit. Errors are OSErrors:

    EINVAL     outside the flash, or a buffer of the wrong size; the flash was not touched
    EIO        erase or program failed, as far as the chip can tell: read back what was written
    EROFS      the range is protected, or the chip does not take the write enable command; the
               text says how
    ETIMEDOUT  the chip stayed busy longer than it may; from then on every call looks only once
    ENODEV     (constructor) no flash, or one whose size nobody knows; the text has its id
    EOPNOTSUPP (constructor) more than 16 MB, and no known way to address them

What a chip is found in and left in. The board may have been reset in the middle of anything, so
the constructor ends a continuous read, wakes the chip from power-down and waits for the end of an
erase that still runs: resetting the chip there would tear its block. Then chips that are known to
have a software reset (66h 99h, or F0h) get one: it ends suspended erases, 4-byte addressing and
other volatile settings. Chips with a 4-byte mode are told to leave it, small ones too; some take
4-byte addresses for their parameters there (S25FL-L). Outside of calls the chip has 3-byte
addresses, as boot ROMs want it; where only a mode reaches the upper part of the chip, a board
reset in the middle of a call leaves that mode on, so such boards should reset the flash, too.
Four-line (QPI) mode can't be left over one line, except where FFh does it.

Protection that lasts is never changed. Some chips protect all of themselves at each power-up:
SST26 by a register of its own (72h), Winbond and others where WPS is set and Macronix where WPSEL
is, without a word in their status; AT25DF by status bits. `unlock` ends that. Without it every
write is refused, also where an earlier stage has unlocked blocks of the second kind.
"""

import errno
from struct import pack_into, unpack_from
from time import sleep_ms, ticks_add, ticks_diff, ticks_ms

from micropython import const

from lifeboat.kernels import blank

_PROGRAM = const(0x02)
_WRITE_DISABLE = const(0x04)
_STATUS = const(0x05)
_WRITE_ENABLE = const(0x06)
_READ = const(0x0B)  # the fast one: eight dummy clocks after the address
_READ4 = const(0x0C)
_PROGRAM4 = const(0x12)
_READ4_SLOW = const(0x13)  # no dummy clocks
_STATUS3 = const(0x15)
_SECURITY = const(0x2B)  # Macronix: bit 7 says that blocks are protected one by one
_STATUS2 = const(0x35)
_FUNCTION = const(0x48)  # ISSI: bit 1 says that protection starts at the bottom
_PARAMETERS = const(0x5A)
_LOCKS = const(0x72)  # SST26: block protection register
_UNLOCK = const(0x98)
_WRITE_STATUS = const(0x01)
_RESET_ENABLE = const(0x66)
_RESET = const(0x99)
_ID = const(0x9F)
_WAKE = const(0xAB)
_ENTER4 = const(0xB7)
_HIGH_ADDRESS = const(0xC5)
_EXIT4 = const(0xE9)
_END_READ = const(0xFF)
_RESET_ALONE = const(0xF0)

_BUSY = const(1)
_ENABLED = const(2)

_EROFS = const(30)  # MicroPython's errno module does not have it

# Sectors of these sizes and commands may be erased, nothing else that parameters may name; the
# same with a 4-byte address.
_ERASES = ((4096, 0x20), (32768, 0x52), (65536, 0xD8), (262144, 0xD8))
_WITH_4_BYTES = {0x20: 0x21, 0x52: 0x5C, 0xD8: 0xDC}

# Abilities: the lowest bits are those of _ERASES.
_OPCODES4 = const(0x10)  # commands that take 4-byte addresses
_MODE4 = const(0x20)  # a mode in which all commands take them
_ALWAYS4 = const(0x40)  # they always do
_RESETS = const(0x80)
_RESETS_ALONE = const(0x100)

# JEDEC id; two bytes more where the id alone is not enough; log2 of the bytes; abilities.
# Where versions of a chip share an id, what all of them can do.
_ROW = const(7)
_CHIPS = (
    b"\x9d\x60\x19\0\0\x19\x97"  # IS25LP256
    b"\x9d\x70\x19\0\0\x19\x97"  # IS25WP256
    b"\xef\x40\x18\0\0\x18\x07"  # W25Q128
    b"\xef\x40\x19\0\0\x19\x27"  # W25Q256
    b"\xc2\x20\x19\0\0\x19\x27"  # MX25L25635
    b"\x20\xba\x19\0\0\x19\x25"  # N25Q256A, MT25QL256
    b"\x01\x02\x19\x4d\x00\x19\x18"  # S25FL256S, sectors of 256 KB
    b"\x01\x02\x19\x4d\x01\x19\x14"  # S25FL256S, sectors of 64 KB and some of 4 KB
)

# Where the chip tells how an erase or program ended: manufacturer, command, failed, protected,
# command that clears it.
_OUTCOMES = (
    (0x20, 0x70, 0x30, 0x02, 0x50),  # Micron: flag status register
    (0x9D, 0x81, 0x0C, 0x02, 0x82),  # ISSI: extended read register
    (0x01, 0x05, 0x60, 0x00, 0x30),  # Spansion S25FL-S: status register
)

# Their second status register has CMP, which turns the meaning of the protection bits around, as
# bit 6, and their third WPS as bit 2: Fudan, Boya, Puya, Zbit, XTX, GigaDevice, Winbond.
_STATUS_OF_THREE = const(b"\xa1\x68\x85\x5e\x0b\xc8\xef")

# Time limits in milliseconds. Programming a page: more than parameters can say. Erases of chips
# that say nothing: the slowest of the data sheets above and some more; of the others: what they
# say, kept within bounds.
_PROGRAM_MS = const(100)
_ERASE_MS = const(4000)
_ERASE_MS_LEAST = const(1000)
_ERASE_MS_MOST = const(30000)


class SPINOR:
    """The flash on bus `spi` whose chip select `cs` is an output pin: cs(0) selects.

    baudrate    in Hz; None leaves the bus as it is
    unlock      True: end protection that comes with each power-up

    name        "spinor"
    program_size  1: any byte can be programmed, and again, by itself
    jedec_id    its three bytes
    size        in bytes
    protected   (start, end) of the bytes that the chip protects, start == end when none; all of
                them where it protects some and the driver does not know which
    protection  why, in words; "" when nothing is protected
    locked      only with its WP# pin high does the chip let the protection be changed (SRWD)
    erases      erased so far, in units of 4096 bytes
    programs    pages programmed so far
    status      what the chip said last of an operation: of the one that failed, after an error
    """

    name = "spinor"
    program_size = 1

    def __init__(self, spi, cs, baudrate=None, unlock=False):
        self._spi = spi
        self._cs = cs
        self._transact = getattr(spi, "transact", self._in_steps)
        self.erases = self.programs = self.status = 0
        self._head = bytearray(6)
        head = memoryview(self._head)
        self._heads = [head[:n] for n in range(7)]
        self._head1 = head[:1]
        self._answer = bytearray(1)
        self._width = 3
        self._failed = 0  # bits that end an operation in a status that stays busy
        self._mode4 = self._stuck = self._unlocked = False
        cs.init(cs.OUT, value=1)
        if baudrate:
            spi.init(baudrate=baudrate, polarity=0, phase=0)
        ident = self._identify()
        self.jedec_id = bytes(ident[:3])
        self._outcome = None
        for row in _OUTCOMES:
            # Later Spansion chips use these bits for other things.
            if row[0] == ident[0] and (ident[0] != 1 or ident[1] in (0x02, 0x20)):
                self._outcome = row
                if row[1] == _STATUS:
                    self._failed = row[2]
        self._geometry(ident)
        if unlock:
            self._unlock()
        self._protection()

    # One command: opcode and the bytes of `at` after it, n bytes in all; then data.
    def _send(self, op, at=0, n=1, out=b"", into=b""):
        head = self._head
        if n > 1:
            pack_into(">I", head, self._width - 3, at)
        head[0] = op
        self._transact(self._cs, self._heads[n], out, into)

    # What a bus without transact() does.
    def _in_steps(self, cs, head, out, into):
        cs(0)
        try:
            self._spi.write(head)
            if out:
                self._spi.write(out)
            elif into:
                self._spi.readinto(into)
        finally:
            cs(1)

    def _register(self, op):
        self._head[0] = op
        self._transact(self._cs, self._head1, b"", self._answer)
        return self._answer[0]

    # The status is looked at once more after the deadline: time may have passed while the
    # machine did something else.
    def _wait(self, ms):
        late = self._stuck
        end = None
        while True:
            self.status = status = self._register(_STATUS)
            if not status & _BUSY or status & self._failed and status != 0xFF:
                self._stuck = False
                return
            if late:
                self._stuck = True
                raise OSError(errno.ETIMEDOUT)
            if end is None:
                end = ticks_add(ticks_ms(), ms)
            late = ticks_diff(end, ticks_ms()) <= 0

    # A chip in power-down answers nothing, so it is woken before it is asked whether it is busy;
    # one that is busy ignores that, and may ignore the question for its id.
    def _identify(self):
        self._send(_END_READ, 0xFF0000, 2)
        self._send(_WAKE)
        sleep_ms(1)
        ident = bytearray(5)
        if self._register(_STATUS) != 0xFF:
            self._wait(_ERASE_MS)
        self._send(_ID, 0, 1, b"", ident)
        if ident[:3] in (b"\xff\xff\xff", b"\0\0\0"):
            raise _no_device("no flash", ident)
        self._wait(_ERASE_MS)
        return ident

    def _geometry(self, ident):
        size = abilities = 0
        for i in range(0, len(_CHIPS), _ROW):
            row = _CHIPS[i : i + _ROW]
            if row[:3] == ident[:3] and row[3:5] in (b"\0\0", ident[3:5]):
                size, abilities = 1 << row[5], row[6]
        erases = [e + (_ERASE_MS,) for i, e in enumerate(_ERASES) if abilities >> i & 1]
        read4, page = _READ4, 256
        own = self._parameters()
        late = self._width == 4
        self._width = 3
        # Parameters that contradict what is known of the chip were not read right.
        if own and size in (0, own[0]):
            size, erases, more, read4, page = own
            abilities |= more
        if not size:
            raise _no_device("unknown flash", ident)
        self._page = page
        self.size = size
        self._read, self._program = _READ, _PROGRAM
        if size > 1 << 24:
            if abilities & _OPCODES4:
                self._read, self._program = read4, _PROGRAM4
                erases = [(n, _WITH_4_BYTES[op], ms) for n, op, ms in erases]
            elif abilities & _MODE4:
                self._mode4 = True
            elif not abilities & _ALWAYS4:
                raise OSError(errno.EOPNOTSUPP, "spinor: no way to 4-byte addresses")
        if abilities & (_RESETS | _RESETS_ALONE):
            if abilities & _RESETS:
                self._send(_RESET_ENABLE)
                self._send(_RESET)
            else:
                self._send(_RESET_ALONE)
            sleep_ms(1)
            self._wait(_ERASE_MS)
        if self._mode4 or abilities & (_MODE4 | _RESETS) == _MODE4:
            self._leave4()
        self._send(_WRITE_DISABLE)
        if late and not abilities & _ALWAYS4 and self._table(0, 4) != b"SFDP":
            raise OSError(errno.EOPNOTSUPP, "spinor: stays in 4-byte mode")
        if size > 1 << 24:
            self._width = 4
        self._erases = sorted(erases, reverse=True)
        self._block = self._erases[-1][0]

    # Serial Flash Discoverable Parameters: (size, erases, abilities, command to read with 4-byte
    # addresses, page size), or None when there are none that make sense.
    def _parameters(self):
        head = self._table(0, 9)
        if head[1:5] == b"SFDP":
            # The chip took the dummy byte for the address's fourth.
            self._width = 4
            head = self._table(0, 8)
        if head[:4] != b"SFDP" or head[5] != 1:
            return None
        basic = four = None
        for i in range(1, head[6] + 2):
            head = self._table(8 * i, 8)
            kind = head[0] | head[7] << 8
            length = head[3]
            at = head[4] | head[5] << 8 | head[6] << 16
            if head[2] != 1:
                continue
            if kind == 0xFF00 and length >= 9:
                basic = self._table(at, 4 * min(length, 16))
            elif kind == 0xFF84 and length >= 2:
                four = self._table(at, 8)
            elif kind == 0xFF81 and length > 2:
                return None  # a map of sectors: not all of them have the same erases
        if not basic:
            return None
        # The standard counts these words from 1.
        words = unpack_from("<16I", basic + bytes(64))
        density = words[1]
        if density >> 31:
            density &= 0x7FFFFFFF
            size = 1 << density - 3 if 32 <= density <= 35 else 0
        else:
            size = density + 1 >> 3
        abilities = 0
        modes = words[15]
        address = words[0] >> 17 & 3
        if modes >> 12 & 1:
            abilities |= _RESETS
        elif modes >> 11 & 1:
            abilities |= _RESETS_ALONE
        if modes >> 29 & 1:
            abilities |= _OPCODES4
        if modes >> 24 & 3 or not modes and address == 1:
            abilities |= _MODE4
        if modes >> 30 & 1 or address == 2:
            abilities |= _ALWAYS4
        have = four[0] | four[1] << 8 if four and size > 1 << 24 else 0
        if have & 3 and have & 0x40:
            abilities |= _OPCODES4
        else:
            have = 0
        erases = []
        for i in range(4):
            power, op = basic[28 + 2 * i], basic[29 + 2 * i]
            if power > 18 or (1 << power, op) not in _ERASES or not size or size % (1 << power):
                continue
            if have and (not have >> 9 + i & 1 or four[4 + i] != _WITH_4_BYTES[op]):
                continue
            ms = _ERASE_MS
            times = words[9]
            if times:
                # Typical: so many times a unit; the lowest bits: how many times that at most.
                ms = times >> 4 + 7 * i
                ms = ((ms & 31) + 1) * (1, 16, 128, 1000)[ms >> 5 & 3] * 2 * ((times & 15) + 1)
                ms = min(max(ms, _ERASE_MS_LEAST), _ERASE_MS_MOST)
            erases.append((1 << power, op, ms))
        if not erases:
            return None
        # Pages of 2^n bytes; programming 256 at a time never leaves a larger one.
        page = min(1 << (words[10] >> 4 & 15), 256) if words[10] else 256
        return size, erases, abilities, _READ4_SLOW if have & 3 == 1 else _READ4, page

    def _table(self, at, n):
        buf = bytearray(n)
        self._send(_PARAMETERS, at, self._width + 2, b"", buf)
        return buf

    # Whether a register of a chip that may not have it has these bits set.
    def _shows(self, op, bits):
        value = self._register(op)
        return value != 0xFF and value & bits

    # Whether the chip has locks for each block that its status does not show, and uses them:
    # those of SST26 can be looked at.
    def _hidden(self):
        maker = self.jedec_id[0]
        if self._sst26():
            locks = bytearray((self.size >> 16) + 16 >> 3)
            self._send(_LOCKS, 0, 1, b"", locks)
            return any(locks)
        if maker == 0xC2:
            return self._shows(_SECURITY, 0x80)
        return maker in _STATUS_OF_THREE and self._shows(_STATUS3, 4)

    def _sst26(self):
        return self.jedec_id[:2] == b"\xbf\x26"

    # AT25DF and AT26DF: writing 0 into the status unprotects all sectors until the power goes.
    def _at25df(self):
        return self.jedec_id[0] == 0x1F and self.jedec_id[1] >> 5 == 2

    def _unlock(self):
        hidden = self._unlocked = self._hidden()
        if hidden or self._at25df():
            self._send(_WRITE_ENABLE)
            if hidden:
                self._send(_UNLOCK)
            else:
                self._send(_WRITE_STATUS, 0, 1, b"\0")
            self._wait(_PROGRAM_MS)
            self._send(_WRITE_DISABLE)

    # The block protection bits of the status register: 2^(n-1) blocks of 64 KB from the top (or
    # the bottom) with large chips of Micron and ISSI; others divide theirs in other ways.
    def _protection(self):
        maker = self.jedec_id[0]
        status = self._register(_STATUS)
        self.locked = bool(status & 0x80)
        bits = status >> 2 & 7
        size = length = self.size
        bottom = False
        if maker == 0x20 and size > 1 << 24:
            bits |= status >> 3 & 8
            bottom = status & 0x20
            length = 0x8000 << bits
        elif maker == 0x9D and size > 1 << 24:
            bits |= status >> 2 & 8
            bottom = self._register(_FUNCTION) & 2
            length = 0x8000 << bits
        elif maker == 0xC2 or maker == 0xEF and size > 1 << 24:
            bits |= status >> 2 & 8
        elif self._sst26():
            bits = 0
        elif self._at25df():
            bits &= 3
        why = "SPI NOR protection, status %02x" % status
        if maker in _STATUS_OF_THREE and self._shows(_STATUS2, 0x40):
            bits = 1
            why = "SPI NOR protection, CMP"
        # Whether other chips are unlocked now can't be seen.
        if self._hidden() and (self._sst26() or not self._unlocked):
            bits, length, bottom = 1, size, True
            why = "SPI NOR global protection"
        self.protection = why if bits else ""
        length = min(length, size) if bits else 0
        self.protected = (0, length) if bottom else (size - length, size)

    # MicroPython block device. writeblocks() with an offset only programs: bits go from 1 to 0.

    def readblocks(self, n, buf, offset=None):
        at = self._range(n, len(buf), offset)
        n = self._width + (self._read != _READ4_SLOW) + 1
        try:
            self._begin()
            self._send(self._read, at, n, b"", buf)
        finally:
            if self._mode4:
                self._end()

    def writeblocks(self, n, buf, offset=None):
        at = self._range(n, len(buf), offset)
        view = memoryview(buf)
        self._change(at, len(view), offset is None, view)

    # 1, 2 and 3 have nothing to do, 4 and 5 give the number and the size of the blocks, 6 erases
    # a block.
    def ioctl(self, op, arg):
        if op in (1, 2, 3):
            return 0
        if op == 4:
            return self.size // self._block
        if op == 5:
            return self._block
        if op == 6:
            self.erase_blocks(arg, 1)
            return 0

    def erase_blocks(self, first, count):
        """Erase the blocks [first, first + count) with the largest commands that fit."""
        length = count * self._block
        self._change(self._range(first, length, None), length, True, b"")

    def _range(self, n, length, offset):
        start = n * self._block + (offset or 0)
        if (
            n < 0
            or length < 0
            or (offset or 0) < 0
            or start + length > self.size
            or (offset is None and length % self._block)
        ):
            raise OSError(errno.EINVAL)
        return start

    def _change(self, at, length, erase, view):
        start, end = self.protected
        if at < end and at + length > start:
            raise OSError(_EROFS, self.protection)
        try:
            self._begin()
            if erase:
                self._erase(at, at + length)
            self._write(at, view)
        finally:
            self._end()

    def _erase(self, at, end):
        while at < end:
            for size, op, ms in self._erases:
                if not at % size and at + size <= end:
                    self.erases += size >> 12
                    self._modify(op, at, ms)
                    at += size
                    break

    # Pages that are blank in the buffer need no programming: it leaves their bits as they are.
    def _write(self, at, view):
        page = self._page
        end = len(view)
        i = 0
        while i < end:
            n = min(page - at % page, end - i)
            piece = view[i : i + n]
            if view[i] != 0xFF or not blank(piece):
                self.programs += 1
                self._modify(self._program, at, _PROGRAM_MS, piece)
            at += n
            i += n

    def _modify(self, op, at, ms, data=b""):
        self._send(_WRITE_ENABLE)
        self.status = self._register(_STATUS)
        if self.status & (_BUSY | _ENABLED) != _ENABLED:
            raise OSError(_EROFS, "SPI NOR takes no write enable")
        self._send(op, at, self._width + 1, data)
        self._wait(ms)
        if self._outcome:
            _, ask, failed, protected, clear = self._outcome
            self.status = status = self._register(ask)
            # All ones come from no chip.
            if status & failed and status != 0xFF:
                self._send(clear)
                if status & protected:
                    raise OSError(_EROFS, "SPI NOR sector protection")
                raise OSError(errno.EIO, "SPI NOR status %02x" % status)

    # An operation may run still after Ctrl-C or a timeout; the chip would not hear the command.
    def _begin(self):
        self._wait(_ERASE_MS)
        if self._mode4:
            self._send(_WRITE_ENABLE)
            self._send(_ENTER4)

    def _end(self):
        if self._mode4:
            self._leave4()
        self._send(_WRITE_DISABLE)

    # Some chips (Micron) want write enable before they change the mode, none minds it.
    def _leave4(self):
        self._send(_WRITE_ENABLE)
        self._send(_EXIT4)
        if self.jedec_id[0] == 0xEF and self.size > 1 << 24:
            # W25Q256FV goes on with the upper half otherwise.
            self._send(_WRITE_ENABLE)
            self._send(_HIGH_ADDRESS, 0, 2)


def _no_device(what, ident):
    return OSError(errno.ENODEV, "spinor: %s, id %02x%02x%02x" % ((what,) + tuple(ident[:3])))
