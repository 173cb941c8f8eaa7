"""A MAX3421E in host mode, byte by byte on its SPI, with a fakes.usbdisk.UsbDisk at its port.

    clock = Clock()
    chip = Chip(clock, UsbDisk(1 << 20))
    driver = MAX3421E(chip.spi, chip.cs)

Written from the MAX3421E Programming Guide and application note 4000 (the send buffers of
revisions 1 and 2), not from any driver. What these forbid, or leave undefined, is an
AssertionError. Time is virtual: it passes with the bits on the bus and with clock.sleep_ms().
"""

from fakes.usbdisk import ACK, NAK, STALL

_RCVFIFO, _SNDFIFO, _SUDFIFO, _RCVBC, _SNDBC = 1, 2, 4, 6, 7
_USBIRQ, _USBCTL, _PINCTL, _REVISION = 13, 15, 17, 18
_HIRQ, _HIEN, _MODE, _PERADDR, _HCTL, _HXFR, _HRSL = 25, 26, 27, 28, 29, 30, 31
_FIFOS = (_RCVFIFO, _SNDFIFO, _SUDFIFO)

HXFRDN, FRAME, CONDET, SNDBAV, RCVDAV, BUSEVENT = 0x80, 0x40, 0x20, 0x08, 0x04, 0x01

# HRSLT
SUCCESS, BUSY, BADREQ, NAKED, STALLED, TOGERR = 0, 1, 2, 4, 5, 6
CRCERR, KERR, JERR, TIMEOUT, BABBLE = 0xB, 0xC, 0xD, 0xE, 0xF

_BIT_NS = 83.3  # full speed
_OSCILLATOR_NS = 3000000
_BUS_RESET_NS = 50000000


