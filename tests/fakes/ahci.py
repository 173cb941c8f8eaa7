"""AHCI controllers on PCI Express, and the SATA disks behind them, at the level of registers.

The model follows AHCI 1.3.1 and ATA8-ACS (section numbers in the code), not any driver. What the
specification forbids software to do is an AssertionError here; what devices may do wrong is
injected. Time is that of a clock with the attribute `us`.

    pci = Pci(mmio, memory, clock)
    hba = pci.controller(device=1)
    hba.connect(0, Disk())
"""

from dataclasses import dataclass

ECAM = 0x30000000
WINDOW = 0x40000000  # where memory of PCI devices may lie
ATA, ATAPI, BRIDGE, MULTIPLIER = 0x00000101, 0xEB140101, 0xC33C0101, 0x96690101

# PxIS (3.3.5)
TFES, HBFS, HBDS, IFS, INFS, OFS = (1 << n for n in (30, 29, 28, 27, 26, 24))
_DHRS, _PSS = 1, 2
# PxSERR (3.3.12)
EXCHANGED, PHY_CHANGED = 1 << 26, 1 << 16
# ATA status
BSY, DRDY, DF, DRQ, ERR = 0x80, 0x40, 0x20, 0x08, 0x01
# ATA error
UNC, IDNF, ABRT = 0x40, 0x10, 0x04

_PORT_COUNT = 6


class Pci:
    """PCI Express bus 0: configuration space, and the window in which BARs are given addresses."""

    def __init__(self, mmio, memory, clock):
        self.memory = memory
        self.clock = clock
        self._functions = {}
        mmio.attach(ECAM, 1 << 20, self)
        mmio.attach(WINDOW, 1 << 30, _Window(self._functions))

    def controller(self, device=1, function=0):
        """Add a SATA controller."""
        self._functions[device, function] = hba = Hba(self)
        return hba

    def bridge(self, device, many=False):
        """Add a function that is no SATA controller. many: its device has several functions."""
        self._functions[device, 0] = other = Function(0x06010000, many)
        return other

    def _function(self, offset):
        assert offset < 1 << 20, "bus 0 ends here"
        return self._functions.get((offset >> 15, offset >> 12 & 7)), offset & 0xFFF

    def read32(self, offset):
        function, register = self._function(offset)
        return function.config_read(register) if function else 0xFFFFFFFF

    def write32(self, offset, value):
        function, register = self._function(offset)
        if function:
            function.config_write(register, value)


class _Window:
    def __init__(self, functions):
        self._functions = functions

    def _decode(self, offset):
        for f in self._functions.values():
            if f.enabled and f.bar <= WINDOW + offset < f.bar + f.size:
                return f, WINDOW + offset - f.bar
        raise AssertionError("no device decodes %#x" % (WINDOW + offset))

    def read32(self, offset):
        f, register = self._decode(offset)
        return f.read32(register)

    def write32(self, offset, value):
        f, register = self._decode(offset)
        f.write32(register, value)


class Function:
    """A PCI function; BAR5 is its only memory. size: 0 for none, else a power of two."""

    size = 0

    def __init__(self, class_code, many=False):
        self._class = class_code
        self._header = 0x800000 if many else 0
        self.command = 0
        self.status = 0x4000  # "signalled system error": cleared by writing a one
        self.bar = 0

    @property
    def enabled(self):
        return self.command & 2 and self.size

    @property
    def master(self):
        return bool(self.command & 4)

    def config_read(self, register):
        return {
            0x00: 0x29228086,
            0x04: self.status << 16 | self.command,
            0x08: self._class << 8 | 2 if self._class < 1 << 24 else self._class,
            0x0C: self._header,
            0x24: self.bar,
        }.get(register, 0)

    def config_write(self, register, value):
        if register == 0x04:
            self.command = value & 0x547
            self.status &= ~(value >> 16)
        elif register == 0x24 and self.size:
            self.bar = value & -self.size & 0xFFFFFFFF
        else:
            raise AssertionError("write to configuration register %#x" % register)


