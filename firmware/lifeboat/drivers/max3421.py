"""MAX3421E: a USB port on any machine.SPI. With drivers/usbmsc.py and a USB-to-SATA bridge behind
it, the way from SPI to a SATA disk.

    port = MAX3421E(machine.SPI(1, baudrate=20_000_000), machine.Pin(5))
    port.start()
    disk = USBDisk(port)

spi: up to 26 MHz, mode 0 or 3 (polarity and phase both 0 or both 1), MSB first. cs: the chip
select. The chip's interrupt pin is not needed. Hubs and low-speed devices are not supported.

The object is a port as drivers/usbmsc.py describes one; it says which errors there are. A chip
that does not answer is ENODEV. A packet that got lost or damaged is sent again at once, up to two
times, as every USB host does (USB 2.0, 10.2.6); after that it is EIO.

While a packet is read from the chip, the next one is received already: RCVFIFO is double-buffered.
SNDFIFO is used as if it had one buffer, because revisions 1 and 2 of the chip want its first byte
anew after a NAK, which with two packets loaded would be that of the wrong one (application note
4000).

Written from the MAX3421E Programming Guide and tested against a model of our own; it has not run
on silicon.
"""

import errno
from struct import pack_into
from time import sleep_ms, ticks_add, ticks_diff, ticks_ms

from micropython import const

# Registers in host mode, as the first byte of an access that reads; _WRITE writes.
_WRITE = const(2)
_RCVFIFO = const(1 << 3)
_SNDFIFO = const(2 << 3)
_SUDFIFO = const(4 << 3)
_RCVBC = const(6 << 3)
_SNDBC = const(7 << 3)
_USBIRQ = const(13 << 3)
_USBCTL = const(15 << 3)
_PINCTL = const(17 << 3)
_REVISION = const(18 << 3)
_HIRQ = const(25 << 3)
_MODE = const(27 << 3)
_PERADDR = const(28 << 3)
_HCTL = const(29 << 3)
_HXFR = const(30 << 3)
_HRSL = const(31 << 3)

_OSCOKIRQ = const(0x01)
_CHIPRES = const(0x20)
_FDUPSPI = const(0x10)
_HXFRDNIRQ = const(0x80)
_CONDETIRQ = const(0x20)
_RCVDAVIRQ = const(0x04)
_BUSEVENTIRQ = const(0x01)
_HOST = const(0xC1)  # with both pull-downs
_SOFKAENAB = const(0x08)
_BUSRST = const(0x01)
_SAMPLEBUS = const(0x04)
_RCVTOG0 = const(0x10)
_SNDTOG0 = const(0x40)
_JSTATUS = const(0x80)
_KSTATUS = const(0x40)
_SNDTOGRD = const(0x20)
_RCVTOGRD = const(0x10)

# What HXFR launches.
_IN = const(0x00)
_SETUP = const(0x10)
_OUT = const(0x20)
_HS_IN = const(0x80)
_HS_OUT = const(0xA0)

# HRSLT, how it ended.
_SUCCESS = const(0)
_BAD_REQUEST = const(2)
_NAK = const(4)
_STALL = const(5)

_FIFO = const(64)
_FIXED = const(0x13)  # the revision that keeps the first byte of a packet
_TRIES = const(3)

# Deadlines and delays in milliseconds.
_OSCILLATOR_MS = const(100)
_DEBOUNCE_MS = const(100)  # USB 2.0, 7.1.7.3
_RESET_MS = const(100)  # the chip's own reset of the bus takes 50
_RECOVERY_MS = const(20)  # 10, and the first frames
_PACKET_MS = const(20)  # a packet and its handshake take less than 0.1


