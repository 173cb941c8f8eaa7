"""USB ports of OHCI controllers on PCI Express bus 0: polled, one transfer at a time, DMA straight
into and out of the caller's buffer. Hubs are not looked behind.

    ohci = OHCI()
    ohci.start()                  # find the controllers, power their ports; does not wait
    for port in ohci.ports():     # waits up to 0.2 s for devices to be seen
        disk = USBDisk(port)

A port is what drivers/usbmsc.py asks of one; it says which errors there are. After start() or
deinit(), of this or another OHCI, the ports of before are gone for good.

Deadlines are the caller's; resets of controller and ports have their own. The driver assumes
32-bit bus addresses that equal the processor's, and memory that DMA sees as the processor does.
Section numbers are those of OpenHCI 1.0a; U: of USB 2.0.
"""

import errno
from array import array
from time import sleep_ms, ticks_diff, ticks_ms

from machine import mem32
from micropython import const
from uctypes import addressof, bytearray_at

from lifeboat.kernels import fence, poll32
from lifeboat.mmio import wait32

_PCI_COMMAND = const(0x04)
_PCI_CLASS = const(0x08)
_PCI_HEADER = const(0x0C)
_PCI_BAR0 = const(0x10)
_PCI_ENABLE = const(0x0406)  # memory space, bus master, no INTx
_CLASS_OHCI = const(0x0C0310)
_BAR_STEP = const(0x1000)
_PORTS_MOST = const(15)

# Registers (section 7).
_CONTROL = const(0x04)
_STATUS = const(0x08)
_EVENTS = const(0x0C)
_INTERRUPT_DISABLE = const(0x14)
_HCCA = const(0x18)
_CONTROL_HEAD = const(0x20)
_BULK_HEAD = const(0x28)
_FRAME_INTERVAL = const(0x34)
_PERIODIC_START = const(0x40)
_HUB = const(0x48)
_HUB_STATUS = const(0x50)
_PORT = const(0x54)

_RESET = const(1)  # HcCommandStatus
_CONTROL_FILLED = const(2)
_BULK_FILLED = const(4)
_RUN = const(0xB0)  # operational, control and bulk lists
_FRAME_STARTED = const(4)
_INTERVAL = const(0x2EDF)  # bit times in a frame
_LARGEST = const(0x27780000)  # the largest packet fits into a frame of this length (5.4)
_START = const(0x2A2F)  # 90 % of a frame
_POWER = const(0x10000)  # HcRhStatus: all ports

# HcRhPortStatus (7.4.4): bits are set and cleared by ones.
_CONNECTED = const(0x00000001)
_PORT_RESET = const(0x00000010)
_PORT_POWER = const(0x00000100)
_LOW_SPEED = const(0x00000200)
_CHANGES = const(0x001F0000)
_CONNECT_CHANGED = const(0x00010000)
_RESET_CHANGED = const(0x00100000)

# Deadlines and delays in milliseconds.
_CONTROLLER_MS = const(10)  # 10 us (5.1.1.4)
_DEBOUNCE_MS = const(100)  # from attachment to the first reset (U 7.1.7.3)
_RESETTING_MS = const(100)  # the hub's own is 10 ms
_RESET_TIMES = const(5)  # a root port is reset for 50 ms (U 7.1.7.5)
_RECOVERY_MS = const(10)
_FRAMES_MS = const(5)
_SPINS = const(200)

# Endpoint descriptors (4.2) and transfer descriptors (4.3.1), in words.
_SKIP = const(0x4000)
_HALTED = const(1)
_CARRY = const(2)
_ROUND = const(0x00040000)  # the last buffer need not be filled
_SETUP_TD = const(0xF2E00000)  # DATA0; condition "not accessed", no interrupt
_DATA1 = const(0x03000000)
_TD = const(0xF0E00000)
_OUT = const(0x00080000)
_IN = const(0x00100000)
_STALL = const(4)  # condition codes (4.3.3)
_UNDERRUN = const(9)

# One piece of memory for a controller, in words, aligned to 256 bytes: HCCA, transfer descriptors,
# a request, and an endpoint descriptor for the control list and one for the bulk list. There is
# one transfer at a time, so they are enough for all endpoints.
_TDS = const(64)
_TD_COUNT = const(32)  # and one where the list ends
_REQUEST = const(64 + 33 * 4)
_CONTROL_ED = const(64 + 34 * 4)
_BULK_ED = const(64 + 35 * 4)
_MEMORY = const(64 + 36 * 4)
_ROOM = const(256)  # words: all of this, aligned
_PAGES = const(8192)  # a transfer descriptor reaches to the end of the next page
_CONTROL_MOST = const(4096)

# Base address of a controller -> the ports that own it.
_owners = {}


