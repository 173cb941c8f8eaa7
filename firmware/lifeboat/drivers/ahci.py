"""SATA disks on AHCI controllers on PCI Express bus 0: polled, one command at a time, DMA straight
into and out of the caller's buffer.

    hba = AHCI()
    hba.start()                   # find the controllers, spin the disks up; does not wait
    for disk in hba.disks():      # waits up to 1 s for the links
        disk.ioctl(1, 0)          # waits for the disk, reads what it is

An AHCIDisk is a MicroPython block device (simple and extended interface). Errors are OSErrors:

    EINVAL     outside the disk, or a buffer of the wrong size; no register was touched
    EIO        the disk or the link reported an error, or a read ended early. `status` and `error`
               are its ATA registers, `serr` the SATA error register. The port works again
    ETIMEDOUT  no answer within the deadline. The port is stopped
    ENODEV     no disk, or the port is stopped, or the link went away and came back since ioctl(1):
               it might be another disk. ioctl(1, 0) looks again, with a COMRESET

After ETIMEDOUT do not reuse the buffer before ioctl(1, 0) has succeeded or for as long as the disk
may answer: a real controller is quiet once its port is stopped, an emulated one may not be.

Deadlines: 5 s for a command, 30 s for a flush, 10 s for a disk to become ready after a reset, 1 s
for a link to come up. The driver assumes 32-bit bus addresses that equal the processor's, and
memory that DMA sees as the processor does. Section numbers are those of AHCI 1.3.1 and ATA8-ACS.
"""

import errno
from array import array
from time import sleep_ms, ticks_diff, ticks_ms

from machine import mem32
from micropython import const
from uctypes import addressof, bytearray_at

from lifeboat.kernels import fence, poll32, wait32

# PCI configuration space.
_PCI_COMMAND = const(0x04)
_PCI_CLASS = const(0x08)
_PCI_HEADER = const(0x0C)
_PCI_BAR5 = const(0x24)
_CLASS_AHCI = const(0x010601)
_PCI_ENABLE = const(0x0406)  # memory space, bus master, no INTx
_BAR_STEP = const(0x10000)  # 32 ports end at 0x1100

# Generic host control, from BAR5 (section 3.1).
_GHC = const(0x04)
_PI = const(0x0C)
_PORTS = const(0x100)
_PORT_STEP = const(0x80)
_GHC_AE = const(0x80000000)

# Port registers (section 3.3).
_CLB = const(0x00)
_CLBU = const(0x04)
_FB = const(0x08)
_FBU = const(0x0C)
_IS = const(0x10)
_IE = const(0x14)
_CMD = const(0x18)
_TFD = const(0x20)
_SIG = const(0x24)
_SSTS = const(0x28)
_SCTL = const(0x2C)
_SERR = const(0x30)
_CI = const(0x38)

_CMD_ST = const(0x0001)
_CMD_SUD = const(0x0006)  # spin up, power on
_CMD_FRE = const(0x0010)
_CMD_FR = const(0x4000)
_CMD_CR = const(0x8000)
_IS_ERRORS = const(0x7D000000)  # TFES, HBFS, HBDS, IFS, INFS, OFS
_TFD_ERRORS = const(0x21)  # ERR, device fault
_TFD_BUSY = const(0x88)  # BSY, DRQ
_SERR_LINK = const(0x04010000)  # exchanged, PhyRdy changed
_DET = const(0x0F)
_DET_ABSENT = const(0)
_DET_PRESENT = const(1)  # seen, no communication yet
_DET_UP = const(3)
_DET_OFF = const(4)
_SCTL_RUN = const(0x300)  # no partial, no slumber
_SCTL_COMRESET = const(0x301)
_ALL = const(0xFFFFFFFF)
_SIG_ATA = const(0x00000101)
_SIG_NONE = const(0xFFFFFFFF)  # the first FIS has not come

