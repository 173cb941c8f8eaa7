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
    EOPNOTSUPP (ioctl(1)) a disk that can't be used as it is
    ENODEV     no disk, or the port is stopped, or the link went away and came back since ioctl(1):
               it might be another disk. ioctl(1, 0) looks again, with a COMRESET. For good, and
               without a look at a register, once this or another AHCI started the port again or
               deinit() was called: disks() has the objects to use from then on

After ETIMEDOUT do not reuse the buffer before ioctl(1, 0) has succeeded or for as long as the disk
may answer: a real controller is quiet once its port is stopped, an emulated one may not be.

What ioctl(1) refuses it names, as the error's second argument: a port multiplier, an ATAPI device,
a disk that is locked by ATA security, that stays busy after its reset, that does not spin up. A
disk that waits for the command to spin up (power-up in standby) gets it.

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

from lifeboat.kernels import arch, poll32
from lifeboat.mmio import wait32

_RV32IMC = const(11)

if arch == _RV32IMC:
    from lifeboat.drivers.ahci_rv32 import begin, ended
else:
    from lifeboat.drivers.ahci_plain import begin, ended

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
# What else may be at the end of a link (SATA 3.0, 11.3; Port Multiplier 1.2).
_OTHERS = {0xEB140101: "ATAPI device", 0x96690101: "SATA port multiplier"}

# Deadlines in milliseconds.
_STOP_MS = const(500)  # CR and FR clear (10.1.2, 10.4.2)
_COMRESET_MS = const(2)  # DET=1 for at least 1 ms (10.4.2)
_ABSENT_MS = const(20)  # a device answers COMRESET within 10 ms (SATA 3, 8.4.1)
_LINK_MS = const(1000)  # from "seen" to "up", retries at lower speeds included
_READY_MS = const(10000)  # spin-up; ATA allows 31 s (ATA8-ACS 4.2), a boot can't wait for it
_COMMAND_MS = const(5000)  # one transfer, the disk's own retries included
_FLUSH_MS = const(30000)  # FLUSH CACHE may take longer than 30 s (ATA8-ACS 7.10)

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
_SPIN_UP = const(0x07EF)  # SET FEATURES, subcommand 07h
# Of a disk in standby since power-up (7.16.7.2, 7.16.7.4): IDENTIFY word 2 says that it waits for
# that command, word 0 that all else is there when it spins.
_WAITS = (0x37C8, 0x738C)
_INCOMPLETE = const(4)
_STANDBY = const("disk does not leave standby of power-up")
_LOCKED = const(5)  # in word 128: there is security, and it is locked

# What begin() and ended() say (see ahci_plain).
_RUNNING = const(1)
_GONE = const(4)
_ODD = const(8)

_READ = const(5)  # the FIS has five words
_WRITE = const(0x45)
_FIS_COMMAND = const(0x8027)  # register FIS, host to device, "command"

# One piece of memory for a port, in words: command list, received FIS, command table with its
# entries of up to 4 MB each. They are aligned to 1024, 256 and 128 bytes.
_FIS = const(256)
_TABLE = const(256 + 64)
_PRDT = const(256 + 64 + 32)
_ENTRIES = const(64)
_MEMORY = const(256 + 64 + 32 + 4 * 64)
_ENTRY = const(0x400000)

# Behind it lies the buffer for what DMA can't move straight to where it belongs.
_BOUNCE = const(4096)  # the largest sector
_ROOM = const(7 * 256)  # words for a port: all of this, aligned

# Address of a port -> the AHCIDisk whose port it is.
_owners = {}