class OHCI:
    """Every OHCI controller on PCI Express bus 0.

    ecam: address of the configuration space. bar: where controllers without an address get one,
    4 KB each. memory: a memoryview of 32-bit words for what the controllers read and write by
    themselves, aligned to 256 bytes; 1 KB for each. It should be memory that a soft reset neither
    clears nor uses for something else. Controllers for which it is too small use the heap: then
    call deinit() before the heap is used anew.
    """

    def __init__(self, ecam=0x30000000, bar=0x41000000, memory=()):
        self._ecam = ecam
        self._bar = bar
        self._memory = memory
        self._ports = []
        self._bases = []

    def start(self):
        self._leave()
        for i, base in enumerate(self._controllers()):
            self._bases.append(base)
            memory = self._memory[i * _ROOM : (i + 1) * _ROOM]
            if len(memory) < _ROOM:
                memory = array("I", bytes(4 * (_MEMORY + 64)))
            self._begin(base, memory, i)
        self._started = ticks_ms()

    # Stop all controllers: there is no DMA afterwards, and no port until the next start().
    def deinit(self):
        for base in self._bases:
            _reset(base)
        self._leave()

    # The ports with a device of full speed. What was just powered is given its time.
    def ports(self):
        return [port for port in self._ports if port._seen(self._started)]

    def _leave(self):
        for base in self._bases:
            _disown(base)
        self._ports = []
        self._bases = []

    def _controllers(self):
        bases = []
        for device in range(32):
            slot = self._ecam + (device << 15)
            header = mem32[slot + _PCI_HEADER] >> 16 & 0xFF  # all ones: no device
            functions = 8 if header & 0x80 and header != 0xFF else 1
            for config in range(slot, slot + (functions << 12), 1 << 12):
                if mem32[config + _PCI_CLASS] >> 8 & 0xFFFFFF == _CLASS_OHCI:
                    if not mem32[config + _PCI_BAR0] & 0xFFFFFFF0:
                        mem32[config + _PCI_BAR0] = self._bar + len(bases) * _BAR_STEP
                    command = mem32[config + _PCI_COMMAND] & 0xFFFF
                    mem32[config + _PCI_COMMAND] = command | _PCI_ENABLE
                    bases.append(mem32[config + _PCI_BAR0] & 0xFFFFFFF0)
        return bases

    # From whatever state to "operational" with all ports powered (5.1.1.4).
    def _begin(self, base, memory, number):
        _disown(base)
        if not _reset(base):
            return
        first = (-addressof(memory) & 255) // 4
        at = addressof(memory) + 4 * first
        bytearray_at(at, 4 * _MEMORY)[:] = bytes(4 * _MEMORY)
        memory[first + _CONTROL_ED] = memory[first + _BULK_ED] = _SKIP
        hub = mem32[base + _HUB]
        wait = 2 * (hub >> 24 & 0xFF) + _DEBOUNCE_MS
        ports = _owners[base] = []
        for n in range(min(hub & 0xFF, _PORTS_MOST)):
            name = f"usb{number}.{n}" if number else f"usb{n}"
            ports.append(OHCIPort(name, base, n, memory, first, wait))
        self._ports += ports
        mem32[base + _INTERRUPT_DISABLE] = 0xFFFFFFFF
        mem32[base + _HCCA] = at
        mem32[base + _CONTROL_HEAD] = at + 4 * _CONTROL_ED
        mem32[base + _BULK_HEAD] = at + 4 * _BULK_ED
        # The toggle bit says that the length is new.
        interval = mem32[base + _FRAME_INTERVAL]
        mem32[base + _FRAME_INTERVAL] = ~interval & 0x80000000 | _LARGEST | _INTERVAL
        mem32[base + _PERIODIC_START] = _START
        fence()
        mem32[base + _CONTROL] = _RUN
        mem32[base + _HUB_STATUS] = _POWER
        for port in ports:
            mem32[port._status] = _PORT_POWER


