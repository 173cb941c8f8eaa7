"""OHCI controllers on PCI Express, at the level of registers and lists, with fakes.usbdisk behind.

Written from OpenHCI 1.0a (section numbers in the code), not from the driver. What it forbids
software to do is an AssertionError. Time passes when the driver looks at the clock: frames are
worked through then.

    pci = Pci(mmio, memory, clock)
    hc = pci.controller(device=2)
    hc.connect(0, UsbDisk(1 << 20))
"""

from fakes.usbdisk import ACK, NAK, STALL

ECAM = 0x30000000
WINDOW = 0x41000000

CONNECTED, ENABLED, RESET, POWER, LOW_SPEED = 0x1, 0x2, 0x10, 0x100, 0x200
CONNECT_CHANGED, RESET_CHANGED = 0x10000, 0x100000
_PACKETS_A_FRAME = 19
_ROOT_RESET_NS = 10000000
# Condition codes (4.3.3).
CRC, STALLED, GONE, OVERRUN, UNDERRUN = 1, 4, 5, 8, 9


class Clock:
    """Time that passes at each look at it, and by sleeping; controllers live in it."""

    def __init__(self, step_ns=100000):
        self.ns = 0
        self.step_ns = step_ns
        self.controllers = []

    def ticks_ms(self):
        self._pass(self.step_ns)
        return self.ns // 1000000

    def sleep_ms(self, ms):
        self._pass(ms * 1000000)

    def _pass(self, ns):
        end = self.ns + ns
        while self.ns < end:
            self.ns = min(end, self.ns - self.ns % 1000000 + 1000000)
            if not self.ns % 1000000:
                for controller in self.controllers:
                    controller.frame()


class Pci:
    """Bus 0: configuration space and a window for the controllers' registers."""

    def __init__(self, mmio, memory, clock):
        self.memory = memory
        self.clock = clock
        self.functions = {}
        mmio.attach(ECAM, 1 << 20, self)
        mmio.attach(WINDOW, 1 << 16, _Window(self.functions))

    def controller(self, device, function=0, ports=3):
        self.functions[device, function] = made = Controller(self, ports)
        self.clock.controllers.append(made)
        return made

    def read32(self, offset):
        function = self.functions.get((offset >> 15, offset >> 12 & 7))
        return function.config.get(offset & 0xFFF, 0) if function else 0xFFFFFFFF

    def write32(self, offset, value):
        function = self.functions[offset >> 15, offset >> 12 & 7]
        assert offset & 0xFFF in (0x04, 0x10), "nothing to be written"
        assert offset & 0xFFF != 4 or not value >> 16, "status bits are cleared by ones"
        function.config[offset & 0xFFF] = value


class _Window:
    def __init__(self, functions):
        self._functions = functions

    def _find(self, offset):
        for function in self._functions.values():
            if function.config[0x10] == WINDOW + (offset & ~0xFFF) and function.config[4] & 6 == 6:
                return function, offset & 0xFFF
        raise AssertionError("no device decodes %#x" % (WINDOW + offset))

    def read32(self, offset):
        function, register = self._find(offset)
        return function.read(register)

    def write32(self, offset, value):
        function, register = self._find(offset)
        function.write(register, value)


