"""A USB disk, packet by packet: Bulk-Only transport and SCSI, and how bridges misbehave.

    device = UsbDisk(1 << 20)
    device.bus_reset()
    device.setup(0, bytes.fromhex("8006000100000800"))
    device.get(0, 0)                     # (toggle, data), NAK or STALL; None: no answer at all
    device.acknowledge(0)
    device.put(1, 2, toggle, data)       # ACK, NAK, STALL or None

A host sends one token at a time; LoopHost is the plainest one, without a controller. Written from
USB 2.0 (full speed), the Bulk-Only Transport 1.0, SPC-4, SBC-3 and SAT-3; it knows no driver. What
these forbid a host is an AssertionError.
"""

import errno
import struct

ACK, NAK, STALL = "ACK", "NAK", "STALL"
_STALLED = -1  # what hosts say of it

# Sense: key, additional code and its qualifier as one number.
NO_SENSE = 0
BECOMING_READY, NO_MEDIUM, NEEDS_START = 0x020401, 0x023A00, 0x020402
UNREADABLE, WRITE_ERROR = 0x031100, 0x030C00
UNKNOWN_COMMAND, OUT_OF_RANGE, BAD_FIELD = 0x052000, 0x052100, 0x052400
CHANGED, WAS_RESET = 0x062800, 0x062900
PROTECTED = 0x072700

TEST_UNIT_READY, REQUEST_SENSE, INQUIRY, MODE_SENSE, START_STOP = 0x00, 0x03, 0x12, 0x1A, 0x1B
READ_CAPACITY, READ, WRITE, SYNCHRONIZE = 0x25, 0x28, 0x2A, 0x35
ATA_PASS_THROUGH, READ16, WRITE16, SERVICE_IN = 0x85, 0x88, 0x8A, 0x9E


def fails(call, *args):
    """Return the name of the errno with which a call of a driver fails, as it must."""
    try:
        call(*args)
    except OSError as error:
        return errno.errorcode[error.args[0]]
    raise AssertionError("it did not fail")


_MASS_STORAGE = b"\x08\x06\x50"


