"""Parallel NOR flash with a Common Flash Interface: two x16 chips side by side on a 32-bit bus,
Intel command sets 0001 (extended) and 0003 (basic).

Size, erase blocks, write buffer and time limits are what the chips say of themselves (JESD68.01,
JEP137); the word numbers below are those of the query. A CFIFlash is a MicroPython block device
whose block is the erase block of both chips together. Errors are OSErrors:

    EINVAL     outside the flash, or a buffer of the wrong size; the flash was not touched
    EIO        erase or program failed
    EROFS      the block is locked, or the programming voltage is missing; the text says which
    ETIMEDOUT  the chips stayed busy longer than they say they may
    ENODEV     (constructor) no chips here, or only on a part of the bus
    EOPNOTSUPP (constructor) chips that this driver can not handle; the text says why: x8 chips,
               erase blocks of several sizes (top or bottom boot), another command set

`status` keeps the status register of the last failed operation, the bits of both chips together.
Every call leaves the flash readable as memory, also when it fails. Buffers to write from must not
lie in this flash, and neither may code that calls this.
"""

import errno

from machine import mem32
from micropython import const
from uctypes import bytearray_at

from lifeboat.kernels import blank, poll32
from lifeboat.mmio import copy32, wait32

# Commands, doubled for two chips.
_READ_ARRAY = const(0x00FF00FF)
_READ_STATUS = const(0x00700070)
_CLEAR_STATUS = const(0x00500050)
_QUERY = const(0x00980098)
_ERASE = const(0x00200020)
_PROGRAM = const(0x00400040)
_PROGRAM_BUFFER = const(0x00E800E8)
_LOCK_SETUP = const(0x00600060)
_CONFIRM = const(0x00D000D0)

_READY = const(0x00800080)
_FAILED = const(0x3A)  # erase, program, voltage, lock
_OUTCOME = const(0x00BA00BA)  # ready and failed, of both chips
_PROTECTED = const(0x0A)  # voltage, lock
_NO_VOLTAGE = const(0x08)
_ALL = const(0xFFFFFFFF)

# Where the query command goes and what it makes readable, in words of 32 bits.
_QUERY_AT = const(0x55)
_QRY = const(0x10)
_COMMAND_SET = const(0x13)
_EXTENDED = const(0x15)
_TYPICAL = const(0x1F)  # word, buffer (2^n us), block (2^n ms), chip; then 2^n times that at most
_MAXIMUM = const(0x23)
_SIZE = const(0x27)
_WIDTH = const(0x28)  # 0: x8 only
_BUFFER = const(0x2A)
_REGIONS = const(0x2C)
_REGION = const(0x2D)
_QUERY_END = const(0x60)
_FEATURES = const(5)  # from the extended table's start
_BLOCK_LOCKING = const(0x20)

# Time limits in milliseconds are kept within these. Short limits are for a machine that may be
# stopped at any time (an emulator's); the long ones for chips that say nothing reasonable.
_PROGRAM_MS = (100, 1000)
_ERASE_MS = (1000, 30000)
_SPINS = const(1000)

_EROFS = const(30)  # MicroPython's errno module does not have it


