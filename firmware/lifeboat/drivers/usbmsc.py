"""USB disks, and SATA disks behind a USB bridge: SCSI over the Bulk-Only transport.

    disk = USBDisk(port)          # a port of drivers/ohci.py, of drivers/max3421.py, or of yours
    disk.ioctl(1, 0)              # resets the port, waits for the disk, reads what it is

A USBDisk is a MicroPython block device (simple and extended interface) over logical unit 0. Errors
are OSErrors:

    EINVAL     outside the disk, or a buffer of the wrong size; nothing was sent
    EIO        the disk or the transport reported an error, or data ended early. `sense` is what
               the disk said, 0 when it was the transport. The disk works on, unless the transport
               could not be recovered either
    EROFS      (30) the disk is write-protected
    ETIMEDOUT  no answer within the deadline. The disk is out of use
    ENODEV     no disk, or it is out of use, or it went away, lost power or changed its medium
               since ioctl(1): it might be another one, or have forgotten what it was to write.
               ioctl(1, 0) looks again, with a reset of the port, and takes the disk that it had
               before only: same model, serial number and size. After ioctl(2, 0) it takes any

A write is on the medium once ioctl(3) has returned: SYNCHRONIZE CACHE, never FUA, which bridges
get wrong. A disk that does not know the command has no cache to flush (SBC-3, 4.15).

A port is an object with

    name            text
    address         the number for the device's address, its own on its bus
    reset()         reset the port, and with it the device; ENODEV when there is none
    present()       whether that device has been there ever since
    open(endpoint, packet, address)    what is known of an endpoint (bit 7: to the host) from now
                    on: bytes of a packet, address of the device. It starts with DATA0. Endpoint 0
                    stands for both directions
    control(type, request, value, index, buf, end)    a control transfer (USB 2.0, 9.3); buf: None,
                    or where the data goes to; returns how many bytes came
    bulk(endpoint, buf, end)    a bulk transfer, which a short packet ends; returns how many bytes

Both return -1 for a stall, and raise ETIMEDOUT when it is not done at `end` (ticks_ms), EIO for
errors of the bus and ENODEV for a device that is gone. Nothing is moved afterwards, whatever they
raise. Reads are to the host's memory directly where it can.

Section numbers are those of the Bulk-Only Transport 1.0 (B), USB 2.0 (U), SPC-4 and SBC-3.
"""

import errno
from struct import pack_into, unpack_from
from time import sleep_ms, ticks_add, ticks_diff, ticks_ms

from micropython import const

_EROFS = const(30)

# Deadlines in milliseconds.
_CONTROL_MS = const(5000)  # U 9.2.6.1
_COMMAND_MS = const(5000)
_FLUSH_MS = const(30000)
_READY_MS = const(10000)  # spin-up
_ADDRESS_MS = const(10)  # the device's time to take its address: 2 ms (U 9.2.6.3)

_MOST = const(122880)  # bytes a command: what other hosts use, and bridges were tried with
_CONFIG_MOST = const(256)
_TRIES = const(8)  # unit attentions that may wait

# SCSI commands.
_TEST_UNIT_READY = const(0x00)
_REQUEST_SENSE = const(0x03)
_INQUIRY = const(0x12)
_MODE_SENSE = const(0x1A)
_START_STOP = const(0x1B)
_READ_CAPACITY = const(0x25)
_READ = const(0x28)
_WRITE = const(0x2A)
_SYNCHRONIZE_CACHE = const(0x35)
_ATA_PASS_THROUGH = const(0x85)
_LONG = const(0x60)  # from READ and WRITE (10) to (16)
_READ_CAPACITY_16 = const(0x9E)

# Sense: key, additional sense code and its qualifier as one number.
_NEEDS_START = const(0x020402)
_UNKNOWN_COMMAND = const(0x052000)
_NOT_READY = const(2)
_ATTENTION = const(6)
_PROTECTED = const(7)
_BECOMING_READY = const(0x0204)
_CHANGED = const(0x0628)

_POWER_CYCLES = const(12)