# Deadlines in milliseconds.
_STOP_MS = const(500)  # CR and FR clear (10.1.2, 10.4.2)
_COMRESET_MS = const(2)  # DET=1 for at least 1 ms (10.4.2)
_ABSENT_MS = const(20)  # a device answers COMRESET within 10 ms (SATA 3, 8.4.1)
_LINK_MS = const(1000)  # from "seen" to "up", retries at lower speeds included
_READY_MS = const(10000)  # spin-up; ATA allows 31 s (ATA8-ACS 4.2), a boot can't wait for it
_COMMAND_MS = const(5000)  # one transfer, the disk's own retries included
_FLUSH_MS = const(30000)  # FLUSH CACHE may take longer than 30 s (ATA8-ACS 7.10)
_SPINS = const(500)  # how often to poll before looking at the clock
_SLICE_MS = const(1)  # how often a running command is looked at for errors

# ATA commands.
_IDENTIFY = const(0xEC)
_SMART_READ_DATA = const(0xD0B0)  # with the subcommand in the features byte
_SMART_LBA = const(0xC24F00)
_POWER_CYCLES = const(12)
_READ_DMA = const(0xC8)
_READ_DMA_EXT = const(0x25)
_WRITE_DMA = const(0xCA)
_WRITE_DMA_EXT = const(0x35)
_FLUSH_CACHE = const(0xE7)
_FLUSH_CACHE_EXT = const(0xEA)

_FIS_COMMAND = const(0x8027)  # register FIS, host to device, "command"
_LBA_MODE = const(0x40)

# One piece of memory for a port, in words: command list, received FIS, command table with its
# entries of up to 4 MB each. They are aligned to 1024, 256 and 128 bytes.
_FIS = const(256)
_TABLE = const(256 + 64)
_PRDT = const(256 + 64 + 32)
_ENTRIES = const(64)
_MEMORY = const(256 + 64 + 32 + 4 * 64)
_ENTRY = const(0x400000)


class AHCI:
    """Every AHCI controller on PCI Express bus 0.

    ecam: address of the configuration space. bar: where controllers without an address get one,
    64 KB each.
    """

    def __init__(self, ecam=0x30000000, bar=0x40000000):
        self._ecam = ecam
        self._bar = bar
        self._ports = []

    # Bring every implemented port of every controller to its idle state with the disk spinning up.
    # Returns at once when the ports were idle, as after a reset.
    def start(self):
        self._ports = []
        abars = self._controllers()
        for i, abar in enumerate(abars):
            mem32[abar + _GHC] = _GHC_AE
            implemented = mem32[abar + _PI]
            for n in range(32):
                if implemented >> n & 1:
                    name = f"sata{i}.{n}" if i else f"sata{n}"
                    self._ports.append(AHCIDisk(name, abar + _PORTS + n * _PORT_STEP))
        self._started = ticks_ms()

    # The ports with a SATA disk, as far as that can be said before the disk is ready: a disk that
    # is still spinning up counts.
    def disks(self):
        return [p for p in self._ports if p._linked(self._started) and p._is_disk()]

    def _controllers(self):
        abars = []
        for device in range(32):
            slot = self._ecam + (device << 15)
            header = mem32[slot + _PCI_HEADER] >> 16 & 0xFF  # all ones: no device
            functions = 8 if header & 0x80 and header != 0xFF else 1
            for function in range(functions):
                config = slot + (function << 12)
                if mem32[config + _PCI_CLASS] >> 8 & 0xFFFFFF == _CLASS_AHCI:
                    abars.append(self._enable(config, self._bar + len(abars) * _BAR_STEP))
        return abars

    # An address that a firmware has given stays. The status half of the command register is
    # cleared by ones, so it is written as zero.
    def _enable(self, config, bar):
        if not mem32[config + _PCI_BAR5] & 0xFFFFFFF0:
            mem32[config + _PCI_BAR5] = bar
        mem32[config + _PCI_COMMAND] = mem32[config + _PCI_COMMAND] & 0xFFFF | _PCI_ENABLE
        return mem32[config + _PCI_BAR5] & 0xFFFFFFF0