class Hba(Function):
    """A controller with six ports and staggered spin-up."""

    size = 0x800

    def __init__(self, pci):
        super().__init__(0x010601)
        self.memory = pci.memory
        self.ports = [Port(self, pci.clock) for _ in range(_PORT_COUNT)]
        self._aware = False

    def connect(self, port, disk):
        self.ports[port].disk = disk
        return self.ports[port]

    def read32(self, offset):
        if offset == 0x04:
            return 0x80000000 if self._aware else 0
        assert self._aware, "GHC.AE comes before everything else (3.1.2)"
        if offset >= 0x100:
            return self.ports[(offset - 0x100) >> 7].read(offset & 0x7F)
        return {
            0x00: 0x08041F00 | _PORT_COUNT - 1,  # SSS, 32 slots, 32-bit addresses
            0x0C: (1 << _PORT_COUNT) - 1,
            0x10: 0x00010301,
        }.get(offset, 0)

    def write32(self, offset, value):
        if offset == 0x04:
            assert value & 3 == 0, "interrupts, or a reset of all ports"
            self._aware = bool(value >> 31)
            return
        assert self._aware, "GHC.AE comes before everything else (3.1.2)"
        assert offset >= 0x100, "write to host register %#x" % offset
        self.ports[(offset - 0x100) >> 7].write(offset & 0x7F, value)


@dataclass
class Outcome:
    """How a command goes wrong. ms: how long it takes; None: for ever.

    interrupts: PxIS bits; fatal ones keep it from completing. status, error: ATA registers.
    stuck: PxCMD.CR stays set until a COMRESET. counted: the bytes that PRDBC counts (None: all);
    of a read no more reach memory.
    """

    ms: float = 0.1
    interrupts: int = 0
    status: int = DRDY
    error: int = 0
    serr: int = 0
    stuck: bool = False
    counted: int | None = None


@dataclass
class Command:
    """A command as it came from the table in memory."""

    code: int
    lba: int
    count: int
    write: bool
    pieces: list  # (address, length)
    counted: int | None = None  # as in Outcome