class OHCIPort:
    """A port, as drivers/usbmsc.py describes it.

    code    the condition code (4.3.3) of the last transfer that ended early
    """

    def __init__(self, name, base, n, memory, first, wait):
        self.name = name
        self.address = n + 1
        self.code = 0
        self._base = base
        self._status = base + _PORT + 4 * n
        self._memory = memory
        self._first = first
        self._list = addressof(memory) + 4 * (first + _TDS)
        self._wait = wait
        self._endpoints = {}
        self._same = False
        self._live = True

    # Whether there is a device. Who noticed that it changed needs no second look at the contacts.
    def _seen(self, since):
        if not self._live:
            return False
        while ticks_diff(ticks_ms(), since) < self._wait:
            sleep_ms(1)
        if not self.present():
            self._same = False
            mem32[self._status] = _CONNECT_CHANGED
        return poll32(self._status, _CONNECTED | _LOW_SPEED, _CONNECTED, 1)

    def present(self):
        return self._same and poll32(self._status, _CONNECTED | _CONNECT_CHANGED, _CONNECTED, 1)

    def reset(self):
        self._same = False
        status = self._status
        if self._live and not poll32(status, _CONNECT_CHANGED, 0, 1):
            sleep_ms(_DEBOUNCE_MS)
        for _ in range(_RESET_TIMES):
            if not self._live:
                raise OSError(errno.ENODEV)
            mem32[status] = _CHANGES
            mem32[status] = _PORT_RESET
            if not wait32(status, _RESET_CHANGED, _RESET_CHANGED, _RESETTING_MS):
                raise OSError(errno.ENODEV)
        sleep_ms(_RECOVERY_MS)
        if not poll32(status, _CONNECTED | _LOW_SPEED | _CONNECT_CHANGED, _CONNECTED, 1):
            raise OSError(errno.ENODEV)
        self._same = self._live

    # First word of its endpoint descriptor, and the toggle.
    def open(self, endpoint, packet, address):
        direction = (2 if endpoint & 0x80 else 1) if endpoint else 0
        word = address | (endpoint & 15) << 7 | direction << 11 | packet << 16
        self._endpoints[endpoint] = [word, 0]

    def control(self, kind, request, value, index, buf, end):
        memory = self._memory
        place = self._first + _REQUEST
        n = len(buf) if buf is not None else 0
        if n > _CONTROL_MOST:
            raise OSError(errno.EINVAL)
        memory[place] = kind | request << 8 | value << 16
        memory[place + 1] = index | n << 16
        self._td(0, _SETUP_TD, self._list + 4 * (_REQUEST - _TDS), 8)
        count = 1
        status = _IN
        if n:
            status = _OUT
            at = addressof(buf)
            self._td(1, _TD | _DATA1 | _IN | _ROUND, at, n)
            count = 2
        self._td(count, _TD | _DATA1 | status, 0, 0)
        if self._run(_CONTROL_ED, _CONTROL_FILLED, 0, count + 1, end) < 0:
            return -1
        return self._moved(1, at, n) if n else 0

    # A buffer that is not full in the middle of the list ends the transfer, too: then its endpoint
    # halts (4.3.1.3.5), but for us only.
    def bulk(self, endpoint, buf, end):
        at = addressof(buf)
        left = len(buf)
        packet = self._endpoints[endpoint][0] >> 16
        done = 0
        while left:
            count = part = 0
            while part < left and count < _TD_COUNT:
                n = left - part
                most = _PAGES - (at + part & 4095)
                flags = _TD | _ROUND
                if n > most:
                    n = most - most % packet
                    flags = _TD
                self._td(count, flags, at + part, n)
                part += n
                count += 1
            last = self._run(_BULK_ED, _BULK_FILLED, endpoint, count, end)
            if last < 0:
                return -1
            n = self._moved(last - 1, at, part)
            done += n
            if n < part:
                break
            at += n
            left -= n
        return done

    def _td(self, i, flags, at, n):
        memory = self._memory
        td = self._first + _TDS + 4 * i
        memory[td] = flags
        memory[td + 1] = at
        memory[td + 2] = self._list + 16 * (i + 1)
        memory[td + 3] = at + n - 1 if n else 0

    # How far the transfer of n bytes from `at` on had got with that descriptor.
    def _moved(self, i, at, n):
        td = self._first + _TDS + 4 * i
        stop = self._memory[td + 1] or self._memory[td + 3] + 1
        return min(max(stop - at, 0), n)

    # Let the controller work on a list of descriptors; returns how many are done with, or -1 for a
    # stall. An endpoint descriptor is changed only while it is skipped.
    def _run(self, ed, filled, endpoint, count, end):
        if not self.present():
            raise OSError(errno.ENODEV)
        memory = self._memory
        state = self._endpoints[endpoint]
        ed += self._first
        tail = self._list + 16 * count
        memory[ed + 1] = tail
        memory[ed + 2] = self._list | state[1]
        fence()
        memory[ed] = state[0]
        fence()
        mem32[self._base + _STATUS] = filled
        try:
            self._finish(ed + 2, tail, end)
        finally:
            # Nothing is moved once the next frame has begun (5.2.7.1.3).
            if self._live:
                memory[ed] = _SKIP
                fence()
                if memory[ed + 2] & ~_CARRY != tail:
                    mem32[self._base + _EVENTS] = _FRAME_STARTED
                    wait32(self._base + _EVENTS, _FRAME_STARTED, _FRAME_STARTED, _FRAMES_MS)
        if not self._live:
            raise OSError(errno.ENODEV)
        head = memory[ed + 2]
        state[1] = head & _CARRY
        last = ((head & 0xFFFFFFF0) - self._list) // 16
        if head & _HALTED:
            if not 0 < last <= count:
                raise OSError(errno.EIO)
            self.code = memory[self._first + _TDS + 4 * last - 4] >> 28
            if self.code == _STALL:
                return -1
            if self.code != _UNDERRUN:
                raise OSError(errno.EIO if self.present() else errno.ENODEV)
        return last

    def _finish(self, head, tail, end):
        memory = self._memory
        while self._live:
            late = ticks_diff(end, ticks_ms()) < 0
            for _ in range(_SPINS):
                if memory[head] & ~_CARRY == tail or memory[head] & _HALTED:
                    fence()
                    return
            if late:
                raise OSError(errno.ETIMEDOUT)


# Stop a controller; False when it does not come to rest. Devices keep what they know.
def _reset(base):
    mem32[base + _STATUS] = _RESET
    return wait32(base + _STATUS, _RESET, 0, _CONTROLLER_MS)


def _disown(base):
    for port in _owners.pop(base, ()):
        port._live = port._same = False
