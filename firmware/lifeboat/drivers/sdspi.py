"""SD cards in SPI mode on any machine.SPI: SDSC, SDHC and SDXC.

    card = SDCard(machine.SPI(1), machine.Pin(5))
    vfs.mount(card, "/sd")

It replaces micropython-lib's sdcard.SDCard: constructor, block device methods, init_spi,
init_card, `sectors` and `cdv` are as there. That one's own ways to talk to a card are not here.
An SDCard is a MicroPython block device (simple and extended interface, blocks of 512 bytes).
Errors are OSErrors:

    EINVAL     outside the card, or a buffer of the wrong size; nothing was sent
    EIO        the card reported an error, or data arrived damaged. Nothing is tried again here.
               `r1`, `token` and `status` keep what the card said. It can be used on. What the
               blocks of a failed write hold is not known; others did not change
    ETIMEDOUT  the card did not answer in time. It is out of use
    ENODEV     no card that this driver can use, or it is out of use, or it was reset behind our
               back. ioctl(1, 0) looks again and takes whatever card is there then

Where the card can't be identified, the second argument says in words what was missing.

Commands carry a CRC7 and data a CRC16, both ways, and the card is told to check them (CMD59). The
specification makes that command mandatory; a card that does not know it is used all the same, with
no checks on the wire, and `note` says so: whoever writes to it has to read back. A write is done
when the card has accepted every block, is not busy any more and CMD13 shows no error.

Section numbers are those of the SD Physical Layer Simplified Specification.
"""

import errno
from struct import pack_into
from time import sleep_ms, ticks_add, ticks_diff, ticks_ms

from micropython import const

from lifeboat.kernels import arch

_RV32IMC = const(11)

if arch == _RV32IMC:
    from lifeboat.drivers.sdspi_rv32 import sums
else:
    from lifeboat.drivers.sdspi_plain import sums

_BLOCK = const(512)

# Identification happens at 100 to 400 kHz (6.6); a port may round this either way.
_INIT_BAUDRATE = const(200000)

# Deadlines in ms. The specification's are what a card may take; real ones take longer, above all
# when a long write has used up their erased blocks.
_READY_MS = const(1500)  # ACMD41: the host shall wait more than 1 s (4.2.3)
_READ_MS = const(500)  # access time up to 100 ms (4.6.2.1)
_BUSY_MS = const(2000)  # write up to 250 ms, SDXC 500 ms (4.6.2.2)

# Bytes until an answer comes: up to 8 (N_CR, 7.5.4), and some for cards that count otherwise.
_ANSWER_BYTES = const(16)
# How often CMD0 is tried, and how often of these the card is first brought out of a transfer.
_RESETS = const(10)
_ABORTS = const(3)

# Commands (7.3.1.3).
_GO_IDLE_STATE = const(0)
_SEND_IF_COND = const(8)
_SEND_CSD = const(9)
_SEND_CID = const(10)
_STOP_TRANSMISSION = const(12)
_SEND_STATUS = const(13)
_SET_BLOCKLEN = const(16)
_READ_SINGLE_BLOCK = const(17)
_READ_MULTIPLE_BLOCK = const(18)
_WRITE_BLOCK = const(24)
_WRITE_MULTIPLE_BLOCK = const(25)
_SD_SEND_OP_COND = const(41)  # after CMD55
_APP_CMD = const(55)
_READ_OCR = const(58)
_CRC_ON_OFF = const(59)

# R1 (7.3.2.1). Bit 7 is always 0: a byte with it is no response.
_IDLE = const(0x01)
_ILLEGAL = const(0x04)
_CRC_ERROR = const(0x08)
_NONE = const(0xFF)

_CHECK = const(0x1AA)  # CMD8: 2.7 to 3.6 V and a pattern to be echoed (4.3.13)
_HCS = const(0x40000000)  # ACMD41: the host knows SDHC and SDXC
_CCS = const(0x40)  # OCR (5.1), first byte: block addresses

# Tokens (7.3.3).
_START = const(0xFE)
_ACCEPTED = const(0x05)  # data response, in the low five bits; 0x0B CRC error, 0x0D write error
_DATA_RESPONSE = const(0x1F)

_BATCH = const(64)  # packets that are read before their CRCs are looked at