class MAX3421E:
    """The port of the chip at `spi` with the chip select `cs`.

    revision    of the chip: 0x01, 0x12 or 0x13; 0 before it was found
    result      HRSLT of the last packet
    """

    address = 1

    def __init__(self, spi, cs, name="usb0"):
        self.spi = spi
        self.cs = cs
        self.name = name
        self.revision = self.result = 0
        self._same = self._under_way = False
        self._endpoints = {}
        self._command = bytearray(1)
        self._status = bytearray(1)
        self._byte = bytearray(1)
        self._setup = bytearray(8)

    # Begin to look at the bus: who does so early need not wait for devices later.
    def start(self):
        try:
            self._begin()
        except OSError:
            self.revision = 0

    def present(self):
        return self._same and not self._read(_HIRQ) & _CONDETIRQ

    def reset(self):
        self._same = False
        self._begin()
        if self._read(_HIRQ) & _CONDETIRQ:
            sleep_ms(_DEBOUNCE_MS)
        self._find()
        self._write(_MODE, _HOST | _SOFKAENAB)
        self._write(_HCTL, _BUSRST)
        end = ticks_add(ticks_ms(), _RESET_MS)
        while self._read(_HCTL) & _BUSRST:
            if ticks_diff(end, ticks_ms()) < 0:
                raise OSError(errno.ETIMEDOUT)
            sleep_ms(1)
        sleep_ms(_RECOVERY_MS)
        # The reset itself looks like a device that comes.
        self._write(_HIRQ, _CONDETIRQ | _BUSEVENTIRQ)
        self._find()
        self._same = True

    def open(self, endpoint, packet, address):
        self._endpoints[endpoint] = [packet, 0]
        self._write(_PERADDR, address)

    def control(self, kind, request, value, index, buf, end):
        n = len(buf) if buf is not None else 0
        pack_into("<BBHHH", self._setup, 0, kind, request, value, index, n)
        self._access(_SUDFIFO | _WRITE, self._setup)
        if self._packet(_SETUP, end) < 0:
            return -1
        done = 0
        if n:
            self._endpoints[0][1] = 1
            done = self._receive(0, 0, buf, end)
        if done < 0 or self._packet(_HS_OUT if n else _HS_IN, end) < 0:
            return -1
        return done

    def bulk(self, endpoint, buf, end):
        if endpoint & 0x80:
            return self._receive(endpoint, endpoint & 15, buf, end)
        return self._send(endpoint, buf, end)

    # Packets.

    # The next one is asked for before this one is read, but only when there must be one.
    def _receive(self, endpoint, number, buf, end):
        state = self._endpoints[endpoint]
        packet = state[0]
        view = memoryview(buf)
        n = len(view)
        done = 0
        self._write(_HCTL, _RCVTOG0 << state[1])
        # What an interrupted transfer left: both buffers.
        for _ in range(2):
            if self._read(_HIRQ) & _RCVDAVIRQ:
                self._write(_HIRQ, _RCVDAVIRQ)
        self._launch(_IN | number)
        while done < n:
            ended = self._finish(_IN | number, end, None)
            state[1] = self._hrsl & _RCVTOGRD and 1
            if ended < 0:
                return -1
            count = self._read(_RCVBC)
            if count > packet or count > n - done:
                raise OSError(errno.EIO)  # more than was asked for
            more = count == packet and done + count < n
            if more:
                self._launch(_IN | number)
            if count:
                self._access(_RCVFIFO, None, view[done : done + count])
            self._write(_HIRQ, _RCVDAVIRQ)
            done += count
            if not more:
                break
        return done

    def _send(self, endpoint, buf, end):
        state = self._endpoints[endpoint]
        view = memoryview(buf)
        n = len(view)
        done = 0
        self._write(_HCTL, _SNDTOG0 << state[1])
        while done < n:
            part = view[done : done + state[0]]
            self._access(_SNDFIFO | _WRITE, part)
            self._write(_SNDBC, len(part))
            ended = self._packet(_OUT | endpoint, end, part)
            state[1] = self._hrsl & _SNDTOGRD and 1
            if ended < 0:
                return -1
            done += len(part)
        return done

    def _packet(self, what, end, part=None):
        self._launch(what)
        return self._finish(what, end, part)

    def _launch(self, what):
        self._under_way = True
        self._write(_HXFR, what)

    # Wait until the packet is through; -1 for a stall. One that was refused for now is launched
    # again for as long as there is time, one that got lost a few times.
    def _finish(self, what, end, part):
        tries = _TRIES
        while True:
            late = ticks_diff(end, ticks_ms()) < 0
            self._hrsl = self._wait()
            self.result = result = self._hrsl & 15
            if result == _SUCCESS:
                return 0
            if result == _STALL:
                return -1
            if self._status[0] & _CONDETIRQ:
                raise OSError(errno.ENODEV)
            if result != _NAK:
                tries -= 1
                if not tries or result == _BAD_REQUEST:
                    raise OSError(errno.EIO)
            elif late:
                raise OSError(errno.ETIMEDOUT)
            if part and self.revision < _FIXED:
                # Its buffer back, its first byte, and into the chip's hands again.
                self._write(_SNDBC, 0)
                self._access(_SNDFIFO | _WRITE, part[:1])
                self._write(_SNDBC, len(part))
            self._launch(what)

    # The status that comes with every access says when the result is valid.
    def _wait(self):
        end = None
        while True:
            hrsl = self._read(_HRSL)
            if self._status[0] & _HXFRDNIRQ:
                self._write(_HIRQ, _HXFRDNIRQ)
                self._under_way = False
                return hrsl
            if end is None:
                end = ticks_add(ticks_ms(), _PACKET_MS)
            elif ticks_diff(end, ticks_ms()) < 0:
                raise OSError(errno.ETIMEDOUT)

    # The chip.

    # From reset to host mode. A chip that is there already stays as it is, unless it has a packet
    # under way that it hung at or that Ctrl-C left behind.
    def _begin(self):
        if self.revision and not self._under_way and self._read(_MODE) & 0xF7 == _HOST:
            return
        self.revision = 0
        self._under_way = False
        self.cs(1)
        self._write(_PINCTL, _FDUPSPI)
        self._write(_USBCTL, _CHIPRES)
        self._write(_USBCTL, 0)
        self._write(_PINCTL, _FDUPSPI)
        end = ticks_add(ticks_ms(), _OSCILLATOR_MS)
        while not self._read(_USBIRQ) & _OSCOKIRQ:
            if ticks_diff(end, ticks_ms()) < 0:
                raise OSError(errno.ENODEV)
            sleep_ms(1)
        revision = self._read(_REVISION)
        self._write(_MODE, _HOST)
        if revision not in (0x01, 0x12, 0x13) or self._read(_MODE) != _HOST:
            raise OSError(errno.ENODEV)
        self.revision = revision

    # A device of full speed pulls D+ up: J.
    def _find(self):
        self._write(_HCTL, _SAMPLEBUS)
        sleep_ms(1)
        if self._read(_HRSL) & (_JSTATUS | _KSTATUS) != _JSTATUS:
            raise OSError(errno.ENODEV)

    def _read(self, register):
        self._access(register, None, self._byte)
        return self._byte[0]

    def _write(self, register, value):
        self._byte[0] = value
        self._access(register | _WRITE, self._byte)

    def _access(self, command, out, into=None):
        self._command[0] = command
        self.cs(0)
        try:
            self.spi.write_readinto(self._command, self._status)
            if out is not None:
                self.spi.write(out)
            else:
                self.spi.readinto(into)
        finally:
            self.cs(1)