class UsbDisk:
    """sectors: their number; size: bytes of each; packet: of bulk endpoints; ep0: of endpoint 0.

    blocks          dict LBA -> bytes, the medium
    commands        SCSI command blocks so far
    requests        control requests so far, as (type, request, value, index)

    What it is: protected, power_cycles (None: a bridge without ATA commands), mode_sense and
    flushes (False: a disk that knows no such command), kind (of device), serial, descriptors.

    Faults. By SCSI opcode, each set: hang (no answer after the command), stall (of the data),
    phase (a phase error), refuse (dict -> sense). attention: sense that the next commands get.
    short: dict opcode -> bytes of data that come instead; lie: without a residue. csw: function of
    the right status packet -> the one that comes. stall_csw: how often the status is stalled;
    stall_cbw: the command. bad: LBAs that cannot be read; lose: writes are forgotten. naks: how
    many for each packet. dead: answers nothing. attention_after_reset: what a mass storage reset
    adds to attention. strict: False where descriptors tell endpoints that are not there.
    """

    def __init__(
        self, sectors, size=512, serial="A0001", packet=64, ep0=64, endpoints=(0x81, 0x02)
    ):
        self.sectors, self.size = sectors, size
        self.serial = serial
        self.packet, self.ep0 = packet, ep0
        self.ep_in, self.ep_out = endpoints
        self.blocks = {}
        self.commands, self.requests = [], []
        self.protected = self.lie = self.lose = self.dead = False
        self.power_cycles = None
        self.mode_sense = self.flushes = True
        self.kind = 0
        self.before = self.after = b""  # descriptors around those of the interface
        self.interface = 0
        self.config = None  # instead of all of it
        self.device = None
        self.hang, self.stall, self.phase, self.bad = set(), set(), set(), set()
        self.refuse, self.short = {}, {}
        self.attention = [WAS_RESET]
        self.attention_after_reset = []
        self.strict = True
        self.csw = None
        self.stall_csw = self.stall_cbw = self.naks = 0
        self._nak = 0
        self.resets = 0
        self.bus_reset()

    # USB 2.0, 9.1: after a reset the device answers at address 0.
    def bus_reset(self):
        self.resets += 1
        self.address = self.configuration = 0
        self._new_address = None
        self._control = None
        self._mass_storage_reset()
        self._halted = set()
        self._toggles = {self.ep_in & 15: 0, self.ep_out & 15 | 16: 0}

    def _mass_storage_reset(self):
        self._phase = "command"
        self._data = self._wrapper = b""
        self._sense = NO_SENSE
        self._wedged = False  # stalls until it is reset (Bulk-Only, 5.3.4)

    # Tokens.

    def setup(self, address, packet):
        if self.dead or address != self.address:
            return None
        assert len(packet) == 8
        kind, request, value, index, length = struct.unpack("<BBHHH", packet)
        self.requests.append((kind, request, value, index))
        self._stalled = False
        self._done = 0
        self._toggle = 1
        self._length = length
        self._control = kind
        answer = self._answer(kind, request, value, index)
        if answer is None:
            self._stalled = True
            answer = b""
        assert kind & 0x80 or not length, "no request with data to the device is known here"
        self._reply = answer[:length]
        return ACK

    # An IN token: (toggle, data), which is given again until acknowledge().
    def get(self, address, endpoint):
        if self.dead or address != self.address:
            return None
        if self._late():
            return NAK
        if endpoint == 0:
            assert self._control is not None, "IN without SETUP"
            if self._stalled:
                return STALL
            if not self._length or not self._control & 0x80:
                return 1, b""  # status stage
            return self._toggle, self._reply[self._done : self._done + self.ep0]
        if not self.configuration or endpoint != self.ep_in & 15:
            assert not self.strict, "not an endpoint"
            return None
        return self._bulk_in()

    def acknowledge(self, endpoint):
        if endpoint == 0:
            if self._length:
                self._done += self.ep0
                self._toggle ^= 1
            elif self._new_address is not None:
                self.address, self._new_address = self._new_address, None
            return
        self._toggles[endpoint] ^= 1
        sent = self._data[: self.packet]
        self._data = self._data[len(sent) :]
        if self._phase == "in":
            # A short packet ends the data, else what was asked for does.
            self._left -= len(sent)
            if len(sent) < self.packet or not self._left:
                self._phase = "status"
        elif self._phase == "status" and not self._data:
            self._phase = "command"

    def put(self, address, endpoint, toggle, data):
        if self.dead or address != self.address:
            return None
        if self._late():
            return NAK
        if endpoint == 0:
            assert self._control is not None and toggle == 1 and not data, "a status stage"
            return STALL if self._stalled else ACK
        key = endpoint | 16
        if not self.configuration or key != self.ep_out & 15 | 16:
            assert not self.strict, "not an endpoint"
            return None
        assert len(data) <= self.packet
        if key in self._halted or self._wedged:
            self._halted.add(key)
            return STALL
        if self._phase == "out" and self._block[0] in self.hang:
            return NAK
        if toggle != self._toggles[key]:
            return ACK  # has it already (8.6.3)
        if self._phase == "command":
            if self.stall_cbw:
                self.stall_cbw -= 1
                self._wedged = True
                self._halted |= {key, self.ep_in & 15}
                return STALL
            self._toggles[key] ^= 1
            self._wrapper += bytes(data)
            if len(data) < self.packet or len(self._wrapper) > 31:
                wrapper, self._wrapper = self._wrapper, b""
                self._begin(wrapper)
            return ACK
        assert self._phase == "out", "data that nobody asked for"
        if self._block[0] in self.stall:
            self._halted.add(key)
            self._phase = "status"
            return STALL
        self._toggles[key] ^= 1
        self._data += bytes(data)
        if len(self._data) >= self._left or len(data) < self.packet:
            self._phase = "status"
            self._write()
        return ACK

    def _late(self):
        if self._nak < self.naks:
            self._nak += 1
            return True
        self._nak = 0
        return False

    # Control requests (9.4, and Bulk-Only 3).
    def _answer(self, kind, request, value, index):
        if (kind, request) == (0x80, 6):
            which = value >> 8
            if which == 1:
                return self.device if self.device is not None else self._device()
            if which == 2 and not value & 0xFF:
                return self.config if self.config is not None else self._config()
            if which == 3 and value & 0xFF == 0:
                return b"\x04\x03\x09\x04"
            if which == 3 and value & 0xFF == 3 and self.serial:
                text = b"".join([bytes((ord(c), 0)) for c in self.serial])
                return bytes((len(text) + 2, 3)) + text
            return None
        if (kind, request) == (0, 5):
            self._new_address = value
            return b""
        if (kind, request) == (0, 9):
            assert self.address, "configured without an address"
            self.configuration = value
            return b""
        if (kind, request) == (0x21, 0xFF):
            assert index == self.interface and not value or not self.strict
            self._mass_storage_reset()
            self.attention += self.attention_after_reset
            return b""
        if (kind, request) == (0xA1, 0xFE):
            return b"\0"
        if (kind, request) == (2, 1):
            if index not in (self.ep_in, self.ep_out):
                assert not self.strict, "halt of no endpoint"
                return None
            assert value == 0
            key = index & 15 | (0 if index & 0x80 else 16)
            if not self._wedged:
                self._halted.discard(key)
            self._toggles[key] = 0
            return b""
        return None

    def _device(self):
        serial = 3 if self.serial else 0
        return struct.pack(
            "<BBHBBBBHHHBBBB",
            18,
            1,
            0x200,
            0,
            0,
            0,
            self.ep0,
            0x152D,
            0x578,
            0x100,
            1,
            2,
            serial,
            1,
        )

    def _config(self):
        body = self.before
        body += bytes((9, 4, self.interface, 0, 2)) + _MASS_STORAGE + b"\0"
        for endpoint in self.ep_in, self.ep_out:
            body += struct.pack("<BBBBHB", 7, 5, endpoint, 2, self.packet, 0)
        body += self.after
        return struct.pack("<BBHBBBBB", 9, 2, 9 + len(body), 1, 1, 0, 0xC0, 0) + body

    # Bulk-Only transport.

    def _bulk_in(self):
        key = self.ep_in & 15
        if key in self._halted or self._wedged:
            self._halted.add(key)
            return STALL
        if self._phase not in ("in", "status") or self._block[0] in self.hang:
            return NAK
        if self._phase == "in" and self._block[0] in self.stall:
            self._halted.add(key)
            self._phase, self._data = "status", b""
            return STALL
        if self._phase == "status" and not self._data:
            if self.stall_csw:
                self.stall_csw -= 1
                self._halted.add(key)
                return STALL
            status = 2 if self._block[0] in self.phase else self._status
            right = struct.pack("<4sIIB", b"USBS", self._tag, self._residue, status)
            self._data = self.csw(right) if self.csw else right
        return self._toggles[key], self._data[: self.packet]

    def _begin(self, packet):
        assert len(packet) == 31, "a command block wrapper has 31 bytes (5.1)"
        signature, self._tag, length, flags, lun, size = struct.unpack("<4sIIBBB", packet[:15])
        assert signature == b"USBC" and not flags & 0x7F and lun == 0 and 1 <= size <= 16
        assert not any(packet[15 + size :])
        self._block = block = packet[15 : 15 + size]
        assert size == (6, 10, 10, None, 16, 12)[block[0] >> 5], "a block of another size"
        self.commands.append(block)
        sense, data, wants = self._execute(block, length)
        out = wants is not None
        self._status = 1 if sense else 0
        if sense:
            self._sense, data = sense, b""
        elif block[0] != REQUEST_SENSE:
            self._sense = NO_SENSE
        if not length:
            assert not data and not (out and wants), "a direction, and no length"
            self._residue, self._phase = 0, "status"
            self._data = b""
        elif flags & 0x80:
            assert not out, "the wrong direction"
            data = data[:length]
            cut = self.short.get(block[0])
            if cut is not None:
                data = data[:cut]
            self._data = data
            self._left = length
            self._residue = 0 if self.lie else length - len(data)
            self._phase = "in"
            # Nothing to send: stall, as devices do (6.7.2, case 4), or an empty packet.
            if not data and sense:
                self._halted.add(self.ep_in & 15)
                self._phase = "status"
        else:
            assert out or sense, "the wrong direction"
            self._left = length
            self._data = b""
            self._residue = 0
            self._phase = "out"
            if sense:
                self._halted.add(self.ep_out & 15 | 16)
                self._residue, self._phase = length, "status"

    # SCSI: (sense, data for the host, bytes wanted from it or None).
    def _execute(self, block, length):
        op = block[0]
        if op in self.refuse:
            return self.refuse[op], b"", 0 if op in (WRITE, WRITE16) else None
        if op == REQUEST_SENSE:
            assert block[4] >= 18
            key, code, qualifier = self._sense >> 16, self._sense >> 8 & 255, self._sense & 255
            self._sense = NO_SENSE
            return (
                0,
                bytes((0x70, 0, key, 0, 0, 0, 0, 10, 0, 0, 0, 0, code, qualifier, 0, 0, 0, 0)),
                None,
            )
        if op == INQUIRY:
            head = bytes((self.kind, 0, 6, 2, 31, 0, 0, 0))
            return 0, (head + b"LIFEBOATDisk of a test  0001")[: block[4]], None
        if self.attention:
            return self.attention.pop(0), b"", 0 if op in (WRITE, WRITE16) else None
        if op in (TEST_UNIT_READY, START_STOP):
            return 0, b"", None
        if op == READ_CAPACITY:
            return 0, struct.pack(">II", min(self.sectors - 1, 0xFFFFFFFF), self.size), None
        if op == SERVICE_IN and block[1] == 0x10:
            assert struct.unpack(">I", block[10:14])[0] >= 32
            return 0, struct.pack(">QI", self.sectors - 1, self.size) + bytes(20), None
        if op == MODE_SENSE and self.mode_sense:
            return 0, bytes((3, 0, 0x80 if self.protected else 0, 0)), None
        if op == SYNCHRONIZE and self.flushes:
            assert not any(block[1:]), "the whole medium, and not IMMED"
            return 0, b"", None
        if op == ATA_PASS_THROUGH and self.power_cycles is not None:
            return 0, self._smart(block), None
        if op in (READ, WRITE, READ16, WRITE16):
            return self._access(block, length)
        return UNKNOWN_COMMAND, b"", None

    def _access(self, block, length):
        write = block[0] in (WRITE, WRITE16)
        assert block[1] == 0, "FUA and protection are nothing for bridges"
        if block[0] in (READ, WRITE):
            lba, _, count = struct.unpack(">IBH", block[2:9])
        else:
            lba, count = struct.unpack(">QI", block[2:14])
        assert length == count * self.size, "the length is not that of the sectors"
        self._lba = lba
        if lba + count > self.sectors:
            return OUT_OF_RANGE, b"", 0 if write else None
        if write:
            return (PROTECTED, b"", 0) if self.protected else (0, b"", length)
        for n in range(lba, lba + count):
            if n in self.bad:
                return UNREADABLE, b"", None
        blank = bytes(self.size)
        return 0, b"".join(self.blocks.get(n, blank) for n in range(lba, lba + count)), None

    def _write(self):
        if not self.lose:
            for i in range(len(self._data) // self.size):
                self.blocks[self._lba + i] = self._data[i * self.size : (i + 1) * self.size]
        self._residue = self._left - len(self._data)
        self._data = b""

    # SMART READ DATA by ATA PASS-THROUGH (16), protocol "PIO data-in" (SAT-3, 12.2).
    def _smart(self, block):
        assert block[1:3] == b"\x08\x0e" and block[4] == 0xD0 and block[6] == 1
        assert (block[10], block[12], block[14]) == (0x4F, 0xC2, 0xB0)
        page = bytearray(512)
        page[2:14] = bytes((9, 0, 0, 0, 0)) + bytes(7)
        page[14:26] = (
            bytes((12, 0, 0, 100, 100)) + self.power_cycles.to_bytes(4, "little") + bytes(3)
        )
        page[511] = -sum(page) & 0xFF
        return bytes(page)


class LoopHost:
    """A host for drivers/usbmsc.py with one port and nothing between it and the device.

    limit: how many tokens without progress stand for the deadline. errors: bulk transfers, by
    number from now on, that end with an error of the bus.
    """

    address = 1

    def __init__(self, device=None, name="usb0", limit=64):
        self.name = name
        self.device = device
        self.limit = limit
        self.errors = set()
        self.bulks = 0
        self._same = False
        self._endpoints = {}

    def insert(self, device):
        self.device = device
        self._same = False

    def present(self):
        return self._same and self.device is not None

    def reset(self):
        self._same = False
        if self.device is None:
            raise OSError(errno.ENODEV)
        self.device.bus_reset()
        self._same = True

    def open(self, endpoint, packet, address):
        assert packet in (8, 16, 32, 64)
        self._endpoints[endpoint] = [packet, 0]
        self._address = address

    def control(self, kind, request, value, index, data, end):
        n = len(data) if data is not None else 0
        self._ask(
            self._at().setup, self._address, struct.pack("<BBHHH", kind, request, value, index, n)
        )
        packet = self._endpoints[0][0]
        done = 0
        toggle = 1
        while done < n:
            got = self._ask(self._at().get, self._address, 0)
            if got == STALL:
                return _STALLED
            assert got[0] == toggle
            toggle ^= 1
            self._at().acknowledge(0)
            data[done : done + len(got[1])] = got[1]
            done += len(got[1])
            if len(got[1]) < packet:
                break
        if kind & 0x80 and n:
            return (
                _STALLED if self._ask(self._at().put, self._address, 0, 1, b"") == STALL else done
            )
        if self._ask(self._at().get, self._address, 0) == STALL:
            return _STALLED
        self._at().acknowledge(0)
        return 0

    def bulk(self, endpoint, data, end):
        self.bulks += 1
        if self.bulks in self.errors:
            raise OSError(errno.EIO)
        state = self._endpoints[endpoint]
        n = len(data)
        done = 0
        while done < n:
            if endpoint & 0x80:
                got = self._ask(self._at().get, self._address, endpoint & 15)
                if got == STALL:
                    return _STALLED
                toggle, packet = got
                if done + len(packet) > n:
                    raise OSError(errno.EIO)  # babble
                if toggle == state[1]:
                    data[done : done + len(packet)] = packet
                    done += len(packet)
                    state[1] ^= 1
                self._at().acknowledge(endpoint & 15)
                if len(packet) < state[0]:
                    break
            else:
                packet = bytes(data[done : done + state[0]])
                if (
                    self._ask(self._at().put, self._address, endpoint & 15, state[1], packet)
                    == STALL
                ):
                    return _STALLED
                state[1] ^= 1
                done += len(packet)
        return done

    def _at(self):
        if not self.present():
            raise OSError(errno.ENODEV)
        return self.device

    def _ask(self, call, *args):
        for _ in range(self.limit):
            answer = call(*args)
            if answer is None:
                raise OSError(errno.EIO)
            if answer != NAK:
                return answer
        raise OSError(errno.ETIMEDOUT)