class Port:
    """A port of a controller. Attributes that tests use:

    disk       what is connected, or None
    commands   Command objects so far
    resets     COMRESETs so far
    plan       Outcome objects for the next commands, in this order
    det        PxSSTS.DET as it will be once the link has been negotiated
    link_ms    how long that takes
    spun_up_at when PxCMD.SUD was set (10.1.1), in us
    """

    def __init__(self, hba, clock):
        self.disk = None
        self.commands = []
        self.resets = 0
        self.plan = []
        self.det = 3
        self.link_ms = 5
        self.spun_up_at = None
        self._hba = hba
        self._clock = clock
        self._list = self._fis = 0
        self._is = 0
        self._ie = 0
        self._cmd = 0
        self._tfd = 0x7F
        self._sig = 0xFFFFFFFF
        self._det = 0
        self._sctl = 0
        self._serr = 0
        self._ci = 0
        self._due = []  # (time in us, what happens then)
        self._first_fis = None  # received, not posted yet
        self._running = None  # (Command, Outcome)
        self._dead = False  # after a fatal error, until ST is cleared
        self._stuck = False

    # registers

    def read(self, register):
        self._happen()
        return {
            0x00: self._list,
            0x08: self._fis,
            0x10: self._is | self._reflected(),
            0x14: self._ie,
            0x18: self._cmd,
            0x20: self._tfd,
            0x24: self._sig,
            0x28: self._det | (0x110 if self._det == 3 else 0),
            0x2C: self._sctl,
            0x30: self._serr,
            0x38: self._ci,
        }.get(register, 0)

    def write(self, register, value):
        self._happen()
        if register == 0x00:
            assert value % 1024 == 0, "PxCLB is aligned to 1024 bytes (3.3.1)"
            assert not self._cmd & 0x8001, "PxCLB changed while running"
            self._list = value
        elif register == 0x08:
            assert value % 256 == 0, "PxFB is aligned to 256 bytes (3.3.3)"
            assert not self._cmd & 0x4010, "PxFB changed while receiving"
            self._fis = value
        elif register in (0x04, 0x0C):
            assert value == 0, "no 64-bit addresses here"
        elif register == 0x10:
            self._is &= ~value
        elif register == 0x14:
            self._ie = value
        elif register == 0x18:
            self._write_cmd(value)
        elif register == 0x2C:
            self._write_sctl(value)
        elif register == 0x30:
            self._serr &= ~value
            self._post_first_fis()
        elif register == 0x38:
            if not value:
                return  # zeros change nothing (3.3.14)
            assert self._cmd & 0x8001 == 0x8001, "PxCI is set while running only (3.3.14)"
            self._ci |= value
            if not self._dead:
                self._start_command()
        else:
            raise AssertionError("write to port register %#x" % register)

    def _reflected(self):
        return (self._serr & EXCHANGED) >> 20 | (self._serr & PHY_CHANGED) << 6

    def _write_cmd(self, value):
        set_, cleared = value & ~self._cmd, self._cmd & ~value
        if set_ & 0x01:  # ST, 10.3.1
            assert not self._cmd & 0x8000, "ST set while CR is"
            assert self._cmd & 0x4010 == 0x4010, "ST set before FIS reception"
            assert not self._tfd & (BSY | DRQ), "ST set while the disk is busy"
            assert self._det == 3, "ST set without a device"
            assert self._sctl & 15 == 0, "ST set during a COMRESET"
            self._cmd |= 0x8000
        if cleared & 0x01:
            self._ci = 0
            self._dead = False
            self._running = None  # the disk may still work on it: BSY stays as it is
            self._after(0.2, self._stopped)
        if cleared & 0x10:  # FRE, 10.3.2
            assert not (self._cmd | value) & 0x8001, "FRE cleared while running"
            self._after(0.2, self._deaf)
        if set_ & 0x10:
            assert self._fis, "FRE set without a place for FISes"
            self._memory(self._fis, 256)
            self._cmd |= 0x4000
        spun_up = set_ & 0x02 and self._sctl & 15 == 0
        self._cmd = self._cmd & 0xC000 | value & ~0xC000
        if set_ & 0x10:
            self._post_first_fis()
        if spun_up:
            self.spun_up_at = self._clock.us
            self._negotiate()

    def _stopped(self):
        if not self._stuck and not self._cmd & 1:
            self._cmd &= ~0x8000

    def _deaf(self):
        if not self._cmd & 0x10:
            self._cmd &= ~0x4000

    # 10.4.2
    def _write_sctl(self, value):
        old, det = self._sctl & 15, value & 15
        assert det in (0, 1), "other than COMRESET"
        self._sctl = value
        if det == old:
            return
        assert not self._cmd & 1, "PxSCTL.DET changed while running (3.3.11)"
        if det == 1:
            self.resets += 1
            self._reset_at = self._clock.us
            self._tfd, self._det = 0x7F, 0
            self._due = []
            self._stuck = False
            self._first_fis = None
            self._cmd &= ~0x8000
            self._after(0.2, self._deaf)
        else:
            assert self._clock.us - self._reset_at >= 1000, "COMRESET lasts 1 ms at least"
            self._negotiate()

    # time

    def _after(self, ms, what):
        self._due.append((self._clock.us + ms * 1000, what))
        self._due.sort(key=_when)

    def _happen(self):
        while self._due and self._due[0][0] <= self._clock.us:
            self._due.pop(0)[1]()

    # link

    def _negotiate(self):
        if not self.disk:
            return
        if self.det == 3:
            self._after(self.link_ms, self._link_up)
        else:
            self._det = self.det

    def _link_up(self):
        self._det = 3
        self._serr |= EXCHANGED | PHY_CHANGED
        self._tfd = BSY
        self._after(self.disk.spin_up_ms, self._receive_signature)

    def _receive_signature(self):
        self._first_fis = self.disk.signature
        self._post_first_fis()

    # The first FIS waits until it is wanted, and until software has seen that a device came
    # (5.3.5: P:NotRunning, FRE set and PxSERR.DIAG.X clear).
    def _post_first_fis(self):
        if self._first_fis is None or not self._cmd & 0x4000 or self._serr & EXCHANGED:
            return
        self._sig, self._first_fis = self._first_fis, None
        self._tfd = 0x0100 | DRDY  # diagnostics passed
        self._post(0x40, 0x34, 20)

    def pull(self):
        """Take the disk away; a running command never ends."""
        self.disk, disk = None, self.disk
        self._det = 0
        self._serr |= PHY_CHANGED
        self._due, self._running = [], None
        return disk

    def push(self, disk):
        """Connect a disk to a working port."""
        self.disk = disk
        self._negotiate()

    def exchange(self, disk):
        """Take the disk away and put another one in its place."""
        self.pull()
        self.push(disk)

    # commands

    def _memory(self, address, length):
        assert self._hba.master, "DMA without bus master enable"
        return self._hba.memory.at(address, length)

    def _word(self, address):
        return int.from_bytes(self._memory(address, 4), "little")

    def _post(self, offset, kind, length):
        self._memory(self._fis, 256)[offset : offset + length] = bytes([kind]) * length

    def _start_command(self):
        assert self._ci == 1, "slots besides the first"
        assert not self._tfd & (BSY | DRQ), "command while the disk is busy"
        command = self._fetch()
        self.commands.append(command)
        outcome = self.plan.pop(0) if self.plan else Outcome()
        command.counted = outcome.counted
        self._running = command, outcome
        self._tfd = BSY
        self._stuck = outcome.stuck
        if outcome.ms is not None:
            self._after(outcome.ms, lambda: self._complete(command, outcome))

    # Command header, table, FIS and PRDT (4.2).
    def _fetch(self):
        header = self._word(self._list)
        table = self._word(self._list + 8)
        assert header & 0x1F == 5, "a register FIS has 5 words"
        assert not header & 0xFF80 | header & 0x20, "flags other than write"
        assert table % 128 == 0, "CTBA is aligned to 128 bytes (4.2.2)"
        assert self._word(self._list + 12) == 0, "no 64-bit addresses here"
        fis = bytes(self._memory(table, 64))
        assert fis[:2] == b"\x27\x80", "no command FIS"
        assert fis[3] == Disk.FEATURES.get(fis[2], 0), "features"
        assert fis[11] == 0 and not any(fis[14:20]), "control or reserved"
        pieces = []
        for i in range(header >> 16):
            at = table + 0x80 + 16 * i
            address, length = self._word(at), (self._word(at + 12) & 0x3FFFFF) + 1
            assert address % 2 == 0 and length % 2 == 0, "DBA and DBC are even (4.2.3)"
            assert self._word(at + 4) == 0 and not self._word(at + 12) >> 22
            pieces.append((address, length))
        lba, count = int.from_bytes(fis[4:7], "little"), fis[12] | fis[13] << 8
        if fis[2] in Disk.EXT:
            lba |= int.from_bytes(fis[8:11], "little") << 24
            assert fis[7] & 0x4F == 0x40, "LBA mode"
        else:
            assert not any(fis[8:11]) and not fis[13], "28-bit command with 48-bit registers"
            assert fis[7] & 0x40, "LBA mode"
            lba |= (fis[7] & 15) << 24
        return Command(fis[2], lba, count, bool(header & 0x40), pieces)

    def _complete(self, command, outcome):
        if self._running is None or self._running[0] is not command:
            return  # the port was stopped: nothing of it reaches memory any more
        self._running = None
        status, error = outcome.status, outcome.error
        fatal = outcome.interrupts & (TFES | HBFS | HBDS | IFS)
        done = 0
        if not fatal and not status & (ERR | DF):
            status, error, done = self.disk.execute(command, self._memory)
        self._is |= outcome.interrupts | (_PSS if command.code in Disk.PIO else _DHRS)
        if status & ERR:
            self._is |= TFES
        self._serr |= outcome.serr
        self._tfd = error << 8 | status
        if fatal or status & ERR:
            self._dead = True  # PxCI keeps the bit (6.2.2)
            return
        self._memory(self._list + 4, 4)[:] = done.to_bytes(4, "little")
        self._post(0x40, 0x34, 20)
        self._ci = 0


