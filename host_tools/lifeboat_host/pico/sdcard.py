"""An SD card in SPI mode, byte by byte, with the ways in which cards misbehave.

    clock = Clock()
    card = Card("sdhc", 1 << 17, clock)
    bus = Bus(card, clock)
    driver = SDCard(bus, bus.cs)

Time is virtual: it passes with the bytes on the bus and with clock.sleep_ms(), so a card that is
busy for a second costs a test as many bytes as a driver polls. A driver under test needs
clock.ticks_ms and clock.sleep_ms in place of time's.

The card follows the SD Physical Layer Simplified Specification, section numbers are its. What a
driver may not do is kept in Card.complaints. Runs in MicroPython as well as on CPython.
"""

IDLE = 0x01
ILLEGAL = 0x04
CRC_ERROR = 0x08
ADDRESS_ERROR = 0x20
PARAMETER_ERROR = 0x40

_FOR_EVER = 1 << 62
_IN_IDLE = (0, 8, 41, 55, 58, 59)


# Bit by bit, from the polynomials of 4.5: independent of the tables under test.
def crc7(data):
    crc = 0
    for byte in data:
        for i in range(7, -1, -1):
            crc = crc << 1 ^ (0x09 if (crc >> 6 ^ byte >> i) & 1 else 0)
        crc &= 0x7F
    return crc


def _crc16_of_byte(byte):
    crc = byte << 8
    for _ in range(8):
        crc = crc << 1 ^ (0x11021 if crc & 0x8000 else 0)
    return crc


_CRC16 = [_crc16_of_byte(i) for i in range(256)]


def crc16(data):
    crc = 0
    for byte in data:
        crc = (crc << 8 & 0xFF00) ^ _CRC16[crc >> 8 ^ byte]
    return bytes((crc >> 8, crc & 0xFF))


class Clock:
    def __init__(self):
        self.ns = 0

    def ticks_ms(self):
        return self.ns // 1000000

    def sleep_ms(self, ms):
        self.ns += ms * 1000000


class Bus:
    """machine.SPI with one slot; `card` may be changed, None for an empty slot. level: what an
    empty slot reads as. cut_at: the card is pulled after so many bytes."""

    MSB = 0

    def __init__(self, card, clock, level=0xFF):
        self.card = card
        self.clock = clock
        self.level = level
        self.cs = Select(self)
        self.selected = False
        self.baudrate = 10000000
        self.settings = []
        self.bytes = 0
        self.cut_at = None

    def init(self, **settings):
        self.settings.append(settings)
        self.baudrate = settings.get("baudrate", self.baudrate)

    def _byte(self, out):
        self.bytes += 1
        if self.bytes == self.cut_at:
            self.card = None
        self.clock.ns += 8000000000 // self.baudrate
        if self.card is None:
            return self.level
        if not self.selected:
            self.card.idle_clocks(8)
            return 0xFF
        return self.card.byte(out, self.baudrate)

    def read(self, n, write=0):
        return bytes([self._byte(write) for _ in range(n)])

    def readinto(self, buf, write=0):
        for i in range(len(buf)):
            buf[i] = self._byte(write)

    def write(self, buf):
        for out in buf:
            self._byte(out)

    def write_readinto(self, write_buf, read_buf):
        for i, out in enumerate(write_buf):
            read_buf[i] = self._byte(out)

    def select(self, selected):
        if self.card is not None and selected != self.selected:
            self.card.selected(selected)
        self.selected = selected


class Select:
    """machine.Pin, the chip select of a Bus."""

    OUT = 1

    def __init__(self, bus):
        self._bus = bus

    def init(self, mode, value=None):
        if value is not None:
            self(value)

    def __call__(self, value):
        self._bus.select(not value)