class Controller:
    """codes: condition codes that the next transfer descriptors end with. stuck: it works through
    no list. deaf: a reset does not end. frames: how many it began."""

    def __init__(self, pci, ports, many=False):
        self.memory = pci.memory
        self.clock = pci.clock
        self.config = {4: 0, 8: 0x0C031000, 0x0C: 0, 0x10: 0}
        self.devices = [None] * ports
        self.slow = set()
        self.codes = []
        self.stuck = self.deaf = False
        self.frames = 0
        self._status = [0] * ports
        self._reset_at = [None] * ports
        self._reset()

    def connect(self, port, device):
        self.devices[port] = device
        self._status[port] &= ~(CONNECTED | ENABLED)
        if device:
            self._status[port] |= CONNECTED
        self._status[port] |= CONNECT_CHANGED

    def _reset(self):
        self.registers = dict.fromkeys(range(0, 0x54, 4), 0)
        self.registers[0x34] = 0x2EDF
        self.registers[0x48] = 10 << 24 | len(self.devices)

    @property
    def running(self):
        return self.registers[4] >> 6 & 3 == 2

    def read(self, register):
        if register >= 0x54:
            n = (register - 0x54) // 4
            low = LOW_SPEED if n in self.slow and self.devices[n] else 0
            return self._status[n] | low
        return self.registers[register]

    def write(self, register, value):
        if register >= 0x54:
            return self._write_port((register - 0x54) // 4, value)
        if register == 0x08:
            if value & 1:
                self._reset()
                self.registers[8] = 1 if self.deaf else 0
            else:
                assert self.running
                self.registers[8] |= value
        elif register == 0x0C:
            self.registers[0x0C] &= ~value
        elif register == 0x14:
            assert value & 0x80000000
        elif register == 0x50:
            assert value == 1 << 16, "power for all ports"
        else:
            assert register in (0x04, 0x18, 0x20, 0x28, 0x34, 0x40), hex(register)
            if register == 0x18:
                assert value % 256 == 0 and not any(self.memory.at(value, 256)), "HCCA (4.4)"
            if register in (0x20, 0x28):
                assert value % 16 == 0
            if register == 0x34:
                # 5.4: the largest packet leaves room for its overhead.
                length, largest = value & 0x3FFF, value >> 16 & 0x7FFF
                assert length == 0x2EDF and largest <= (length - 210) * 6 // 7
                assert value >> 31 != self.registers[0x34] >> 31, "the toggle tells of a change"
            if register == 0x04 and value & 0xC0 == 0x80:
                assert self.registers[0x18] and self.registers[0x40] and self.registers[0x34] >> 16
            self.registers[register] = value
        return None

    # Bits are set and cleared by ones (7.4.4).
    def _write_port(self, n, value):
        assert not value & ~0x1F011F, hex(value)
        assert not value & 1, "ClearPortEnable"
        self._status[n] &= ~(value & 0x1F0000)
        if value & POWER:
            self._status[n] |= POWER
        if value & RESET:
            assert self._status[n] & POWER, "a port without power"
            if not self.devices[n]:
                self._status[n] |= CONNECT_CHANGED
                return
            self._status[n] |= RESET
            self._reset_at[n] = self.clock.ns + _ROOT_RESET_NS

    # Frames and lists (6.4).

    def frame(self):
        for n, at in enumerate(self._reset_at):
            if at is not None and self.clock.ns >= at:
                self._reset_at[n] = None
                self._status[n] = self._status[n] & ~RESET | RESET_CHANGED | ENABLED
                if self.devices[n]:
                    self.devices[n].bus_reset()
        if not self.running or self.stuck:
            return
        self.frames += 1
        self.registers[0x0C] |= 4
        self._budget = _PACKETS_A_FRAME
        for enabled, filled, head in ((0x10, 2, 0x20), (0x20, 4, 0x28)):
            if self.registers[4] & enabled and self.registers[8] & filled:
                if not self._list(self.registers[head]):
                    self.registers[8] &= ~filled

    def _words(self, at):
        assert at % 16 == 0, "descriptors are aligned"
        return self.memory.at(at, 16).cast("I")

    def _list(self, at):
        found = False
        while at:
            ed = self._words(at)
            while not ed[0] & 0x4000 and not ed[2] & 1 and ed[2] & ~15 != ed[1] and self._budget:
                found = True
                if not self._descriptor(ed):
                    break
            at = ed[3]
        return found

    # One transfer descriptor; False when it is not done in this frame.
    def _descriptor(self, ed):
        td = self._words(ed[2] & 0xFFFFFFF0)
        assert td[0] >> 28 >= 14, "a descriptor that was used already"
        packet = ed[0] >> 16 & 0x7FF
        direction = ed[0] >> 11 & 3
        if direction not in (1, 2):
            direction = td[0] >> 19 & 3
        carry = ed[2] >> 1 & 1
        if td[0] >> 25 & 1:
            carry = td[0] >> 24 & 1
        start, end = td[1], td[3]
        if start:
            assert (end >> 12) - (start >> 12) <= 1, "two pages at most"
        last = td[2] == ed[1]
        code = self.codes.pop(0) if self.codes else None
        while self._budget:
            self._budget -= 1
            left = end + 1 - td[1] if td[1] else 0
            n = min(left, packet)
            if code is None:
                answer = self._packet(ed, direction, carry, td[1], n)
            else:
                answer = code
            if answer == NAK:
                return False
            if isinstance(answer, str):
                code = STALLED
            elif isinstance(answer, tuple):
                moved = answer[0]
                carry ^= 1
                left -= moved
                td[1] = td[1] + moved if left else 0
                if direction == 2 and moved < n:
                    code = 0 if td[0] & 0x40000 else UNDERRUN
                elif not left:
                    code = 0
            else:
                code = answer
            if code is not None:
                if not last and not code and not td[0] >> 25 & 1:
                    assert (end + 1 - start) % packet == 0, "a short packet in the middle"
                td[0] = td[0] & 0x0FFFFFFF | code << 28
                halted = 1 if code else 0
                ed[2] = td[2] | carry << 1 | halted
                td[2] = 0  # into the done queue
                return not halted
        if td[0] >> 25 & 1:
            td[0] = td[0] & ~(1 << 24) | carry << 24
        else:
            ed[2] = ed[2] & ~2 | carry << 1
        return False

    # One packet: (bytes,), NAK, STALL, or a condition code.
    def _packet(self, ed, direction, carry, at, n):
        address, endpoint = ed[0] & 127, ed[0] >> 7 & 15
        device = None
        for i, one in enumerate(self.devices):
            if one and self._status[i] & ENABLED and one.address == address:
                device = one
        if device is None:
            return GONE
        data = bytes(self.memory.at(at, n)) if n and direction != 2 else b""
        if direction == 0:
            assert carry == 0 and n == 8
            return (8,) if device.setup(address, data) == ACK else GONE
        if direction == 1:
            answer = device.put(address, endpoint, carry, data)
            return (n,) if answer == ACK else GONE if answer is None else answer
        answer = device.get(address, endpoint)
        if answer is None:
            return GONE
        if answer in (NAK, STALL):
            return answer
        toggle, data = answer
        device.acknowledge(endpoint)
        if toggle != carry:
            return 3
        if len(data) > n:
            return OVERRUN
        if data:
            self.memory.at(at, len(data))[:] = data
        return (len(data),)