def _when(event):
    return event[0]


class Disk:
    """A SATA disk. sectors: sparse content, LBA -> bytes.

    lba48, flush_ext: whether it has the 48-bit commands. words: IDENTIFY words to change after the
    checksum was made. checksum: False for a disk from before there was one. power_cycles: its
    SMART attribute 12; None: it has no SMART.

    standby: it stays in standby at power-up until SET FEATURES 07h (ATA8-ACS 4.18); the value is
    IDENTIFY word 2 until then (7.16.7.4): 37C8h or 8C73h with an IDENTIFY that is not complete,
    738Ch with a complete one. 0: it spins up by itself. deaf: it aborts that command.
    locked: by ATA security (4.20, 7.16.7.62): commands that reach the medium are aborted.
    """

    IDENTIFY, SMART = PIO = (0xEC, 0xB0)
    READ, WRITE, FLUSH = 0xC8, 0xCA, 0xE7
    READ_EXT, WRITE_EXT, FLUSH_EXT = EXT = (0x25, 0x35, 0xEA)
    SET_FEATURES = 0xEF
    FEATURES = {SMART: 0xD0, SET_FEATURES: 0x07}  # the only subcommands that are known here

    def __init__(self, count=1 << 20, size=512, lba48=True, flush_ext=None, signature=ATA):
        self.count = count
        self.size = size
        self.lba48 = lba48
        self.flush_ext = lba48 if flush_ext is None else flush_ext
        self.signature = signature
        self.serial = "SN 0001"
        self.model = "Model of a disk"
        self.spin_up_ms = 50
        self.words = {}
        self.checksum = True
        self.power_cycles = None
        self.sectors = {}
        self.standby = 0
        self.deaf = self.locked = False

    def execute(self, command, memory):
        """Returns ATA status and error, and how many bytes were transferred."""
        code = command.code
        if code == self.SET_FEATURES and self.standby and not self.deaf:
            assert not command.pieces and not command.write
            self.standby = 0
            return DRDY, 0, 0
        if (self.standby or self.locked) and code != self.IDENTIFY:
            return DRDY | ERR, ABRT, 0
        if code == self.IDENTIFY:
            return self._transfer(command, memory, self._identify())
        if code == self.SMART and self.power_cycles is not None:
            assert command.lba == 0xC24F00, "SMART's signature"
            return self._transfer(command, memory, self._attributes())
        if code in (self.READ_EXT, self.WRITE_EXT) and self.lba48:
            return self._move(command, memory, command.count or 65536)
        if code in (self.READ, self.WRITE):
            return self._move(command, memory, command.count or 256)
        if code == self.FLUSH or code == self.FLUSH_EXT and self.flush_ext:
            assert not command.pieces
            return DRDY, 0, 0
        return DRDY | ERR, ABRT, 0

    def _move(self, command, memory, count):
        assert command.write == (command.code in (self.WRITE, self.WRITE_EXT)), "direction"
        if command.lba + count > self.count:
            return DRDY | ERR, IDNF, 0
        size = self.size
        if not command.write:
            blank = bytes(size)
            get = self.sectors.get
            data = b"".join(get(command.lba + i, blank) for i in range(count))
            return self._transfer(command, memory, data)
        data = b"".join(memory(at, n) for at, n in command.pieces)
        assert len(data) == count * size, "PRDT and sector count differ"
        for i in range(count):
            self.sectors[command.lba + i] = data[i * size : (i + 1) * size]
        return DRDY, 0, len(data) if command.counted is None else command.counted

    def _transfer(self, command, memory, data):
        assert not command.write, "direction"
        assert sum(n for _, n in command.pieces) == len(data), "PRDT and sector count differ"
        data = data[: command.counted]
        done = 0
        for at, n in command.pieces:
            part = data[done : done + n]
            memory(at, n)[: len(part)] = part
            done += len(part)
        return DRDY, 0, done

    # SFF-8035i: a revision, 30 attributes of 12 bytes (id, flags, value, worst, raw), a checksum
    def _attributes(self):
        data = bytearray(512)
        for i, (number, raw) in enumerate(((1, 7), (9, 1000), (12, self.power_cycles))):
            at = 2 + 12 * i
            data[at], data[at + 5 : at + 9] = number, raw.to_bytes(4, "little")
        data[511] = -sum(data) & 0xFF
        return bytes(data)

    # ATA8-ACS 7.16.7
    def _identify(self):
        words = [0] * 256
        words[2] = self.standby or 0xC837
        words[83] = 0x4060  # power-up in standby, and the command that ends it
        words[128] = 0x0021 | self.locked << 1 | self.locked << 2
        if self.standby in (0x37C8, 0x8C73):
            words[0] = 0x0044
            return _bytes(words)
        words[0] = 0x0040
        words[10:20] = _text(self.serial, 10)
        words[27:47] = _text(self.model, 20)
        words[49] = 0x0300  # DMA, LBA
        small = min(self.count, (1 << 28) - 1)
        words[60:62] = small & 0xFFFF, small >> 16
        words[83] |= self.lba48 << 10 | 1 << 12 | self.flush_ext << 13
        if self.lba48:
            words[100:104] = (self.count >> 16 * i & 0xFFFF for i in range(4))
        words[85] = self.power_cycles is not None
        words[87] = 0x4000
        words[106] = 0x4000
        if self.size != 512:
            words[106] |= 0x1000
            words[117:119] = self.size // 2 & 0xFFFF, self.size // 2 >> 16
        if self.checksum:
            words[255] = 0x00A5
            words[255] |= (-sum(w & 0xFF for w in words) - sum(w >> 8 for w in words) & 0xFF) << 8
        for i, word in self.words.items():
            words[i] = word
        return _bytes(words)


def _bytes(words):
    return b"".join(w.to_bytes(2, "little") for w in words)


def _text(text, words):
    raw = text.ljust(2 * words).encode("latin-1")
    return [raw[i] << 8 | raw[i + 1] for i in range(0, 2 * words, 2)]