class USBDisk:
    """The disk at `port`. name: what to call it, if not as the port.

    model, serial    text, after ioctl(1, 0); the serial number is the bridge's
    sense            key << 16 | code << 8 | qualifier of the last failed command
    reads, writes, flushes    commands so far, failed ones included
    """

    def __init__(self, port, name=None):
        self.name = name or port.name
        self.model = self.serial = ""
        self.sense = 0
        self.reads = self.writes = self.flushes = 0
        self._port = port
        self._ready = False
        self._who = None
        self._tag = 0
        self._cbw = bytearray(31)
        self._csw = bytearray(13)
        self._bounce = memoryview(bytearray(512))

    # MicroPython block device. Without offset, whole blocks; with it, any piece of the disk.

    def readblocks(self, n, buf, offset=None):
        self._transfer(False, n, buf, offset)

    def writeblocks(self, n, buf, offset=None):
        self._transfer(True, n, buf, offset)

    # 1 (re)initialises: nothing to do for a healthy disk. 2 forgets it. 3 flushes its cache. 4 and
    # 5 give the number and the size of the blocks. 6: disks need no erase.
    def ioctl(self, op, arg):
        if op == 1:
            if not (self._ready and self._port.present()):
                self._init()
        elif op == 2:
            self._ready = False
            self._who = None
        elif op == 3:
            self._check()
            self.flushes += 1
            self._cdb(_SYNCHRONIZE_CACHE, 10)
            try:
                self._send(10, _FLUSH_MS)
            except OSError:
                if not self._ready or self.sense != _UNKNOWN_COMMAND:
                    raise
        elif op == 4 or op == 5:
            self._check()
            return self._blocks if op == 4 else self._size
        return 0

    # The disk's own count of power cycles, 0 when it or its bridge tells none: attribute 12 of
    # SMART READ DATA, by ATA PASS-THROUGH (SAT-3, 12.2). A bridge that hangs at it is not asked
    # again.
    def power_cycles(self):
        self._check()
        if not self._smart:
            return 0
        self._smart = False
        cdb = self._cdb(_ATA_PASS_THROUGH, 16)
        for at, byte in (1, 8), (2, 0x0E), (4, 0xD0), (6, 1), (10, 0x4F), (12, 0xC2), (14, 0xB0):
            cdb[at] = byte
        data = self._bounce[:512]
        try:
            if self._send(16, _COMMAND_MS, data) < 512:
                return 0
        except OSError as e:
            if e.args[0] == errno.ENODEV:
                raise
            if not self._ready:
                self._init()
                self._smart = False
            return 0
        self._smart = True
        for at in range(2, 362, 12):
            if data[at] == _POWER_CYCLES and not sum(data) & 0xFF:
                return unpack_from("<I", data, at + 5)[0]
        return 0

    def _check(self):
        if not self._ready:
            raise OSError(errno.ENODEV)

    def _transfer(self, write, n, buf, offset):
        self._check()
        size = self._size
        view = memoryview(buf)
        end = len(view)
        first = n * size + (offset or 0)
        if (
            n < 0
            or (offset or 0) < 0
            or first + end > self._blocks * size
            or (offset is None and end % size)
        ):
            raise OSError(errno.EINVAL)
        if write and self._protected:
            raise OSError(_EROFS)
        lba = first // size
        skip = first % size
        at = 0
        while at < end:
            if skip or end - at < size:
                part = min(size - skip, end - at)
                piece = view[at : at + part]
                self._sectors(False, lba, self._bounce)
                if write:
                    self._bounce[skip : skip + part][:] = piece
                    self._sectors(True, lba, self._bounce)
                else:
                    piece[:] = self._bounce[skip : skip + part]
                skip = 0
                lba += 1
            else:
                part = min((end - at) // size * size, _MOST)
                self._sectors(write, lba, view[at : at + part])
                lba += part // size
            at += part

    def _sectors(self, write, lba, view):
        op = _READ
        if write:
            self.writes += 1
            op = _WRITE
        else:
            self.reads += 1
        count = len(view) // self._size
        if self._blocks >> 32:
            n = 16
            pack_into(">QI", self._cdb(op + _LONG, n), 2, lba, count)
        else:
            n = 10
            pack_into(">IBH", self._cdb(op, n), 2, lba, 0, count)
        if self._send(n, _COMMAND_MS, view, write) != len(view):
            self.sense = 0
            raise OSError(errno.EIO)

    # Commands.

    # Begin a command block, zero but for its first byte; it stands in its wrapper already.
    def _cdb(self, op, n):
        cbw = self._cbw
        for i in range(16, 31):
            cbw[i] = 0
        cbw[15] = op
        return memoryview(cbw)[15 : 15 + n]

    # Send the command block of n bytes; returns how many bytes of data were moved. A disk that was
    # in use is out of it for as long as it takes, also when Ctrl-C comes between.
    def _send(self, n, ms, data=None, write=False):
        self._check()
        self._ready = False
        self.sense = 0
        done = self._do(n, ms, data, write)
        if done < 0:
            self._ask_sense()
            if self.sense >> 16 == _ATTENTION:
                raise OSError(errno.ENODEV)
        self._ready = True
        if done < 0:
            raise OSError(_EROFS if self.sense >> 16 == _PROTECTED else errno.EIO)
        return done

    # What the disk says of the command that has just failed (SPC-4, 4.5.3).
    def _ask_sense(self):
        data = bytearray(18)
        self._cdb(_REQUEST_SENSE, 6)[4] = 18
        if self._do(6, _COMMAND_MS, data, False) >= 14 and data[0] & 0x7E == 0x70:
            self.sense = (data[2] & 15) << 16 | data[12] << 8 | data[13]

    # The same for whoever knows that the disk is not ready yet; -1 when it said no. An error of
    # the transport is recovered from (B 5.3.4), and is EIO; a disk that survives it is in use
    # again, if it was.
    def _do(self, n, ms, data, write):
        port = self._port
        if not port.present():
            raise OSError(errno.ENODEV)
        try:
            return self._exchange(n, ticks_add(ticks_ms(), ms), data, write)
        except OSError as e:
            if e.args[0] != errno.EIO:
                raise
            self._recover()
            raise

    # Command, data, status (B 5.3).
    def _exchange(self, n, end, data, write):
        bulk = self._port.bulk
        cbw = self._cbw
        csw = self._csw
        self._tag = tag = self._tag + 1 & 0xFFFFFF
        length = len(data) if data is not None else 0
        pack_into("<IIIBBB", cbw, 0, 0x43425355, tag, length, 0 if write else 0x80, 0, n)
        if bulk(self._out, cbw, end) != 31:
            raise OSError(errno.EIO)
        done = 0
        if length:
            endpoint = self._out if write else self._in
            done = bulk(endpoint, data, end)
            if done < 0:
                self._clear(endpoint)
                done = 0
        n = bulk(self._in, csw, end)
        if n < 0:
            self._clear(self._in)
            n = bulk(self._in, csw, end)
        # Valid and meaningful (B 6.3).
        signature, other, residue, status = unpack_from("<IIIB", csw)
        if n != 13 or signature != 0x53425355 or other != tag or status > 1 or residue > length:
            raise OSError(errno.EIO)
        return -1 if status else min(done, length - residue)

    # A halted endpoint works again (B 5.3.3, U 9.4.5).
    def _clear(self, endpoint):
        if self._ask(2, 1, 0, endpoint) < 0:
            raise OSError(errno.EIO)
        self._open(endpoint)

    # Reset recovery (B 5.3.4). Whether the medium is the same is asked for, too: what the disk
    # says of the reset itself is forgotten.
    def _recover(self):
        self._ask(0x21, 0xFF, 0, self._interface)
        self._clear(self._in)
        self._clear(self._out)
        if self._who and self._blocks:
            if self._settle():
                raise OSError(errno.ENODEV)
            self._ready = True

    def _ask(self, kind, request, value, index, data=None):
        end = ticks_add(ticks_ms(), _CONTROL_MS)
        return self._port.control(kind, request, value, index, data, end)

    def _open(self, endpoint):
        self._port.open(endpoint, self._packets[endpoint], self._port.address)

    # Identification.

    def _init(self):
        self._ready = False
        self._blocks = 0
        self._port.reset()
        self._enumerate()
        self._settle()
        self._identify()
        who = self.model, self.serial, self._blocks, self._size
        if self._who and self._who != who:
            self._blocks = 0
            raise OSError(errno.ENODEV)
        self._who = who
        self._ready = self._smart = True

    # U 9.1.2.
    def _enumerate(self):
        port = self._port
        self._packets = {}
        port.open(0, 8, 0)
        device = bytearray(18)
        self._descriptor(1, memoryview(device)[:8], 8)
        packet = _packet(device[7])
        self._need(self._ask(0, 5, port.address, 0))
        sleep_ms(_ADDRESS_MS)
        port.open(0, packet, port.address)
        self._descriptor(1, device, 18)
        config = bytearray(_CONFIG_MOST)
        self._parse(config, self._descriptor(2, config, 9))
        self._need(self._ask(0, 9, config[5], 0))
        self._open(self._in)
        self._open(self._out)
        self.serial = ""
        text = bytearray(128)
        if device[16]:
            n = self._ask(0x80, 6, 0x300 | device[16], 0x409, text)
            self.serial = _text(text[2 : max(n, 2)])  # UTF-16: what is no ASCII drops out

    # Read the first descriptor of a kind; returns how many bytes there are, at least `least`.
    def _descriptor(self, kind, buf, least):
        n = self._ask(0x80, 6, kind << 8, 0, buf)
        if n < least or buf[1] != kind:
            raise OSError(errno.ENODEV)
        return n

    # The first interface for SCSI over Bulk-Only in its first setting (B 4), and its endpoints.
    def _parse(self, config, end):
        self._in = self._out = 0
        mine = False
        at = config[0]
        while at + 7 <= end and config[at] > 1:
            kind = config[at + 1]
            if kind == 4 and at + 9 <= end:
                mine = not self._in and config[at + 5 : at + 8] == b"\x08\x06\x50"
                mine = mine and config[at + 3] == 0
                if mine:
                    self._interface = config[at + 2]
            elif kind == 5 and mine and config[at + 3] & 3 == 2:
                endpoint = config[at + 2]
                self._packets[endpoint] = _packet(config[at + 4] | config[at + 5] << 8)
                if endpoint & 0x80:
                    self._in = self._in or endpoint
                else:
                    self._out = self._out or endpoint
            at += config[at]
        if not self._in & 15 or not self._out & 15:
            raise OSError(errno.ENODEV)

    def _need(self, n):
        if n < 0:
            raise OSError(errno.ENODEV)

    # Wait until the disk is ready; True when it told of another medium.
    def _settle(self):
        end = ticks_add(ticks_ms(), _READY_MS)
        changed = False
        tries = _TRIES
        while True:
            late = ticks_diff(end, ticks_ms()) <= 0
            self._cdb(_TEST_UNIT_READY, 6)
            if self._do(6, _COMMAND_MS, None, False) >= 0:
                return changed
            self._ask_sense()
            sense = self.sense
            if sense >> 16 == _ATTENTION and tries:
                changed = changed or sense >> 8 == _CHANGED
                tries -= 1
                continue
            if sense >> 8 != _BECOMING_READY:
                raise OSError(errno.ENODEV)  # no medium, or a disk that is broken
            if late:
                raise OSError(errno.ETIMEDOUT)
            if sense == _NEEDS_START:
                self._cdb(_START_STOP, 6)[4] = 1
                self._do(6, _READY_MS, None, False)
            sleep_ms(20)

    def _identify(self):
        data = memoryview(bytearray(36))
        self._cdb(_INQUIRY, 6)[4] = 36
        if self._do(6, _COMMAND_MS, data, False) < 36 or data[0]:
            raise OSError(errno.ENODEV)  # not a disk
        self.model = _text(data[8:32])
        data = data[:32]
        self._cdb(_READ_CAPACITY, 10)
        self._need(self._do(10, _COMMAND_MS, data[:8], False) - 8)
        last, size = unpack_from(">II", data)
        if last == 0xFFFFFFFF:
            cdb = self._cdb(_READ_CAPACITY_16, 16)
            cdb[1] = 0x10
            cdb[13] = 32
            self._need(self._do(16, _COMMAND_MS, data, False) - 12)
            last, size = unpack_from(">QI", data)
        if size not in (512, 1024, 2048, 4096) or last >> 60:
            raise OSError(errno.ENODEV)
        if size > len(self._bounce):
            self._bounce = memoryview(bytearray(size))
        self._size = size
        self._cdb(_MODE_SENSE, 6)[2] = 0x3F
        self._cbw[19] = 4
        self._protected = self._do(6, _COMMAND_MS, data[:4], False) >= 3 and data[2] >> 7
        self._blocks = last + 1


# A full-speed bulk or control endpoint's packet size.
def _packet(n):
    if n not in (8, 16, 32, 64):
        raise OSError(errno.ENODEV)
    return n


def _text(data):
    return bytes(c for c in data if 32 <= c < 127).decode().strip()