class Chip:
    """device: what is plugged in, or None. revision: 0x01, 0x12 or 0x13.

    results    faults: HRSLT that the next packets end with, instead of reaching the device
    hung       no packet ends. absent: no chip: what is read is this byte
    nak_ns     what a NAK takes, for tests that wait for many
    low_speed  the device pulls the wrong line up
    packets    (PID, endpoint, result) of each so far
    overlapped how many packets were asked for while one lay unread in the other buffer
    """

    def __init__(self, clock, device=None, revision=0x13, baudrate=20000000, polarity=0, phase=0):
        assert (polarity, phase) in ((0, 0), (1, 1)), "the chip knows modes 0 and 3"
        assert baudrate <= 26000000
        self.clock = clock
        self.device = device
        self.revision = revision
        self.results = []
        self.hung = self.low_speed = False
        self.absent = None
        self.oscillates = True
        self.nak_ns = 0
        self.packets = []
        self.overlapped = 0
        self._byte_ns = 8000000000 // baudrate
        self._power_on()
        self.spi = Spi(self)
        self._command = None
        self._selected = False

    def insert(self, device):
        self.device = device
        self._hirq |= CONDET

    def _power_on(self):
        self._duplex = False
        self._reset = False
        self._start = self.clock.ns
        self._hirq = SNDBAV | (CONDET if self.device else 0)
        self._mode = self._peraddr = self._hrsl = 0
        self._toggles = {"in": 0, "out": 0}
        self._done_at = self._reset_until = None
        self._sampled = self._waiting = None
        self._received = []  # packets that the CPU has not taken yet, at most two
        self._read = 0
        self._send = [bytearray(64), bytearray(64)]
        self._counts = [0, 0]
        self._cpu = 0  # the send buffer of the CPU; the other is the SIE's
        self._loaded = 0
        self._stale = False
        self._sud = bytearray()

    # Pins.

    def cs(self, level):
        assert level in (0, 1)
        if not level:
            assert not self._selected, "selected already"
        elif self._selected:
            self._deselected()
        self._selected = not level
        self._command = None

    def _deselected(self):
        if self._command is not None and self._command >> 3 == _SUDFIFO:
            assert len(self._sud) == 8, "a setup packet has eight bytes"

    def byte(self, out):
        self.clock.ns += self._byte_ns
        if self.absent is not None:
            return self.absent
        assert self._selected, "clocked while not selected"
        self._pass()
        if self._command is None:
            assert not out & 4, "a bit of the command that does not exist"
            assert not out & 1, "ACKSTAT is for peripherals"
            self._command = out
            self._count = 0
            if out >> 3 == _SUDFIFO:
                self._sud = bytearray()
            return self._hirq if self._duplex else 0xFF
        register = self._command >> 3
        self._count += 1
        assert self._count == 1 or register in _FIFOS, "one byte for a register"
        if self._command & 2:
            self._write(register, out)
            return 0
        if not self._duplex:
            return 0xFF  # MISO is off, MOSI has the answer
        return self._get(register)

    # What has happened meanwhile.
    def _pass(self):
        now = self.clock.ns
        if self._done_at is not None and now >= self._done_at and not self.hung:
            self._done_at = None
            self._complete()
        if self._reset_until is not None and now >= self._reset_until:
            self._reset_until = None
            self._hirq |= BUSEVENT | CONDET
            if self.device:
                self.device.bus_reset()

    # Registers.

    def _get(self, register):
        if register == _HIRQ:
            return self._hirq
        if register == _HRSL:
            return self._line() | self._tog() | self._hrsl
        if register == _MODE:
            return self._mode
        if register == _HCTL:
            return 1 if self._reset_until is not None else 0
        if register == _REVISION:
            return self.revision
        if register == _USBIRQ:
            running = self.oscillates and self.clock.ns - self._start >= _OSCILLATOR_NS
            return 1 if running and not self._reset else 0
        if register == _RCVBC:
            assert self._hirq & RCVDAV, "no packet has come"
            return len(self._received[0])
        if register == _RCVFIFO:
            assert self._hirq & RCVDAV, "no packet has come"
            self._read += 1
            assert self._read <= len(self._received[0]), "more than the packet has"
            return self._received[0][self._read - 1]
        raise AssertionError("register %d is not read in host mode" % register)

    def _line(self):
        return self._sampled or 0

    def _tog(self):
        return self._toggles["out"] << 5 | self._toggles["in"] << 4

    def _write(self, register, value):
        if register == _PINCTL:
            self._duplex = bool(value & 0x10)
            return
        if register == _USBCTL:
            assert not value & 0xDF
            if value & 0x20:
                duplex = self._duplex
                self._power_on()
                self._duplex, self._reset = duplex, True
            elif self._reset:
                self._reset = False
                self._start = self.clock.ns
            return
        assert not self._reset, "held in reset"
        assert self.clock.ns - self._start >= _OSCILLATOR_NS, "the oscillator is not stable"
        if register == _MODE:
            assert value & 0xC1 == 0xC1, "host mode needs both pull-downs"
            assert not value & 0x36 and self._done_at is None
            self._mode = value
            return
        assert self._mode & 1, "not in host mode"
        busy = self._done_at is not None
        if register == _HIRQ:
            assert not value & SNDBAV, "SNDBAVIRQ is cleared by SNDBC only"
            self._hirq &= ~value
            if value & RCVDAV and self._received:
                self._received.pop(0)
                self._read = 0
                if self._received:
                    self._hirq |= RCVDAV
        elif register == _PERADDR:
            assert not busy and value < 128
            self._peraddr = value
        elif register == _HCTL:
            assert not busy
            assert value & 0xC0 != 0xC0 and value & 0x30 != 0x30, "both values of a toggle"
            if value & 0xC0:
                self._toggles["out"] = value >> 7
            if value & 0x30:
                self._toggles["in"] = value >> 5 & 1
            if value & 4:
                self._sample()
            if value & 1:
                self._reset_until = self.clock.ns + _BUS_RESET_NS
        elif register == _SUDFIFO:
            assert len(self._sud) < 8
            self._sud.append(value)
        elif register == _SNDFIFO:
            assert self._loaded < 64, "the buffer has 64 bytes"
            self._send[self._cpu][self._loaded] = value
            self._loaded += 1
        elif register == _SNDBC:
            assert value <= 64 and not busy
            self._counts[self._cpu] = value
            self._cpu ^= 1
            self._loaded = 0
            self._stale = False
        elif register == _HXFR:
            self._launch(value)
        else:
            raise AssertionError("register %d is not written in host mode" % register)

    # What pulls a line up: J for the speed that MODE says.
    def _sample(self):
        self._sampled = 0
        if self.device:
            self._sampled = 0x40 if self.low_speed else 0x80

    # Packets.

    def _launch(self, value):
        assert self._done_at is None, "HXFR written while a packet is under way"
        assert not self._hirq & HXFRDN, "HXFRDNIRQ of the packet before was not cleared"
        assert self._mode & 8, "no frames: the device sleeps"
        assert self._reset_until is None
        kind, endpoint = value & 0xF0, value & 15
        assert kind in (0x00, 0x10, 0x20, 0x80, 0xA0)
        assert kind in (0x00, 0x20) or endpoint == 0
        if kind == 0x00:
            assert len(self._received) < 2, "no buffer for it"
            self.overlapped += len(self._received)
        length = 64 if kind in (0x00, 0x20) else 8
        self._waiting = kind, endpoint
        self._hrsl = BUSY
        self._done_at = self.clock.ns + int((length + 14) * 8 * _BIT_NS)

    def _complete(self):
        kind, endpoint = self._waiting
        result = self.results.pop(0) if self.results else None
        if result is None:
            result = self._transact(kind, endpoint)
        elif result == SUCCESS + 0x100:
            # It came, but its handshake got lost.
            self._transact(kind, endpoint, lost=True)
            result = TIMEOUT
        if kind == 0x20 and result not in (SUCCESS, STALLED) and self.revision < 0x13:
            self._stale = True  # the first byte is gone from its register
        if result == NAKED:
            self.clock.ns += self.nak_ns
        self._hrsl = result
        self._hirq |= HXFRDN
        self.packets.append((kind, endpoint, result))

    def _transact(self, kind, endpoint, lost=False):
        device = self.device
        if device is None:
            return TIMEOUT
        if kind == 0x10:
            return SUCCESS if device.setup(self._peraddr, bytes(self._sud)) == ACK else TIMEOUT
        if kind in (0x20, 0xA0):
            toggle, data = 1, b""
            if kind == 0x20:
                fifo = self._cpu ^ 1
                data = bytearray(self._send[fifo][: self._counts[fifo]])
                if self._stale and data:
                    data[0] ^= 0xFF
                toggle = self._toggles["out"]
            answer = device.put(self._peraddr, endpoint, toggle, bytes(data))
            if answer == ACK and kind == 0x20 and not lost:
                self._toggles["out"] ^= 1
            return {ACK: SUCCESS, NAK: NAKED, STALL: STALLED, None: TIMEOUT}[answer]
        answer = device.get(self._peraddr, endpoint)
        if answer in (NAK, STALL, None):
            return {NAK: NAKED, STALL: STALLED, None: TIMEOUT}[answer]
        toggle, data = answer
        if lost:
            return TIMEOUT
        if kind == 0x80:
            assert toggle == 1 and not data
            device.acknowledge(0)
            return SUCCESS
        device.acknowledge(endpoint)
        if toggle != self._toggles["in"]:
            return TOGERR
        self._toggles["in"] ^= 1
        self._received.append(data)
        self._hirq |= RCVDAV
        return SUCCESS


class Spi:
    """machine.SPI with just the chip on it."""

    MSB = 0

    def __init__(self, chip):
        self._chip = chip

    def write(self, buf):
        for byte in buf:
            self._chip.byte(byte)

    def readinto(self, buf, write=0):
        for i in range(len(buf)):
            buf[i] = self._chip.byte(write)

    def write_readinto(self, out, into):
        for i in range(len(out)):
            into[i] = self._chip.byte(out[i])
