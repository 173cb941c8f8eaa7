"""The conformance suite for drivers, on the fakes."""

from conformance.disk import check_disk
from conformance.flash import check_flash

from sim.disk import RamDisk
from sim.nor import RamFlash

for size in (512, 4096):
    check_disk(RamDisk("disk%d" % size, 1000, size=size), 100, 64)
for mapped in (True, False):
    check_flash(RamFlash(bytearray(b"\xff" * 32768), 4096, mapped=mapped), 2, 3)