# CRC7 (4.5) shifted left by one, as it stands in a command: polynomial 0x09. The CRC of two bytes
# XORed is their CRCs XORed.
def _crc7_table():
    table = bytearray(256)
    c = 0x12
    n = 1
    while n < 256:
        for i in range(n):
            table[n + i] = table[i] ^ c
        c = c << 1 ^ (0x112 if c & 0x80 else 0)
        n += n
    return table


_table7 = _crc7_table()


# The CRC7 of n bytes and the end bit, as one byte.
def _crc7(buf, n):
    crc = 0
    for i in range(n):
        crc = _table7[crc ^ buf[i]]
    return crc | 1


class SDCard:
    """The card at `spi` (mode 0, MSB first) with the chip select `cs`.

    baudrate    Hz for the bus once the card is identified, up to 25 MHz as the card and the wires
                allow. None leaves the bus as it is, also while the card is identified
    init        False: do nothing yet, until ioctl(1, 0) or init_card()
    name        what to call it

    sectors         blocks of 512 bytes
    cdv             what a block counts in the card's addresses: 512 (SDSC) or 1
    note            what the card lacks, in words: "no CRC (CMD59)"; "" for nothing
    model, serial   product name and serial number as text, "" when the card does not tell
    r1              the card's last response; 0xFF when there was none
    token           of the last data block that failed: 0xFE when its CRC was wrong, else the data
                    error token or data response
    status          error bits of R2 (CMD13) in the last transfer
    reads, writes, flushes    transfers so far, failed ones included
    """

    def __init__(self, spi, cs, baudrate=1320000, *, init=True, name="sd0"):
        self.spi = spi
        self.cs = cs
        self.name = name
        self.model = self.serial = self.note = ""
        self.sectors = self.cdv = self.r1 = self.token = self.status = 0
        self.reads = self.writes = self.flushes = 0
        self._baudrate = baudrate
        self._ready = False
        self._frame = bytearray(6)
        self._byte = bytearray(1)
        self._tail = bytearray(4)
        self._told = memoryview(bytearray(2 * _BATCH + 1))
        self._crcs = memoryview(bytearray(2 * _BATCH))
        if hasattr(spi, "packets"):  # a bus that does both at once
            self._packets = spi.packets
            self._put = spi.put
        self._bounce = bytearray(_BLOCK)
        if init:
            self.init_card()

    def init_spi(self, baudrate):
        """Set the bus up; what this does not name stays as the caller has set it."""
        if hasattr(self.spi, "MASTER"):  # pyb.SPI
            self.spi.init(self.spi.MASTER, baudrate=baudrate, phase=0, polarity=0)
        else:
            self.spi.init(baudrate=baudrate, phase=0, polarity=0)

    def init_card(self, baudrate=None):
        """Identify the card that is there now; a baudrate replaces the constructor's."""
        self._ready = False
        self.sectors = 0
        self._baudrate = baudrate or self._baudrate
        self.cs.init(self.cs.OUT, value=1)
        if self._baudrate:
            self.init_spi(_INIT_BAUDRATE)
        try:
            self._identify()
        finally:
            if self._baudrate:
                self.init_spi(self._baudrate)
        self._ready = True

    # MicroPython block device. Without offset, whole blocks; with it, any piece of the card.

    def readblocks(self, block_num, buf, offset=None):
        self._split(False, block_num, buf, offset)

    def writeblocks(self, block_num, buf, offset=None):
        self._split(True, block_num, buf, offset)

    # 1 (re)initialises: a question for a card that is in use and still there. 2 ends its use. 3
    # waits until the card has stored everything. 4 and 5 give the number and the size of the
    # blocks. 6: cards need no erase.
    def ioctl(self, op, arg):
        if op == 1:
            if not (self._ready and self._same()):
                self.init_card()
            return 0
        if op == 2:
            self._ready = False
            return 0
        if op == 3:
            self._check()
            self.flushes += 1
            self._transfer(self._settle)
            return 0
        if op in (4, 5):
            self._check()
            return self.sectors if op == 4 else _BLOCK
        if op == 6:
            return 0

    def _check(self):
        if not self._ready:
            raise OSError(errno.ENODEV)

    # A card that lost power since, or another one, does not answer in SPI mode.
    def _same(self):
        try:
            self._do(self._ask_status)
        except OSError:
            return False
        return True

    def _split(self, write, lba, buf, offset):
        self._check()
        view = memoryview(buf)
        end = len(view)
        first = lba * _BLOCK + (offset or 0)
        if (
            lba < 0
            or (offset or 0) < 0
            or first + end > self.sectors * _BLOCK
            or (offset is None and end % _BLOCK)
        ):
            raise OSError(errno.EINVAL)
        lba = first // _BLOCK
        skip = first % _BLOCK
        at = 0
        while at < end:
            if skip or end - at < _BLOCK:
                part = min(_BLOCK - skip, end - at)
                self._piece(write, lba, skip, view[at : at + part])
                skip = 0
                lba += 1
            else:
                part = (end - at) // _BLOCK * _BLOCK
                self._blocks(write, lba, view[at : at + part])
                lba += part // _BLOCK
            at += part

    # A part of a block.
    def _piece(self, write, lba, skip, piece):
        bounce = memoryview(self._bounce)
        part = bounce[skip : skip + len(piece)]
        self._blocks(False, lba, bounce)
        if write:
            part[:] = piece
            self._blocks(True, lba, bounce)
        else:
            piece[:] = part

    def _blocks(self, write, lba, view):
        self._transfer(self._write if write else self._read, lba, view)

    # The card is out of use until it has shown that it knows where we are; also when Ctrl-C comes
    # between. Asking for the status clears the error bits of this transfer.
    def _transfer(self, work, *args):
        self._ready = False
        self.status = 0
        try:
            self._do(work, *args)
        except OSError as e:
            if e.args[0] == errno.EIO:
                r1 = self.r1
                self._do(self._ask_status)
                self.r1 = r1
                self._ready = True
            raise
        self._ready = True

    # One transaction. The card lets go of the line with the clocks that follow its release.
    def _do(self, work, *args):
        self.cs(0)
        try:
            return work(*args)
        finally:
            self.cs(1)
            self.spi.write(b"\xff")

    # What follows happens while the card is selected.

    # Send a command; returns R1, or 0xFF when there was no response. The byte after CMD12 belongs
    # to the data that it interrupts (7.2.3). The others wait until the card is not busy; CMD0 is
    # _reset()'s.
    def _command(self, command, arg):
        frame = self._frame
        byte = self._byte
        pack_into(">BI", frame, 0, 0x40 | command, arg)
        frame[5] = _crc7(frame, 5)
        if command not in (_STOP_TRANSMISSION, _GO_IDLE_STATE):
            self._wait(True, _BUSY_MS)
        self.spi.write(frame)
        if command == _STOP_TRANSMISSION:
            self.spi.readinto(byte, 0xFF)
        self.r1 = self._answer(0x7F)
        return self.r1

    # The first byte up to `most`, or 0xFF.
    def _answer(self, most):
        byte = self._byte
        for _ in range(_ANSWER_BYTES):
            self.spi.readinto(byte, 0xFF)
            if byte[0] <= most:
                return byte[0]
        return _NONE

    # A command whose R1 has to be `want`.
    def _ask(self, command, arg, want=0):
        self._judge(self._command(command, arg), want)

    def _judge(self, r1, want):
        if r1 != want:
            code = errno.EIO
            if r1 == _NONE:
                code = errno.ETIMEDOUT
            elif r1 & _IDLE > want:
                code = errno.ENODEV  # the card was reset
            raise OSError(code, "CMD%d: %02x" % (self._frame[0] & 63, r1))

    # The second byte of R2 (7.3.2.3).
    def _ask_status(self):
        self._ask(_SEND_STATUS, 0)
        self.spi.readinto(self._byte, 0xFF)
        self.status |= self._byte[0]

    # CSD or CID. Not every card has a right CRC16 here; the registers hold a CRC7 of their own.
    def _ask_register(self, command):
        self._ask(command, 0)
        if self._wait(False, _READ_MS) != _START:
            raise OSError(errno.EIO)
        data = self.spi.read(18, 0xFF)
        if _crc7(data, 15) != data[15]:
            raise OSError(errno.EIO)
        return data

    # Read bytes while they are 0xFF, or while the card is busy: while they are not. Returns the
    # last one.
    def _wait(self, busy, ms):
        byte = self._byte
        end = late = None
        while True:
            self.spi.readinto(byte, 0xFF)
            if (byte[0] != 0xFF) is not busy:
                return byte[0]
            if late:
                raise OSError(errno.ETIMEDOUT)
            # The byte after the deadline counts: we may have been stopped ourselves.
            if end is None:
                end = ticks_add(ticks_ms(), ms)
            late = ticks_diff(end, ticks_ms()) <= 0

    # Whole blocks (7.2.3).
    def _read(self, lba, view):
        self.reads += 1
        many = len(view) > _BLOCK
        self._ask(_READ_MULTIPLE_BLOCK if many else _READ_SINGLE_BLOCK, lba * self.cdv)
        try:
            self._receive(view)
        finally:
            if many:
                self._stop()
        # A card reads ahead and may take the end for an error: to be ignored (4.3.3), and to be
        # forgotten before a write asks for errors.
        if many and lba + len(view) // _BLOCK == self.sectors:
            self._ask_status()
            self.status = 0

    def _receive(self, view):
        self._tail[2] = self._tail[3] = 0xFF
        told, crcs = self._told, self._crcs
        end = late = None
        while len(view):
            part = view[: _BATCH * _BLOCK]
            n = self._packets(part, _BLOCK, _START, told)
            view = view[n * _BLOCK :]
            if n:
                end = late = None
                sums(part[: n * _BLOCK], _BLOCK, crcs)
                if not self.note and crcs[: 2 * n] != told[: 2 * n]:
                    self.token = _START
                    raise OSError(errno.EIO)
            if n * _BLOCK == len(part):
                continue
            if told[2 * n] != 0xFF:
                self.token = told[2 * n]
                raise OSError(errno.EIO)
            if late:
                raise OSError(errno.ETIMEDOUT)
            # What comes after the deadline counts: we may have been stopped ourselves.
            if end is None:
                end = ticks_add(ticks_ms(), _READ_MS)
            late = ticks_diff(end, ticks_ms()) <= 0

    # What a bus without packets() does. The two bytes after a CRC are read along with it. At best
    # they are the gap of one byte (N_AC, 7.5.4) and the next token; without a gap, token and first
    # byte.
    def _packets(self, buf, size, token, told):
        readinto = self.spi.readinto
        tail = self._tail
        n = 0
        for at in range(0, len(buf), size):
            block = buf[at : at + size]
            rest = block
            found = tail[2]
            if found != 0xFF:
                block[0] = tail[3]
                rest = block[1:]
            else:
                found = tail[3]
                if found == 0xFF:
                    readinto(self._byte, 0xFF)
                    found = self._byte[0]
            if found != token:
                tail[3] = 0xFF
                told[2 * n] = found
                break
            readinto(rest, 0xFF)
            readinto(tail, 0xFF)
            told[2 * n] = tail[0]
            told[2 * n + 1] = tail[1]
            n += 1
        return n

    # What a bus without put() does.
    def _put(self, head, data, tail):
        write = self.spi.write
        write(head)
        write(data)
        write(tail)
        return self._answer(0xFE)

    # R1 may complain about the end, too. A card that did not understand goes on sending.
    def _stop(self):
        if self._command(_STOP_TRANSMISSION, 0) & (0x80 | _CRC_ERROR):
            raise OSError(errno.ETIMEDOUT)
        self._wait(True, _BUSY_MS)

    # Whole blocks (7.2.4).
    def _write(self, lba, view):
        self.writes += 1
        byte, crcs = self._byte, self._crcs
        many = len(view) > _BLOCK
        start = b"\xff\xfc" if many else b"\xff\xfe"
        self._ask(_WRITE_MULTIPLE_BLOCK if many else _WRITE_BLOCK, lba * self.cdv)
        for at in range(0, len(view), _BLOCK):
            i = at // (_BLOCK // 2) % (2 * _BATCH)
            if not i:
                sums(view[at : at + _BATCH * _BLOCK], _BLOCK, crcs)
            token = self._put(start, view[at : at + _BLOCK], crcs[i : i + 2])
            if token & _DATA_RESPONSE != _ACCEPTED:
                self.token = token
                if token == _NONE:
                    raise OSError(errno.ETIMEDOUT)
                self._wait(True, _BUSY_MS)
                if many:
                    self._stop()
                raise OSError(errno.EIO)
            self.spi.readinto(byte, 0xFF)
            if byte[0] != 0xFF:
                self._wait(True, _BUSY_MS)
        if many:
            # The stop token, and a byte until the card shows that it is busy.
            self.spi.write(b"\xfd\xff")
            self._wait(True, _BUSY_MS)
        self._settle()

    # What was written is stored when the card is not busy; the status tells errors after that.
    def _settle(self):
        self._ask_status()
        if self.status:
            raise OSError(errno.EIO)

    # Identification (7.2.1).

    def _identify(self):
        self._reset()
        # Cards older than version 2 do not know CMD8, and have standard capacity.
        version2 = self._do(self._ask_version)
        r1 = self._do(self._command, _CRC_ON_OFF, 1)
        self.note = "no CRC (CMD59)" if r1 == _IDLE | _ILLEGAL else ""
        if not self.note:
            self._judge(r1, _IDLE)
        end = ticks_add(ticks_ms(), _READY_MS)
        while True:
            late = ticks_diff(end, ticks_ms()) <= 0
            r1 = self._do(self._command, _APP_CMD, 0)
            if r1 <= _IDLE:
                r1 = self._do(self._command, _SD_SEND_OP_COND, _HCS if version2 else 0)
            if not r1:
                break
            if r1 != _IDLE:
                raise OSError(errno.ENODEV, "no SD card, or an MMC (ACMD41)")
            if late:
                raise OSError(errno.ETIMEDOUT, "not ready (ACMD41)")
            sleep_ms(1)
        high = version2 and self._do(self._ask_capacity)
        if not high:
            self._do(self._ask, _SET_BLOCKLEN, _BLOCK)
        self.cdv = 1 if high else _BLOCK
        csd = self._do(self._ask_register, _SEND_CSD)
        if csd[0] >> 6 != (1 if high else 0):
            # Version 3 is SDUC, which has no SPI mode (7.1).
            raise OSError(errno.ENODEV, "CSD version %d" % (csd[0] >> 6))
        if high:
            self.sectors = ((csd[7] & 0x3F) << 16 | csd[8] << 8 | csd[9]) + 1 << 10
        else:
            size = ((csd[6] & 3) << 10 | csd[7] << 2 | csd[8] >> 6) + 1
            power = ((csd[9] & 3) << 1 | csd[10] >> 7) + 2 + (csd[5] & 15)
            self.sectors = size << power >> 9
        self._name_card()

    # A card that is not in SPI mode yet may hold the line low, as one does that is busy (6.4.1.1).
    # CMD0 ends a write half way (4.3.1): it comes only after the time that any write takes.
    def _reset(self):
        low = False
        for i in range(_RESETS):
            self.spi.write(b"\xff" * 16)  # 74 clocks or more with the chip select high (6.4.1.1)
            try:
                if not low:
                    self._do(self._wait, True, _BUSY_MS)
            except OSError:
                low = True
            if self._do(self._command, _GO_IDLE_STATE, 0) == _IDLE:
                return
            if i >= _ABORTS:
                sleep_ms(5)
            elif not low:
                self._do(self._abort)
        if low:
            raise OSError(errno.ETIMEDOUT, "data line stays low")
        raise OSError(errno.ENODEV, "no card (CMD0)")

    # The card may be where a host left it that was reset: waiting for a block to write or the rest
    # of it, or sending blocks.
    def _abort(self):
        self.spi.write(b"\xfd")
        self.spi.write(b"\xff" * 520)
        self._command(_STOP_TRANSMISSION, 0)

    # Whether the card knows CMD8, which also has to accept the voltage (4.3.13). Older ones call
    # it illegal, and some say nothing.
    def _ask_version(self):
        r1 = self._command(_SEND_IF_COND, _CHECK)
        if r1 in (_IDLE | _ILLEGAL, _NONE):
            return False
        self._judge(r1, _IDLE)
        if int.from_bytes(self.spi.read(4, 0xFF), "big") & 0xFFF != _CHECK:
            raise OSError(errno.ENODEV, "voltage refused (CMD8)")
        return True

    # Whether the card counts its addresses in blocks (5.1): high or extended capacity. QEMU's says
    # that it is idle still.
    def _ask_capacity(self):
        r1 = self._command(_READ_OCR, 0)
        self._judge(0 if r1 == _IDLE else r1, 0)
        return self.spi.read(4, 0xFF)[0] & _CCS

    # CID (5.2). Nothing depends on it.
    def _name_card(self):
        try:
            cid = self._do(self._ask_register, _SEND_CID)
            text = ""
            for c in cid[3:8]:
                if 32 <= c < 127:
                    text += chr(c)
            self.model = text.strip()
            self.serial = "%08x" % int.from_bytes(cid[9:13], "big")
        except OSError:
            self.model = self.serial = ""
