"""The SD driver on the card model: conformance, and one failure of each kind.

Arguments: the kinds of cards, else all.
"""

import sys

from conformance.disk import check_disk

from lifeboat.drivers import sdspi
from lifeboat_host.pico.sdcard import Bus, Card, Clock

clock = Clock()
sdspi.ticks_ms = clock.ticks_ms
sdspi.sleep_ms = clock.sleep_ms


def make(kind, sectors):
    card = Card(kind, sectors, clock)
    bus = Bus(card, clock)
    return card, bus, sdspi.SDCard(bus, bus.cs, init=False, name=kind)


for kind, sectors in (("sdsc1", 1 << 16), ("sdsc", 1 << 22), ("sdhc", 1 << 28)):
    if kind not in sys.argv[1:] and sys.argv[1:]:
        continue
    card, _, sd = make(kind, sectors)
    check_disk(sd, sectors - 64, 64)
    assert not card.complaints, card.complaints


def failure(name, call, *args):
    try:
        call(*args)
    except OSError as e:
        print("error", name, e.args[0])


card, bus, sd = make("sdhc", 1 << 20)
sd.ioctl(1, 0)
buf = bytearray(2048)
card.bad_crc = {1}
failure("crc", sd.readblocks, 0, buf)
card.bad_crc = set()
card.response = {1: 0x0D}
failure("refused", sd.writeblocks, 0, buf)
card.response = {}
card.hang = {9}
failure("hang", sd.writeblocks, 9, buf)
failure("after", sd.readblocks, 0, buf)
bus.card = None
failure("absent", sd.ioctl, 1, 0)
card.power_up()
bus.card = card
sd.ioctl(1, 0)
sd.readblocks(0, buf)
assert not card.complaints, card.complaints
print("done")