class CFIFlash:
    """Two interleaved CFI chips at address `base`.

    name        "cfi"
    program_size  1: any byte can be programmed, and again, by itself
    erases      blocks erased so far
    programs    write buffers programmed so far (words, in chips without buffers)
    status      status register of the last failed operation
    """

    name = "cfi"
    program_size = 1

    def __init__(self, base):
        self._base = base
        self.erases = self.programs = self.status = 0
        self._late = False  # chips were still busy when last waited for
        query = bytearray(_QUERY_END)
        odd = 0  # bits that are not as two such chips answer
        mem32[base + 4 * _QUERY_AT] = _QUERY
        try:
            for i in range(_QRY, _QUERY_END):
                word = mem32[base + 4 * i]
                query[i] = word & 0xFF
                if i < _QRY + 3:
                    odd |= word ^ b"QRY"[i - _QRY] * 0x10001
        finally:
            mem32[base] = _READ_ARRAY
        if not odd & 0xFF00FF and (odd & _ALL or not query[_WIDTH]):
            # The bytes between answer to no command.
            raise OSError(errno.EOPNOTSUPP, "cfi: x8 chips")
        if odd & _ALL:
            half = not odd & 0xFFFF or not odd & 0xFFFF0000
            raise OSError(
                errno.ENODEV, "cfi: chip on half of the bus" if half else "cfi: no chips"
            )
        self._geometry(query)

    # Sizes are those of one chip; blocks and buffers of both together are twice as large.
    def _geometry(self, query):
        commands = _u16(query, _COMMAND_SET)
        if commands not in (1, 3):
            raise OSError(errno.EOPNOTSUPP, f"cfi: command set {commands}")
        if query[_REGIONS] != 1:
            top = _u16(query, _REGION + 2) > _u16(query, _REGION + 6)
            boot = "top" if top else "bottom"
            raise OSError(errno.EOPNOTSUPP, f"cfi: erase regions differ, {boot} boot")
        self._blocks = _u16(query, _REGION) + 1
        self._size = (_u16(query, _REGION + 2) * 256 or 128) * 2
        if self._blocks * self._size != 2 << query[_SIZE]:
            raise OSError(errno.EOPNOTSUPP, "cfi: blocks do not fill the chip")
        power = _u16(query, _BUFFER)
        self._buffered = power > 1
        self._chunk = min(2 << power, self._size) if power > 1 else 4
        i = 1 if self._buffered else 0
        self._program_ms = _limit(query, i, 1000, _PROGRAM_MS)
        self._erase_ms = _limit(query, 2, 1, _ERASE_MS)
        # Chips that lock every block at power-up want it unlocked by name.
        extended = _u16(query, _EXTENDED) + _FEATURES
        self._unlock = extended < _QUERY_END and query[extended] & _BLOCK_LOCKING

    # Bytes of the flash, mapped into memory; valid while no call to this driver is running. Made
    # for each range anew: a slice of a memoryview can't start beyond 16 MB.
    def view(self, offset, length):
        if offset < 0 or length < 0 or offset + length > self._blocks * self._size:
            raise OSError(errno.EINVAL)
        return memoryview(bytearray_at(self._base + offset, length))

    # MicroPython block device. writeblocks() with an offset only programs: bits go from 1 to 0.

    def readblocks(self, n, buf, offset=None):
        start = self._range(n, buf, offset)
        view = memoryview(buf)
        view[:] = self.view(start, len(view))

    def writeblocks(self, n, buf, offset=None):
        at = self._range(n, buf, offset)
        view = memoryview(buf)
        end = at + len(view)
        done = 0
        while at < end:
            part = min(end - at, self._size - at % self._size)
            if at & 3 or part < 4:
                # A piece of a word: its other bytes stay what they are.
                skip = at & 3
                part = min(part, 4 - skip)
                word = bytearray(self.view(at - skip, 4))
                word[skip : skip + part] = view[done : done + part]
                self._write(at - skip, memoryview(word), False)
            else:
                part &= ~3
                self._write(at, view[done : done + part], offset is None)
            at += part
            done += part

    # 1, 2 and 3 have nothing to do, 4 and 5 give the number and the size of the blocks, 6 erases
    # a block.
    def ioctl(self, op, arg):
        if op in (1, 2, 3):
            return 0
        if op == 4:
            return self._blocks
        if op == 5:
            return self._size
        if op == 6:
            if not 0 <= arg < self._blocks:
                raise OSError(errno.EINVAL)
            self._write(arg * self._size, b"", True)
            return 0

    def _range(self, n, buf, offset):
        size = self._size
        start = n * size + (offset or 0)
        if (
            n < 0
            or (offset or 0) < 0
            or start + len(buf) > self._blocks * size
            or (offset is None and len(buf) % size)
        ):
            raise OSError(errno.EINVAL)
        return start

    # Erase the block that starts there, or not, and program whole words where they are not blank.
    def _write(self, start, words, erase):
        at = self._base + start
        idle = self.programs
        mem32[at] = _CLEAR_STATUS
        try:
            if self._late:
                # While one chip is busy still, the other would take half of a command.
                mem32[at] = _READ_STATUS
                self._finish(at, self._program_ms)
            if self._unlock:
                mem32[at] = _LOCK_SETUP
                mem32[at] = _CONFIRM
                self._finish(at, self._program_ms)
            if erase:
                self.erases += 1
                mem32[at] = _ERASE
                mem32[at] = _CONFIRM
                self._finish(at, self._erase_ms)
            self._program(start, words)
        finally:
            # After Ctrl-C the chips may be busy still, and it may come again. Where all was blank
            # nothing was begun, and QEMU, which clears "ready" too when told to clear errors,
            # would never be ready.
            try:
                if erase or self._unlock or self.programs != idle:
                    mem32[at] = _READ_STATUS
                    wait32(at, _READY, _READY, self._erase_ms)
                    mem32[at] = _CLEAR_STATUS
            finally:
                mem32[at] = _READ_ARRAY

    # Fill one write buffer after the other. All commands are addressed inside the buffer: chips
    # allow the whole block, QEMU does not.
    def _program(self, start, words):
        reg = mem32
        chunk = self._chunk
        buffered = self._buffered
        end = len(words)
        at = self._base + start
        n = chunk - start % chunk
        i = 0
        while i < end:
            if n > end - i:
                n = end - i
            if words[i] != 0xFF or not blank(words[i : i + n]):
                self.programs += 1
                ready = True
                if buffered:
                    reg[at] = _PROGRAM_BUFFER
                    # No jump up to the confirmation: the interpreter looks for Ctrl-C at jumps,
                    # and chips left waiting for data would take the next commands for it.
                    ready = poll32(at, _READY, _READY, _SPINS)
                    reg[at] = (_READ_STATUS, (n // 4 - 1) * 0x10001)[ready]
                    copy32(at, words, i, n * ready)
                    reg[at] = (_READ_STATUS, _CONFIRM)[ready]
                else:
                    reg[at] = _PROGRAM
                    copy32(at, words, i, n)
                if not poll32(at, _OUTCOME, _READY, _SPINS):
                    self._finish(at, self._program_ms)
                if not ready:
                    raise OSError(errno.ETIMEDOUT)
            at += n
            i += n
            n = chunk

    # Wait until both chips are ready and look at what they say. Asked for once more, because QEMU
    # goes back to showing its content when it refuses to program.
    def _finish(self, at, ms):
        wait32(at, _READY, _READY, ms)
        mem32[at] = _READ_STATUS
        status = mem32[at]
        ready = status & _READY == _READY
        self._late = not ready
        status |= status >> 16
        if ready and not status & _FAILED:
            return
        self.status = status & 0xFF
        if not ready:
            raise OSError(errno.ETIMEDOUT)
        if status & _PROTECTED:
            why = "cfi: no programming voltage" if status & _NO_VOLTAGE else "cfi: block locked"
            raise OSError(_EROFS, why)
        raise OSError(errno.EIO, "cfi: status %02x" % self.status)


def _u16(query, i):
    return query[i] | query[i + 1] << 8


# The longest time in ms that operation i may take; `unit` of its time make a millisecond.
def _limit(query, i, unit, bounds):
    shortest, longest = bounds
    if not query[_TYPICAL + i]:
        return longest
    ms = (1 << query[_TYPICAL + i] + query[_MAXIMUM + i]) // unit
    return min(max(ms, shortest), longest)
