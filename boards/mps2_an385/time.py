"""The part of MicroPython's time module that lifeboat uses.

MicroPython's qemu port is built without a time module. The millisecond counter here is the board's
own: FPGAIO of Arm's application note AN385, register COUNTER behind a prescaler of 25 MHz.
"""

from machine import mem32
from micropython import const

_COUNTER = const(0x40028018)
_PRESCALE = const(0x4002801C)

_PERIOD = const(0x20000000)

mem32[_PRESCALE] = 25000 - 1


def ticks_ms():
    return mem32[_COUNTER] & _PERIOD - 1


def ticks_add(ticks, delta):
    return ticks + delta & _PERIOD - 1


def ticks_diff(end, start):
    return (end - start + _PERIOD // 2 & _PERIOD - 1) - _PERIOD // 2


def sleep_ms(ms):
    start = ticks_ms()
    while ticks_diff(ticks_ms(), start) < ms:
        pass
