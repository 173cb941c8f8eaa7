"""The firmware compiles for the boards that cannot be run here, machine code included."""

import subprocess

import pytest

from .floor import CACHE, TESTS

MPY_CROSS = CACHE / "micropython" / "mpy-cross" / "build" / "mpy-cross"
FIRMWARE = TESTS.parent / "firmware" / "lifeboat"
SOURCES = [
    path
    for path in [*FIRMWARE.rglob("*.py"), *(TESTS.parent / "boards").glob("*_sd/board.py")]
    if not path.stem.endswith("_rv32")
]


@pytest.mark.parametrize("arch", ["armv6m", "armv7m", "armv7emsp", "xtensawin"])
def test_compiles(arch, tmp_path):
    if not MPY_CROSS.exists():
        pytest.skip("no %s: ./lifeboat setup builds it" % MPY_CROSS)
    for path in SOURCES:
        command = [str(MPY_CROSS), "-march=" + arch, "-o", str(tmp_path / "out.mpy"), str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
