"""SPI controller of SiFive's chips (FU540-C000 manual, chapter "SPI"), shaped as MicroPython's
machine.SPI, and its chip select, shaped as machine.Pin.

A transfer keeps the receive FIFO's rule: what went out has come back before the call returns, so
nothing is left over for the next one, and the chip select may change at once. Every wait ends:
OSError(ETIMEDOUT) when the controller does not clock. Buffers have elements of one byte, any
length and any alignment; memoryview slices are taken as they are.

The loops are modules of their own, as those of kernels.py are: sifive_spi_rv32 (assembler, viper)
and, where tests run this without such a machine, sifive_spi_plain.
"""

from errno import ETIMEDOUT

from machine import mem32
from micropython import const

from lifeboat.kernels import arch

_RV32IMC = const(11)

if arch == _RV32IMC:
    from lifeboat.drivers.sifive_spi_rv32 import exchange as _exchange
    from lifeboat.drivers.sifive_spi_rv32 import packets as _packets
    from lifeboat.drivers.sifive_spi_rv32 import put as _put
    from lifeboat.drivers.sifive_spi_rv32 import read as _read
    from lifeboat.drivers.sifive_spi_rv32 import transact as _transact
    from lifeboat.drivers.sifive_spi_rv32 import write as _write
else:
    from lifeboat.drivers.sifive_spi_plain import exchange as _exchange
    from lifeboat.drivers.sifive_spi_plain import packets as _packets
    from lifeboat.drivers.sifive_spi_plain import put as _put
    from lifeboat.drivers.sifive_spi_plain import read as _read
    from lifeboat.drivers.sifive_spi_plain import transact as _transact
    from lifeboat.drivers.sifive_spi_plain import write as _write

# Registers
_SCKDIV = const(0x00)
_SCKMODE = const(0x04)
_CSID = const(0x10)
_CSMODE = const(0x18)
_FMT = const(0x40)
_RXDATA = const(0x4C)
_RXMARK = const(0x54)
_FCTRL = const(0x60)
_IE = const(0x70)

_FIFO = const(8)
_FMT_8_BITS = const(8 << 16)  # single lane, received as well
_FMT_LSB_FIRST = const(1 << 2)
_EMPTY = const(0x80000000)
_CS_AUTO = const(0)
_CS_HOLD = const(2)


class SPI:
    """The bus of the controller at address `base`.

    baudrate    Hz at most; the next lower one that the divider can make is used
    clock       Hz, what the controller is clocked with (FU540: half the core's clock)

    The other arguments are machine.SPI's. Chip selects are not this class's business, see CS.
    """

    MSB = 0
    LSB = 1

    def __init__(
        self,
        base,
        baudrate=1000000,
        *,
        polarity=0,
        phase=0,
        bits=8,
        firstbit=MSB,
        clock=500000000,
    ):
        self._base = base
        self._clock = clock
        self._polarity = self._phase = 0
        self.init(baudrate, polarity, phase, bits, firstbit)

    # What is not given stays as it is. Raises ValueError for what the controller can not do.
    def init(self, baudrate=None, polarity=None, phase=None, bits=8, firstbit=None):
        if bits != 8 or (baudrate is not None and baudrate < 1):
            raise ValueError
        base = self._base
        if baudrate is not None:
            divider = (self._clock + 2 * baudrate - 1) // (2 * baudrate) - 1
            mem32[base + _SCKDIV] = min(max(divider, 0), 0xFFF)
        if polarity is not None:
            self._polarity = 1 if polarity else 0
        if phase is not None:
            self._phase = 1 if phase else 0
        mem32[base + _SCKMODE] = self._polarity << 1 | self._phase
        if firstbit is not None:
            mem32[base + _FMT] = _FMT_8_BITS | (_FMT_LSB_FIRST if firstbit else 0)
        # The first controller comes out of reset mapping a flash into memory.
        mem32[base + _FCTRL] = 0
        mem32[base + _IE] = 0
        mem32[base + _RXMARK] = _FIFO - 1  # "pending" means: eight bytes have come
        self._drain()

    # There is nothing to switch off.
    def deinit(self):
        pass

    def read(self, nbytes, write=0):
        buf = bytearray(nbytes)
        self.readinto(buf, write)
        return bytes(buf)

    def readinto(self, buf, write=0):
        if not _read(self._base, buf, write & 0xFF):
            self._failed()

    def write(self, buf):
        if not _write(self._base, buf):
            self._failed()

    def write_readinto(self, write_buf, read_buf):
        if len(write_buf) != len(read_buf):
            raise ValueError("buffers must be the same length")
        if not _exchange(self._base, write_buf, read_buf):
            self._failed()

    # Not among machine.SPI's methods; drivers do the same in steps where a bus does not have them.
    #
    # transact(cs, head, out, into): select, write head (at most eight bytes), write out or else
    # read into (what is empty is left out), release. cs is the CS of this controller, not
    # selected.
    # packets(buf, size, token, sums): pass over some bytes 0xFF, as long as none else comes; after
    # a byte `token` read `size` bytes, a multiple of 8, into buf and two into sums; until buf is
    # full or another byte comes, which goes into sums. Returns how many packets came.
    # put(head, data, tail): write these, and return the first byte that comes back after them and
    # is not 0xFF; 0xFF when the next few bytes bring none.
    transact = _transact
    packets = _packets
    put = _put

    # A transfer did not end: what has not come by now never comes.
    def _failed(self):
        self._drain()
        raise OSError(ETIMEDOUT)

    def _drain(self):
        for _ in range(_FIFO):
            if mem32[self._base + _RXDATA] & _EMPTY:
                break


class CS:
    """The chip select of the controller at address `base`: cs(0) selects, cs(1) releases."""

    OUT = 1

    def __init__(self, base):
        self._base = base
        mem32[base + _CSID] = 0
        self(1)

    # As machine.Pin's; only `value` has a meaning here.
    def init(self, *args, value=None, **kwargs):
        if value is not None:
            self(value)

    # AUTO releases at once and selects for the time of a frame (so does Linux's driver). OFF,
    # which never selects, is taken for selected by QEMU.
    def __call__(self, value=None):
        if value is None:
            return self._value
        self._value = 1 if value else 0
        mem32[self._base + _CSMODE] = _CS_AUTO if value else _CS_HOLD

    value = __call__
