"""docs/examples: the file-backed board heals in MicroPython's unix port, as its text says."""

import subprocess

import pytest

from .example import EXAMPLES, FileBoard
from .floor import BINARY

pytestmark = pytest.mark.skipif(
    not BINARY.exists(), reason=f"no {BINARY}: ./lifeboat setup builds it"
)


def test_the_file_board_heals_as_its_text_says(tmp_path):
    board = FileBoard(tmp_path)
    board.prepare()
    board.heals()
    board.shell("rm disk.img")
    board.shell("truncate -s 64M disk.img")
    board.code.write_bytes(b"rot" + board.code.read_bytes()[3:])
    assert "RESCUE" in board.power_on(want=1)


@pytest.mark.parametrize("name", sorted(path.name for path in EXAMPLES.glob("*.py")))
def test_every_example_is_code_that_micropython_takes(name):
    code = f"compile(open({str(EXAMPLES / name)!r}).read(), {name!r}, 'exec')"
    assert subprocess.run([str(BINARY), "-c", code], check=False).returncode == 0