class Card:
    """kind: "sdsc1" (version 1, no CMD8), "sdsc", "sdhc" (SDXC is the same with more sectors),
    "sduc" or "mmc". sectors: of 512 bytes.

    blocks          dict LBA -> bytes, the medium
    commands        numbers of the commands it executed
    complaints      what the specification does not allow a host

    Manners: init_ms, read_ms, write_ms, n_cr (bytes until a response), gap (bytes before a token).

    Faults, by command: reject (-> R1), mute; by LBA: bad_crc, no_token, error_token (-> token),
    stale (delivers the block read before), response (-> data response, nothing stored), noise
    (damaged on its way to the card), hang (busy and deaf for ever afterwards), late (-> bits in
    R2, nothing stored), lose (accepted and forgotten). garble: commands damaged on their way.
    register_crc: False for cards that send a wrong CRC16 with CSD and CID, as there are some.
    low: it drives DO low until CMD0 has brought it into SPI mode, as some do in SD mode (6.4.1.1
    says nothing of that line). deaf: so many CMD0 are not heard. no_crc: CMD59 is not known, and
    the CRC16 of what it sends is not right, either: "don't care" without CRC mode (7.2.2).
    """

    def __init__(self, kind, sectors, clock, serial=0x1234ABCD):
        self.kind = kind
        self.sectors = sectors
        self.serial = serial
        self.clock = clock
        self.blocks = {}
        self.commands = []
        self.complaints = []
        self.init_ms = self.read_ms = self.write_ms = 0
        self.n_cr = self.gap = 1
        self.reject, self.error_token, self.response, self.late = {}, {}, {}, {}
        self.mute, self.garble, self.bad_crc, self.no_token = set(), set(), set(), set()
        self.stale, self.noise, self.hang, self.lose = set(), set(), set(), set()
        self.register_crc = True
        self.low = self.no_crc = False
        self.deaf = 0
        self.check_voltage = True
        self.spoil_csd = None
        self.power_up()

    def power_up(self):
        """As when it is put into the slot: SD mode, nothing initialised."""
        self._spi = False
        self._clocks = 0
        self._ready = False
        self._init_since = None
        self._app = self.crc_on = False
        self._status = 0
        self._state = "command"
        self._frame = []
        self._out = []
        self._until = 0
        self._data = []
        self._lba = 0
        self._many = False
        self._after_release = 8
        self._baudrate = 0
        self._last = bytes(512)

    # The wires.

    def idle_clocks(self, n):
        self._clocks += n
        self._after_release += n

    def selected(self, yes):
        if yes and self._after_release < 8:
            self.complaints.append("selected without 8 clocks since the release")
        self._after_release = 0
        self._frame = []

    def byte(self, into, baudrate):
        self._baudrate = baudrate
        spi = self._spi
        out = self._send()
        self._take(into)
        return out if spi else 0x00 if self.low else 0xFF

    def _busy(self):
        return self.clock.ns < self._until

    def _send(self):
        if self._out:
            return self._out.pop(0)
        if self._state == "read":
            if not self._busy():
                self._next_block()
            return self._out.pop(0) if self._out else 0xFF
        return 0x00 if self._busy() else 0xFF

    def _take(self, into):
        if self._frame or (into & 0xC0 == 0x40 and self._state in ("command", "read", "token")):
            # CMD0 may come at any time.
            first = not self._frame and into != 0x40
            if first and self._state != "read" and (self._busy() or self._out):
                self.complaints.append("command while busy or answering")
            self._frame.append(into)
            if len(self._frame) == 6:
                frame = bytes(self._frame)
                self._frame = []
                self._execute(frame)
        elif self._state == "token" and not self._busy():
            if into == (0xFC if self._many else 0xFE):
                self._state = "data"
                self._data = []
            elif into == 0xFD and self._many:
                self._state = "command"
                self._out = [0xFF]
                self._until = self.clock.ns + self.write_ms * 1000000
        elif self._state == "data":
            self._data.append(into)
            if len(self._data) == 514:
                self._store(bytes(self._data))

    # Commands (7.3.1.3).

    def _execute(self, frame):
        if self._until == _FOR_EVER:
            return
        number = frame[0] & 0x3F
        arg = int.from_bytes(frame[1:5], "big")
        if number in self.garble:
            frame = frame[:4] + bytes((frame[4] ^ 0x10, frame[5]))
        good = crc7(frame[:5]) << 1 | 1 == frame[5]
        if not self._spi:
            # In SD mode only a right CMD0 after 74 clocks is seen (6.4.1.1, 7.2.1).
            if number != 0 or not good or self._clocks < 74:
                return
            if self.deaf:
                self.deaf -= 1
                return
            self._spi = True
        if not self._ready and self._baudrate > 400000:
            self.complaints.append("CMD%d at more than 400 kHz before the card is ready" % number)
        if number in self.mute:
            return
        app, self._app = self._app, False
        if not good and (self.crc_on or number in (0, 8)):
            self._answer(CRC_ERROR)
        elif number in self.reject:
            self._answer(self.reject[number])
        else:
            self.commands.append(number)
            self._run(number, arg, app)

    def _answer(self, errors=0, more=b""):
        r1 = errors | (0 if self._ready else IDLE)
        self._out = [0xFF] * self.n_cr + [r1] + list(more)

    def _run(self, number, arg, app):
        if number == 0:
            if self._busy() and self._state != "read":
                self.complaints.append("CMD0 ends a write half way (4.3.1)")
            self.crc_on = self._ready = False
            self._init_since = None
            self._state = "command"
            self._until = 0
            self._answer()
        elif not self._ready and number not in _IN_IDLE:
            self._answer(ILLEGAL)
        elif number == 12:
            self._stop()
        elif self._state != "command":
            self.complaints.append("CMD%d during a transfer" % number)
            self._answer(ILLEGAL)
        elif number == 8 and self.kind not in ("sdsc1", "mmc"):
            echo = arg & 0xFFF if self.check_voltage else arg & 0xFF
            self._answer(0, echo.to_bytes(4, "big"))
        elif number == 58:
            high = self.kind in ("sdhc", "sduc") and self._ready
            self._answer(0, bytes((self._ready << 7 | high << 6, 0xFF, 0x80, 0)))
        elif number == 59 and not self.no_crc:
            self.crc_on = arg & 1 == 1
            self._answer()
        elif number == 55 and self.kind != "mmc":
            self._app = True
            self._answer()
        elif number == 41 and app:
            self._initialise(arg)
        elif number == 9:
            self._register(self._csd())
        elif number == 10:
            cid = b"\x02TMLIFEB\x10" + self.serial.to_bytes(4, "big") + b"\x01\x89"
            self._register(cid + bytes((crc7(cid) << 1 | 1,)))
        elif number == 13:
            self._answer(0, bytes((self._status,)))
            self._status = 0
        elif number == 16:
            self._answer(0 if arg == 512 else PARAMETER_ERROR)
        elif number in (17, 18, 24, 25):
            self._transfer(number, arg)
        else:
            self._answer(ILLEGAL)

    def _initialise(self, arg):
        now = self.clock.ns
        if self._init_since is None:
            self._init_since = now
        high = self.kind in ("sdhc", "sduc")
        if now >= self._init_since + self.init_ms * 1000000 and (arg & 0x40000000 or not high):
            self._ready = True
        self._answer()

    # A block that is sent after its command's response (7.2.6).
    def _register(self, data):
        self._answer()
        check = crc16(data) if self.register_crc else b"\x12\x34"
        self._out += [0xFF] * self.gap + [0xFE] + list(data) + list(check)

    # CSD (5.3): all but the capacity is nothing that a host in SPI mode needs.
    def _csd(self):
        csd = bytearray(15)
        csd[3] = 0x32
        csd[5] = 0x59
        if self.kind in ("sdhc", "sduc"):
            csd[0] = 0x40 if self.kind == "sdhc" else 0x80
            csd[7:10] = (self.sectors // 1024 - 1).to_bytes(3, "big")
        else:
            # C_SIZE_MULT 7; beyond 1 GB the blocks count 1024 bytes (4.3.2).
            c_size = self.sectors // 512 - 1
            if c_size > 4095:
                csd[5] = 0x5A
                c_size = self.sectors // 1024 - 1
            csd[6:9] = (c_size << 6).to_bytes(3, "big")
            csd[9] = 0x03
            csd[10] = 0x80
        check = crc7(csd) << 1 | 1
        if self.spoil_csd is not None:
            csd[self.spoil_csd] ^= 1
        return bytes(csd) + bytes((check,))

    # Transfers (7.2.3, 7.2.4).

    def _transfer(self, number, arg):
        unit = 1 if self.kind in ("sdhc", "sduc") else 512
        if arg % unit:
            self._answer(ADDRESS_ERROR)
        elif arg // unit >= self.sectors:
            self._answer(PARAMETER_ERROR)
        else:
            self._lba = arg // unit
            self._many = number in (18, 25)
            self._state = "read" if number < 20 else "token"
            self._answer()
            if self._state == "read":
                self._until = self.clock.ns + self.read_ms * 1000000

    def _next_block(self):
        lba = self._lba
        if lba in self.no_token:
            return
        self._lba += 1
        self._until = self.clock.ns + self.read_ms * 1000000
        if not self._many:
            self._state = "command"
        # Reading ahead beyond the end is an error, too, even if the host never sees the token.
        token = 0x08 if lba >= self.sectors else self.error_token.get(lba)
        if token:
            # Error, CC error, ECC failed, out of range: their bits in R2 (7.3.2.3, 7.3.3.3).
            for bit, status in ((1, 0x04), (2, 0x08), (4, 0x10), (8, 0x80)):
                self._status |= status if token & bit else 0
            self._state = "command"
            self._out = [0xFF] * self.gap + [token]
            return
        data = self.blocks.get(lba, bytes(512))
        if lba in self.stale:
            data = self._last
        self._last = data
        check = b"\xff\xff" if self.no_crc else crc16(data)
        if lba in self.bad_crc:
            data = data[:100] + bytes((data[100] ^ 0x40,)) + data[101:]
        self._out = [0xFF] * self.gap + [0xFE] + list(data) + list(check)

    # CMD12. The byte that follows it looks like a bad response and is none.
    def _stop(self):
        if self._state not in ("read", "token") and not self._many:
            self._answer(ILLEGAL)
            return
        self._state = "command"
        self._many = False
        self._answer()
        self._out = [0x7F] + self._out
        self._until = self.clock.ns + self.write_ms * 1000000

    def _store(self, received):
        lba = self._lba
        data, check = received[:512], received[512:]
        if lba in self.noise:
            data = data[:7] + bytes((data[7] ^ 0x80,)) + data[8:]
        if self.crc_on and crc16(data) != check:
            response = 0x0B
        else:
            response = self.response.get(lba, 0x05)
        # Bits 7 to 5 of a data response are undefined (7.3.3.1).
        self._out = [response | 0xE0]
        if lba in self.late:
            self._status |= self.late[lba]
        elif response == 0x05:
            self._lba += 1
            self._until = self.clock.ns + self.write_ms * 1000000
            if lba in self.hang:
                self._until = _FOR_EVER
            if lba not in self.lose:
                self.blocks[lba] = data
        self._state = "token" if self._many else "command"