class AHCIDisk:
    """One SATA disk.

    name             "sata" and the port's number; "sata1.0" on a second controller
    model, serial    text, after ioctl(1, 0)
    status, error    ATA registers as the last failed command left them; serr: SATA error register
    reads, writes, flushes    commands so far, failed ones included
    """

    def __init__(self, name, port):
        self.name = name
        self.model = self.serial = ""
        self.status = self.error = self.serr = 0
        self.reads = self.writes = self.flushes = 0
        self._port = port
        self._is = port + _IS
        self._ci = port + _CI
        self._tfd = port + _TFD
        self._serr = port + _SERR
        self._ready = False
        self._memory = None
        # The buffer of a command that failed, kept from the garbage collector: stopping the port
        # ends all DMA, but QEMU's model still completes a late read into it.
        self._buf = None
        # Who used the port before, as before a soft reset, may have left a command in flight.
        used = mem32[port + _SCTL] | mem32[port + _CI]
        self._reset = not self._stop() or used != 0
        mem32[port + _IE] = 0
        mem32[port + _SCTL] = _SCTL_RUN
        mem32[port + _CMD] |= _CMD_SUD

    # MicroPython block device. Without offset, whole blocks; with it, any piece of the disk.

    def readblocks(self, n, buf, offset=None):
        self._transfer(False, n, buf, offset)

    def writeblocks(self, n, buf, offset=None):
        self._transfer(True, n, buf, offset)

    # 1 (re)initialises: nothing to do for a healthy disk. 2 stops the port. 3 flushes the disk's
    # write cache. 4 and 5 give the number and the size of the blocks. 6: disks need no erase.
    def ioctl(self, op, arg):
        if op == 1:
            if not (self._ready and self._same()):
                self._init()
            return 0
        if op == 2:
            self._halt()
            return 0
        if op == 3:
            self._check()
            self.flushes += 1
            command = _FLUSH_CACHE_EXT if self._flush_ext else _FLUSH_CACHE
            self._command(command, 0, 0, 0, 0, False, _FLUSH_MS)
            return 0
        if op == 4:
            self._check()
            return self._blocks
        if op == 5:
            self._check()
            return self._size
        if op == 6:
            return 0

    # The disk's own count of power cycles, 0 when it tells none: attribute 12 of SMART READ DATA
    # (ATA8-ACS, SMART feature set; the attributes' layout is that of SFF-8035i).
    def power_cycles(self):
        self._check()
        data = self._buf = bytearray(512)
        if self._smart:
            try:
                self._command(
                    _SMART_READ_DATA, _SMART_LBA, 0, addressof(data), 512, False, _COMMAND_MS
                )
            except OSError as error:
                if error.args[0] != errno.EIO:
                    raise
        self._buf = None
        for at in range(2, 362, 12):
            if data[at] == _POWER_CYCLES and not sum(data) & 0xFF:
                return int.from_bytes(data[at + 5 : at + 9], "little")
        return 0

    def _transfer(self, write, n, buf, offset):
        self._check()
        size = self._size
        left = len(buf)
        lba = n
        skip = 0
        if offset is not None:
            lba += offset // size
            skip = offset % size
        elif left % size:
            raise OSError(errno.EINVAL)
        if n < 0 or lba < n or lba + (skip + left + size - 1) // size > self._blocks:
            raise OSError(errno.EINVAL)
        at = addressof(buf)
        self._buf = buf
        while left:
            if skip or left < size or at & 1:
                count = 1
                part = min(size - skip, left)
                self._piece(write, lba, skip, at, part)
                skip = 0
            else:
                count = left // size
                if count > self._most:
                    count = self._most
                part = count * size
                self._sectors(write, lba, count, at)
            lba += count
            at += part
            left -= part
        self._buf = None

    # A part of a sector, or a sector at an address that DMA can't reach. (A slice of a memoryview
    # can't start beyond 16 MB; this can.)
    def _piece(self, write, lba, skip, at, n):
        piece = bytearray_at(at, n)
        bounce = self._bounce
        if not write or n < self._size:
            self._sectors(False, lba, 1, addressof(bounce))
        if write:
            bounce[skip : skip + n] = piece
            self._sectors(True, lba, 1, addressof(bounce))
        else:
            piece[:] = memoryview(bounce)[skip : skip + n]

    def _sectors(self, write, lba, count, at):
        if write:
            self.writes += 1
            command = _WRITE_DMA_EXT if self._lba48 else _WRITE_DMA
        else:
            self.reads += 1
            command = _READ_DMA_EXT if self._lba48 else _READ_DMA
        self._command(command, lba, count, at, count * self._size, write, _COMMAND_MS)

    def _check(self):
        if not self._ready:
            raise OSError(errno.ENODEV)

    # The link has been up without a break since the last COMRESET.
    def _same(self):
        return poll32(self._serr, _SERR_LINK, 0, 1)

    # Link and device.

    # Wait until the link is up; False when there is nothing at the other end. since: when the disk
    # was told to spin up, or the end of the COMRESET.
    def _linked(self, since):
        while True:
            late = ticks_diff(ticks_ms(), since)
            det = mem32[self._port + _SSTS] & _DET
            if det == _DET_UP:
                return True
            if det == _DET_OFF or det == _DET_ABSENT and late >= _ABSENT_MS or late >= _LINK_MS:
                return False
            sleep_ms(1)

    # The first FIS of a device, its signature, says what it is. Receiving needs memory, and that
    # software has taken note of a new device (PxSERR.DIAG.X, 5.3.5).
    def _is_disk(self):
        port = self._port
        if not self._memory:
            self._memory = array("I", bytes(4 * (_MEMORY + 255)))
            at = addressof(self._memory)
            self._list = (-at & 1023) // 4
            at += 4 * self._list
            self._memory[self._list + 2] = at + 4 * _TABLE
            mem32[port + _CLB] = at
            mem32[port + _CLBU] = 0
            mem32[port + _FB] = at + 4 * _FIS
            mem32[port + _FBU] = 0
        if not self._ready:
            mem32[port + _SERR] = _ALL
        mem32[port + _CMD] |= _CMD_FRE
        return mem32[port + _SIG] & _ALL in (_SIG_ATA, _SIG_NONE)

    # ST=0 ends all commands, then reception may end. True when the port came to rest.
    def _stop(self):
        port = self._port
        mem32[port + _CMD] &= ~_CMD_ST
        if not wait32(port + _CMD, _CMD_CR, 0, _STOP_MS):
            return False
        mem32[port + _CMD] &= ~_CMD_FRE
        return wait32(port + _CMD, _CMD_FR, 0, _STOP_MS)

    # Reset the link and the device behind it (10.4.2).
    def _comreset(self):
        port = self._port
        mem32[port + _SCTL] = _SCTL_COMRESET
        sleep_ms(_COMRESET_MS)
        mem32[port + _SCTL] = _SCTL_RUN

    # From a port at rest to a running one (10.3.1).
    def _run(self, reset):
        port = self._port
        if reset:
            self._comreset()
        if not (self._linked(ticks_ms()) and self._is_disk()):
            raise OSError(errno.ENODEV)
        if not wait32(port + _TFD, _TFD_BUSY, 0, _READY_MS):
            raise OSError(errno.ETIMEDOUT)
        if mem32[port + _SIG] & _ALL != _SIG_ATA:
            raise OSError(errno.ENODEV)
        mem32[port + _IS] = _ALL
        mem32[port + _CMD] |= _CMD_ST

    def _init(self):
        reset = self._reset or self._ready
        self._halt()
        try:
            self._run(reset)
            self._identify()
        except BaseException:
            self._halt()
            raise
        self._reset = False
        self._ready = True

    # Out of use until ioctl(1), which begins with a COMRESET.
    def _halt(self):
        self._ready = False
        self._reset = True
        self._stop()

    # Word numbers of ATA8-ACS 7.16.7. Words 83 and 106 are valid when their bits 15:14 are 01.
    def _identify(self):
        data = self._buf = bytearray(512)
        self._command(_IDENTIFY, 0, 0, addressof(data), 512, False, _COMMAND_MS)
        if data[510] == 0xA5 and sum(data) & 0xFF:
            raise OSError(errno.EIO)
        if _word(data, 0) & 0x8000:
            raise OSError(errno.ENODEV)
        commands = _word(data, 83) if _word(data, 83) >> 14 == 1 else 0
        self._lba48 = bool(commands & 0x0400)
        self._flush_ext = bool(commands & 0x2000)
        self._smart = _word(data, 87) >> 14 == 1 and _word(data, 85) & 1
        first, words = (100, 4) if self._lba48 else (60, 2)
        self._blocks = 0
        for i in range(words):
            self._blocks |= _word(data, first + i) << 16 * i
        self._size = 512
        if _word(data, 106) & 0xD000 == 0x5000:
            self._size = (_word(data, 117) | _word(data, 118) << 16) * 2
        if self._size not in (512, 1024, 2048, 4096) or not self._blocks:
            raise OSError(errno.ENODEV)
        self._most = min(65536 if self._lba48 else 256, _ENTRIES * _ENTRY // self._size)
        self._bounce = data if self._size == 512 else bytearray(self._size)
        self.serial = _text(data, 10, 20)
        self.model = _text(data, 27, 47)

    # Commands.

    def _command(self, command, lba, count, at, nbytes, write, ms):
        if self._ready and not self._same():
            self._halt()
            raise OSError(errno.ENODEV)
        self._fill(command, lba, count, at, nbytes, write)
        mem32[self._is] = _ALL
        fence()  # the controller reads the tables as soon as it is told to
        mem32[self._ci] = 1
        try:
            self._wait(ms)
        except BaseException:
            # Too late, or Ctrl-C: no DMA may outlive this call.
            self._note()
            self._halt()
            raise
        fence()
        # How much of a read came is said beside its status (4.2.2); a short one left old bytes in
        # the buffer. Writes may be miscounted by controllers that fetch ahead.
        whole = write or not nbytes or self._memory[self._list + 1] == nbytes
        if not (whole and self._intact() and poll32(self._tfd, _TFD_BUSY | _TFD_ERRORS, 0, 1)):
            self._note()
            self._recover()
            raise OSError(errno.EIO)

    # An error does not end a command: its bit in CI stays until the port is stopped.
    def _wait(self, ms):
        if poll32(self._ci, 1, 0, _SPINS):
            return
        start = ticks_ms()
        while not wait32(self._ci, 1, 0, _SLICE_MS) and self._intact():
            if ticks_diff(ticks_ms(), start) >= ms:
                raise OSError(errno.ETIMEDOUT)

    def _intact(self):
        return poll32(self._is, _IS_ERRORS, 0, 1)

    # Command header, command FIS and the list of memory pieces (4.2); words that are always the
    # same stay as they are.
    def _fill(self, command, lba, count, at, nbytes, write):
        memory = self._memory
        header = self._list
        table = header + _TABLE
        entry = header + _PRDT
        entries = 0
        while nbytes:
            part = nbytes if nbytes < _ENTRY else _ENTRY
            memory[entry] = at
            memory[entry + 3] = part - 1
            at += part
            nbytes -= part
            entry += 4
            entries += 1
        memory[header] = 5 | write << 6 | entries << 16
        memory[header + 1] = 0
        high = lba >> 24
        device = _LBA_MODE
        if command in (_READ_DMA, _WRITE_DMA):
            device |= high
            high = 0
            count &= 0xFF
        memory[table] = _FIS_COMMAND | command << 16
        memory[table + 1] = lba & 0xFFFFFF | device << 24
        memory[table + 2] = high
        memory[table + 3] = count & 0xFFFF

    def _note(self):
        tfd = mem32[self._port + _TFD]
        self.status = tfd & 0xFF
        self.error = tfd >> 8 & 0xFF
        self.serr = mem32[self._port + _SERR] & _ALL

    # Make the port work again after an error (6.2.2.1), with a COMRESET when the disk stays busy.
    # When the link was gone, or this was an attempt to initialise, the port stays stopped.
    def _recover(self):
        port = self._port
        was_ready = self._ready
        mem32[port + _CMD] &= ~_CMD_ST
        stopped = wait32(port + _CMD, _CMD_CR, 0, _STOP_MS)
        if stopped and self._same() and not mem32[port + _TFD] & _TFD_BUSY:
            mem32[port + _SERR] = _ALL
            mem32[port + _IS] = _ALL
            mem32[port + _CMD] |= _CMD_ST
            return
        same = self._same()
        self._halt()
        if was_ready and same:
            self._init()


def _word(data, i):
    return data[2 * i] | data[2 * i + 1] << 8


# ATA text: two characters a word, the first in the high byte.
def _text(data, first, end):
    text = ""
    for i in range(2 * first, 2 * end):
        c = data[i ^ 1]
        text += chr(c) if 32 <= c < 127 else " "
    return text.strip()
