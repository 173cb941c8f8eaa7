"""A USB disk behind a MAX3421E on the SPI of the emulated Pico: with the chip's own SPI and the
timing of a real port. About two minutes.
"""

import base64
import shutil
import sys
from pathlib import Path

import pytest

from cpython_floor import ROOT
from lifeboat_host.model import image
from lifeboat_host.pico.board import Pico
from qemu.rig import Rig

pytestmark = [
    pytest.mark.parametrize("spec", ["rp2_sd"], indirect=True),
    pytest.mark.slow,
    pytest.mark.pico,
]

SETUP = """
from machine import SPI, Pin
from max3421 import MAX3421E
from usbmsc import USBDisk
spi = SPI(1, baudrate=20_000_000, sck=Pin(10), mosi=Pin(11), miso=Pin(12))
port = MAX3421E(spi, Pin(13, Pin.OUT, value=1))
disk = USBDisk(port)
disk.ioctl(1, 0)
print(disk.serial, disk.ioctl(4, 0), disk.power_cycles(), hex(port.revision))
"""


class WithChip(Pico):
    def arguments(self):
        command = super().arguments()
        at = command.index("-m")
        return [
            sys.executable,
            str(Path(__file__).with_name("pico_max3421.py")),
            *command[at + 2 :],
        ]


def test_the_conformance_suite_passes(spec, tmp_path):
    rig = Rig(spec, tmp_path)
    flash, drivers = rig.folder / "blank.img", rig.folder / "drivers"
    flash.write_bytes(b"\xff" * spec.flash_size)
    drivers.mkdir()
    for name in "firmware/lifeboat/drivers/usbmsc", "firmware/lifeboat/drivers/max3421":
        shutil.copy(ROOT / f"{name}.py", drivers)
    shutil.copy(ROOT / "tests/conformance/disk.py", drivers)
    rom = image.build_romfs(drivers)
    with WithChip(flash, [], spec=spec) as board:
        board.power_on_report()
        board.repl()

        def run(code):
            out, err = board.run(code, timeout=300)
            assert not err, err
            return out

        run(f"import sys, vfs, binascii\nrom = bytearray({len(rom)})")
        for at in range(0, len(rom), 1500):
            piece = base64.b64encode(rom[at : at + 1500])
            run(f"rom[{at}:{min(at + 1500, len(rom))}] = binascii.a2b_base64({piece})")
        run("vfs.mount(vfs.VfsRom(memoryview(rom)), '/usb')\nsys.path.insert(0, '/usb')")
        assert run(SETUP).split() == ["A0001", str(1 << 20), "4711", "0x13"]
        lines = run("from disk import check_disk\ncheck_disk(disk, 1000, 64, 1 << 13)")
        assert lines.splitlines()[-1] == "disk usb0: 10 checks passed"