class AHCI:
    """Every AHCI controller on PCI Express bus 0.

    ecam: address of the configuration space. bar: where controllers without an address get one,
    64 KB each. stagger: ms between the spin-ups of two disks, where the supply can't start all
    at once: then disks() begins them, and waits; 0: start() begins all. Controllers without
    staggered spin-up begin by themselves. memory: a memoryview of 32-bit words for what the
    controllers read and write by themselves, aligned to 1024 bytes; 7 KB for each port. It should
    be memory that a soft reset neither clears nor uses for something else. The ports for which it
    is too small, or all when there is none, use the heap: then call deinit() before the heap is
    used anew.
    """

    def __init__(self, ecam=0x30000000, bar=0x40000000, memory=(), stagger=0):
        self._ecam = ecam
        self._stagger = stagger
        self._bar = bar
        self._memory = memory
        self._ports = []

    # Bring every implemented port of every controller to its idle state with the disk spinning up.
    # Returns at once when the ports were idle, as after a reset.
    def start(self):
        self._leave()
        abars = self._controllers()
        for i, abar in enumerate(abars):
            mem32[abar + _GHC] = _GHC_AE
            implemented = mem32[abar + _PI]
            for n in range(32):
                if implemented >> n & 1:
                    name = f"sata{i}.{n}" if i else f"sata{n}"
                    # The same port gets the same memory every time: should it not have come to
                    # rest, it harms no other.
                    at = len(self._ports) * _ROOM
                    room = self._memory[at : at + _ROOM]
                    disk = AHCIDisk(name, abar + _PORTS + n * _PORT_STEP, room)
                    self._ports.append(disk)
                    if not self._stagger:
                        disk._spin_up()
        self._started = ticks_ms()

    # Stop all ports: there is no DMA afterwards, and no disk until the next start().
    def deinit(self):
        for disk in self._ports:
            disk._halt()
        self._leave()

    def _leave(self):
        for disk in self._ports:
            disk._leave()
        self._ports = []

    # The ports with a SATA disk, as far as that can be said before the disk is ready: a disk that
    # is still spinning up counts.
    def disks(self):
        found = []
        for disk in self._ports:
            if disk._spin_up(self._stagger if found else 0):
                self._started = ticks_ms()
            if disk._linked(self._started) and disk._is_disk():
                found.append(disk)
        return found

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

    def __init__(self, name, port, memory):
        self.name = name
        self.model = self.serial = ""
        self.status = self.error = self.serr = 0
        self.reads = self.writes = self.flushes = 0
        self._port = port
        self._serr = port + _SERR
        self._ready = False
        # True until the port is another object's. The first word is then what is written to PxCI
        # to start a command: 0 starts none, even if the port has changed hands just before, in a
        # callback.
        self._live = True
        self._own = array("I", (1, 0, 0))
        if port in _owners:
            _owners[port]._leave()
        _owners[port] = self
        self._memory = memory
        self._bounce = None
        # Who used the port before, as before a soft reset, may have left a command in flight.
        used = mem32[port + _SCTL] | mem32[port + _CI]
        self._reset = not self._stop() or used != 0
        mem32[port + _IE] = 0
        mem32[port + _SCTL] = _SCTL_RUN

    # MicroPython block device. Without offset, whole blocks; with it, any piece of the disk.

    def readblocks(self, n, buf, offset=None):
        self._transfer(False, n, buf, offset)

    def writeblocks(self, n, buf, offset=None):
        self._transfer(True, n, buf, offset)

    # 1 (re)initialises: nothing to do for a healthy disk. 2 stops the port. 3 flushes the disk's
    # write cache. 4 and 5 give the number and the size of the blocks. 6: disks need no erase.
    def ioctl(self, op, arg):
        if op < 3:
            if not self._live:
                raise OSError(errno.ENODEV)
            if op == 2:
                self._halt()
            elif op == 1 and not (self._ready and self._same()):
                self._init()
            return 0
        if op == 6:
            return 0
        self._check()
        if op == 3:
            self.flushes += 1
            self._command(self._flush, 0, 0, 0, 0, False, _FLUSH_MS)
            return 0
        if op == 4:
            return self._blocks
        if op == 5:
            return self._size

    # The disk's own count of power cycles, 0 when it tells none: attribute 12 of SMART READ DATA
    # (ATA8-ACS, SMART feature set; the attributes' layout is that of SFF-8035i).
    def power_cycles(self):
        self._check()
        if not self._smart:
            return 0
        try:
            data = self._page(_SMART_READ_DATA, _SMART_LBA)
        except OSError as error:
            if error.args[0] != errno.EIO:
                raise
            return 0
        for at in range(2, 362, 12):
            if data[at] == _POWER_CYCLES and not sum(data) & 0xFF:
                return int.from_bytes(data[at + 5 : at + 9], "little")
        return 0

    def _transfer(self, write, n, buf, offset):
        if not self._ready:
            raise OSError(errno.ENODEV)
        size = self._size
        end = len(buf)
        lba = n
        skip = 0
        if offset is not None:
            if offset < 0:
                n = -1
            lba += offset // size
            skip = offset % size
        elif end % size:
            raise OSError(errno.EINVAL)
        if n < 0 or lba + (skip + end + size - 1) // size > self._blocks:
            raise OSError(errno.EINVAL)
        at = buf
        command = self._write if write else self._read
        done = 0
        try:
            while done < end:
                count = (end - done) // size
                if count > self._most:
                    count = self._most
                part = count * size
                if (
                    skip
                    or not count
                    or not self._command(command, lba, count, at, part, write, _COMMAND_MS)
                ):
                    count = 1
                    part = min(size - skip, end - done)
                    self._piece(write, lba, skip, addressof(buf) + done, part)
                    skip = 0
                lba += count
                done += part
                # Addresses are mostly too large for MicroPython's small integers, and made anew
                # each time: the first command does without.
                if done < end:
                    at = addressof(buf) + done
        except BaseException:
            # Kept from the garbage collector: stopping the port ends all DMA, but QEMU's model
            # still completes a late read into it.
            self._buf = buf
            raise

    # A part of a sector, or a sector at an address that DMA can't reach. (A slice of a memoryview
    # can't start beyond 16 MB; this can.)
    def _piece(self, write, lba, skip, at, n):
        piece = bytearray_at(at, n)
        bounce = self._bounce
        size = self._size
        if not write or n < size:
            self._command(self._read, lba, 1, bounce, size, False, _COMMAND_MS)
        if write:
            # A view of just these bytes: MicroPython moves all that follows a slice it assigns to.
            bounce[skip : skip + n][:] = piece
            self._command(self._write, lba, 1, bounce, size, True, _COMMAND_MS)
        else:
            piece[:] = bounce[skip : skip + n]
            # Who has the port now shares the buffer.
            if not self._live:
                raise OSError(errno.ENODEV)

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
        if not self._live:
            return False
        if not self._bounce:
            bounce = _BOUNCE
            memory = self._memory
            if len(memory) < _ROOM:
                bounce = 512
                memory = self._memory = array("I", bytes(4 * (_MEMORY + 255) + bounce))
            at = addressof(memory)
            start = (-at & 1023) // 4
            memory = self._words = memoryview(memory)[start:]
            at += 4 * start
            bytearray_at(at, 4 * _MEMORY)[:] = bytes(4 * _MEMORY)
            memory[2] = at + 4 * _TABLE
            self._bounce = memoryview(bytearray_at(at + 4 * _MEMORY, bounce))
            mem32[port + _CLB] = at
            mem32[port + _CLBU] = 0
            mem32[port + _FB] = at + 4 * _FIS
            mem32[port + _FBU] = 0
        if not self._ready:
            mem32[port + _SERR] = _ALL
        self._change(0, _CMD_FRE)
        return mem32[port + _SIG] & _ALL in (_SIG_ATA, _SIG_NONE)

    # Whether the disk was not told before, then it is, after so many ms (10.1.1).
    def _spin_up(self, ms=0):
        if mem32[self._port + _CMD] & _CMD_SUD == _CMD_SUD:
            return False
        sleep_ms(ms)
        self._change(0, _CMD_SUD)
        return True

    # ST=0 ends all commands, then reception may end. True when the port came to rest.
    def _stop(self):
        cmd = self._port + _CMD
        self._change(_CMD_ST, 0)
        if not wait32(cmd, _CMD_CR, 0, _STOP_MS):
            return False
        self._change(_CMD_FRE, 0)
        return wait32(cmd, _CMD_FR, 0, _STOP_MS)

    def _change(self, clear, bits):
        if self._live:
            cmd = self._port + _CMD
            mem32[cmd] = mem32[cmd] & ~clear | bits

    # From a port at rest to a running one (10.3.1). reset: the link and the device behind it first
    # (10.4.2).
    def _run(self, reset):
        port = self._port
        if reset and self._live:
            mem32[port + _SCTL] = _SCTL_COMRESET
            sleep_ms(_COMRESET_MS)
            mem32[port + _SCTL] = _SCTL_RUN
        if not self._linked(ticks_ms()):
            raise OSError(errno.ENODEV, "no SATA link")
        if self._is_disk() and not wait32(port + _TFD, _TFD_BUSY, 0, _READY_MS):
            raise OSError(errno.ETIMEDOUT, "disk busy after reset")
        kind = mem32[port + _SIG] & _ALL
        if kind != _SIG_ATA or not self._live:
            raise OSError(errno.ENODEV, _OTHERS.get(kind, "no SATA disk"))
        mem32[port + _IS] = _ALL
        self._change(0, _CMD_ST)

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
        self._ready = self._live
        self._own[1] = _SERR_LINK

    # Out of use until ioctl(1), which begins with a COMRESET.
    def _halt(self):
        self._ready = False
        self._own[1] = 0
        self._reset = True
        if self._live:
            self._stop()

    # Out of use for good: the port is another object's, or nobody's.
    def _leave(self):
        self._live = self._ready = False
        self._own[0] = 0

    # Word numbers of ATA8-ACS 7.16.7. Words 83 and 106 are valid when their bits 15:14 are 01.
    def _identify(self):
        data = self._page(_IDENTIFY, 0)
        if _word(data, 2) in _WAITS or _word(data, 0) & _INCOMPLETE:
            try:
                self._command(_SPIN_UP, 0, 0, 0, 0, False, _READY_MS)
                data = self._page(_IDENTIFY, 0)
            except OSError as error:
                raise OSError(error.args[0], _STANDBY) from None
        if data[510] == 0xA5 and sum(data) & 0xFF:
            raise OSError(errno.EIO, "IDENTIFY damaged")
        if _word(data, 0) & _INCOMPLETE:
            raise OSError(errno.EOPNOTSUPP, _STANDBY)
        if _word(data, 128) & 0x8005 == _LOCKED:
            raise OSError(errno.EOPNOTSUPP, "ATA security locked")
        if _word(data, 0) & 0x8000:
            raise OSError(errno.ENODEV, "no SATA disk")
        commands = _word(data, 83) if _word(data, 83) >> 14 == 1 else 0
        lba48 = commands & 0x0400
        self._flush = _FLUSH_CACHE_EXT if commands & 0x2000 else _FLUSH_CACHE
        self._read = _READ_DMA_EXT if lba48 else _READ_DMA
        self._write = _WRITE_DMA_EXT if lba48 else _WRITE_DMA
        self._smart = _word(data, 87) >> 14 == 1 and _word(data, 85) & 1
        first, words = (100, 4) if lba48 else (60, 2)
        self._blocks = 0
        for i in range(words):
            self._blocks |= _word(data, first + i) << 16 * i
        self._size = 512
        if _word(data, 106) & 0xD000 == 0x5000:
            self._size = (_word(data, 117) | _word(data, 118) << 16) * 2
        if self._size not in (512, 1024, 2048, 4096) or not self._blocks:
            raise OSError(errno.ENODEV, "%d sectors of %d" % (self._blocks, self._size))
        self._most = min(65536 if lba48 else 256, _ENTRIES * _ENTRY // self._size)
        if self._size > len(self._bounce):
            self._bounce = memoryview(bytearray(self._size))
        self.serial = _text(data, 10, 20)
        self.model = _text(data, 27, 47)

    # Commands.

    # What the disk tells about itself; valid until the next command.
    def _page(self, command, lba):
        data = self._bounce[:512]
        self._command(command, lba, 0, data, 512, False, _COMMAND_MS)
        return data

    # True: done. False: DMA can't reach the address, nothing was done.
    def _command(self, command, lba, count, at, nbytes, write, ms):
        words = self._words
        low = lba & 0xFFFFFF
        high = lba >> 24
        counts = 0xFFFF
        if command | 2 == _WRITE_DMA:  # or _READ_DMA: 28-bit addresses
            low = lba
            high = 0
            counts = 0xFF
        # Command header and command FIS (4.2); words that are always the same stay as they are.
        words[0] = _WRITE if write else _READ
        words[_TABLE] = _FIS_COMMAND | command << 16
        words[_TABLE + 1] = low
        words[_TABLE + 2] = high
        words[_TABLE + 3] = count & counts
        own = self._own
        own[2] = nbytes
        port = self._port
        try:
            said = begin(port, words, own, at)
            if said == _ODD:
                return False
            if write:
                self.writes += 1
            elif count:
                self.reads += 1
            if not said:
                said = ended(port, words, own)
                if said == _RUNNING:
                    said = self._wait(ms)
                if not said:
                    return True
        except BaseException:
            # Too late, or Ctrl-C: no DMA may outlive this call.
            self._note()
            self._halt()
            raise
        if said & _GONE:
            self._halt()
            raise OSError(errno.ENODEV)
        self._note()
        why = "ATA status %02x, error %02x" % (self.status, self.error)
        self._recover()
        raise OSError(errno.EIO, why)

    # It is looked at once more after the deadline: time may have passed while the machine did
    # something else.
    def _wait(self, ms):
        start = ticks_ms()
        late = False
        while True:
            said = ended(self._port, self._words, self._own)
            if said != _RUNNING:
                return said
            if late:
                raise OSError(errno.ETIMEDOUT)
            late = ticks_diff(ticks_ms(), start) >= ms

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
        self._change(_CMD_ST, 0)
        stopped = wait32(port + _CMD, _CMD_CR, 0, _STOP_MS)
        if stopped and self._same() and not mem32[port + _TFD] & _TFD_BUSY:
            mem32[port + _SERR] = _ALL
            mem32[port + _IS] = _ALL
            self._change(0, _CMD_ST)
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
