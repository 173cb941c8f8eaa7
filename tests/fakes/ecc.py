"""A port's flash object over flash with error correction: a unit is programmed once.

Such flash keeps a code for every 8, 16 or 32 bytes (STM32L4: 8, RM0351 "Flash memory", "Error code
correction"; STM32U5: 16, RM0456; STM32H7: 32, RM0433). Between two erases a unit can be programmed
once, all of it: a second time its code would fit neither. One wrong bit is corrected, more are an
error of the read. A power cut leaves the unit that was being programmed, and each of a block that
was being erased, with a code that fits nothing.
"""

from sim.power import Power

_OWN_ERROR = -261  # as a port's own numbers


class EccPort:
    """What PortFlash wraps: ioctl, and readblocks and writeblocks with an offset in a block.

    data: bytearray, the content; units of 0xFF only count as erased. Programming a unit twice, or
    a part of one, is an AssertionError. wrong: {number of a unit: wrong bits in it}.
    endurance: after so many erases of a block the units that are programmed there hold nothing.
    """

    label = "flash"

    def __init__(self, data, size, unit, power=None, endurance=0):
        self.data = data
        self.size = size
        self.unit = unit
        self.power = power or Power()
        self.endurance = endurance
        self.wrong = {}
        self.erases = [0] * (len(data) // size)
        self.programmed = {
            n for n in range(len(data) // unit) if self._bytes(n) != b"\xff" * unit
        }  # fmt: skip

    def _bytes(self, n):
        return self.data[n * self.unit : (n + 1) * self.unit]

    # The units of these bytes.
    def _units(self, at, length):
        return range(at // self.unit, (at + length + self.unit - 1) // self.unit)

    def ioctl(self, op, arg):
        if op == 6:
            self._erase(arg)
        return {4: len(self.data) // self.size, 5: self.size}.get(op, 0)

    def readblocks(self, block, buf, offset):
        at = block * self.size + offset
        if any(self.wrong.get(n, 0) > 1 for n in self._units(at, len(buf))):
            return _OWN_ERROR
        buf[:] = self.data[at : at + len(buf)]

    def writeblocks(self, block, buf, offset):
        at = block * self.size + offset
        assert at % self.unit == 0 and len(buf) % self.unit == 0, "a part of a unit"
        for n in self._units(at, len(buf)):
            assert n not in self.programmed, "unit %d programmed twice" % n
            start = n * self.unit - at
            where = n * self.unit
            self.power.operation(self, "program", where)
            self.programmed.add(n)
            self.data[where : where + self.unit] = buf[start : start + self.unit]
            if self.endurance and self.erases[where // self.size] > self.endurance:
                self.wrong[n] = 2

    def tear(self, name, at, data, shape):
        for n in self._units(at, self.size if name == "erase" else self.unit):
            self.programmed.add(n)
            self.wrong[n] = 2

    def _erase(self, block):
        at = block * self.size
        units = self._units(at, self.size)
        self.power.operation(self, "erase", at)
        self.erases[block] += 1
        self.data[at : at + self.size] = b"\xff" * self.size
        self.programmed.difference_update(units)
        for n in units:
            self.wrong.pop(n, None)
