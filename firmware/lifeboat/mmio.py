"""What drivers of memory-mapped devices need besides kernels.py.

copy32(addr, buf, offset, nbytes)   stores buf[offset:offset+nbytes] as 32-bit words to the
                                    ascending device addresses from addr; 4 divides addr
                                    and nbytes
wait32(addr, mask, want, ms)        poll32 with a deadline in milliseconds
"""

# copy32 is for others to import.
# ruff: noqa: F401

from time import ticks_add, ticks_diff, ticks_ms

from micropython import const

from lifeboat.kernels import arch, poll32

if arch:
    from lifeboat.kernels_copy import copy32
else:
    from lifeboat.kernels_plain import copy32

# Enough polls that most waits end without a look at the clock, few enough for a deadline in ms.
_SPINS = const(2000)


# The register is looked at once more after the deadline: time may have passed while the machine
# did something else.
def wait32(addr, mask, want, ms):
    if poll32(addr, mask, want, _SPINS):
        return True
    end = ticks_add(ticks_ms(), ms)
    while ticks_diff(end, ticks_ms()) > 0:
        if poll32(addr, mask, want, _SPINS):
            return True
    return poll32(addr, mask, want, 1)
