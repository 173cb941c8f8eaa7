"""What the scrubber keeps over a warm reset: the last bytes of the retained RAM.

Magic, build, units of a pass, how many of them are left in this pass, position, age of the last
full pass in ms, passes, bound in seconds, suspects; then the CRC-32.
"""

from struct import calcsize, pack_into, unpack_from

from micropython import const

from .kernels import crc32
from .report import TAIL

SUSPECTS = const(6)  # units, as many as there is room for
_STATE = "<4s8sIIIIII6I"
_MAGIC = b"LBSC"
_CRC = calcsize(_STATE)
_NONE = const(0xFFFFFFFF)


def save(area, build, units, left, position, age_ms, passes, bound_s, suspects):
    """Keep it; age_ms and bound_s: None when there is none yet."""
    state = memoryview(area)[-TAIL:]
    pack_into(
        _STATE, state, 0, _MAGIC, build, units, left, position, _number(age_ms), passes,
        _number(bound_s), *(suspects + [_NONE] * SUSPECTS)[:SUSPECTS]
    )  # fmt: skip
    pack_into("<I", state, _CRC, crc32(state[:_CRC]))


def load(area):
    """Return (build, units, left, position, age_ms, passes, bound_s, suspects), or None."""
    state = bytes(memoryview(area)[-TAIL:])
    magic, build, units, left, position, age, passes, bound, *suspects = unpack_from(_STATE, state)
    right = magic == _MAGIC and crc32(state[:_CRC]) == unpack_from("<I", state, _CRC)[0]
    if not right or position >= units or left > units:
        return None
    age, bound = (None if number == _NONE else number for number in (age, bound))
    return build, units, left, position, age, passes, bound, [s for s in suspects if s < units]


def _number(value):
    return _NONE if value is None else min(int(value), _NONE - 1)
