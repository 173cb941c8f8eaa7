"""SiFive's SPI controller at register level, with a device on its bus.

It holds the driver to the FU540 manual where QEMU's model is lenient: frames take time, FIFOs
overflow, the controller starts out mapping a flash, reserved registers are errors.

A device has select(), release() and exchange(byte) -> byte.
"""

SCKDIV, SCKMODE, CSID, CSDEF, CSMODE = 0x00, 0x04, 0x10, 0x14, 0x18
DELAY0, DELAY1, FMT, TXDATA, RXDATA, TXMARK, RXMARK = 0x28, 0x2C, 0x40, 0x48, 0x4C, 0x50, 0x54
FCTRL, FFMT, IE, IP = 0x60, 0x64, 0x70, 0x74
EMPTY = 1 << 31
AUTO, HOLD, OFF = 0, 2, 3
FIFO = 8


class Recorder:
    """A device that answers with a pattern and keeps what it was sent, one list per selection."""

    def __init__(self):
        self.frames = []
        self.sent = 0

    def select(self):
        self.frames.append([])

    def release(self):
        pass

    def exchange(self, byte):
        self.frames[-1].append(byte)
        self.sent += 1
        return self.answer(self.sent - 1)

    @staticmethod
    def answer(i):
        return (i * 7 + 3) & 0xFF


class Controller:
    """pace: register accesses that a frame takes. stuck: frames that still work, None for all."""

    def __init__(self, device, pace=0):
        self.device = device
        self.pace = pace
        self.stuck = None
        self.regs = {
            SCKDIV: 3,
            SCKMODE: 0,
            CSID: 0,
            CSDEF: 1,
            CSMODE: AUTO,
            DELAY0: 0x10001,
            DELAY1: 1,
            FMT: 0x80000,
            TXMARK: 0,
            RXMARK: 0,
            FCTRL: 1,
            FFMT: 0x30007,
            IE: 0,
        }
        self._tx, self._rx = [], []
        self._selected = False
        self._wait = 0

    def _clock(self):
        while self._tx and self.stuck != 0:
            if self._wait:
                self._wait -= 1
                return
            self._wait = self.pace
            if self.stuck:
                self.stuck -= 1
            self._frame(self._tx.pop(0))

    def _frame(self, byte):
        assert self.regs[CSMODE] != OFF, "a frame that nobody can see"
        if not self._selected:
            self.device.select()
            self._selected = True
        byte = self.device.exchange(byte)
        if self.regs[CSMODE] == AUTO:
            self._release()
        assert len(self._rx) < FIFO, "the receive FIFO overflows"
        self._rx.append(byte)

    def _release(self):
        if self._selected:
            self.device.release()
            self._selected = False

    def read32(self, offset):
        self._clock()
        if offset == TXDATA:
            return EMPTY if len(self._tx) == FIFO else 0
        if offset == RXDATA:
            return self._rx.pop(0) if self._rx else EMPTY
        if offset == IP:
            return (len(self._tx) < self.regs[TXMARK]) | (len(self._rx) > self.regs[RXMARK]) << 1
        return self.regs[offset]

    def write32(self, offset, value):
        self._clock()
        assert offset not in (RXDATA, IP), "register %#x is read-only" % offset
        if offset == TXDATA:
            assert self.regs[FCTRL] == 0, "the flash is mapped: the FIFO is not connected"
            assert self.regs[FMT] == 0x80000, "not 8 bits, both ways, one lane, MSB first"
            assert len(self._tx) < FIFO, "the transmit FIFO overflows"
            self._tx.append(value & 0xFF)
            self._clock()
            return
        assert offset in self.regs, "register %#x is reserved" % offset
        assert not self._tx or offset == IE, "register %#x changes during a frame" % offset
        self.regs[offset] = value
        if offset in (CSMODE, CSID):
            self._release()
