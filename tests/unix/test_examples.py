"""docs/examples: the file-backed board heals in MicroPython's unix port, as its text says."""

import re
import subprocess
import sys

import pytest

from .floor import BINARY, TESTS

ROOT = TESTS.parent
EXAMPLES = ROOT / "docs" / "examples"


@pytest.fixture
def shell(tmp_path):
    """Run a command of the example's text in a folder of its own; what it printed."""
    if not BINARY.exists():
        pytest.skip(f"no {BINARY}: ./lifeboat setup builds it")
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "main.py").write_text("print('app')")

    def run(command, want=0):
        command = command.replace("./lifeboat ", f"{sys.executable} -m lifeboat_host ")
        command = command.replace("region create", "region create --yes")
        command = command.replace("=firmware:", f"={ROOT}/firmware:")
        command = command.replace(".lifeboat/unix/micropython", str(BINARY))
        command = command.replace("docs/examples/", f"{EXAMPLES}/")
        done = subprocess.run(
            command, shell=True, cwd=tmp_path, capture_output=True, text=True, check=False,
            env={"PATH": "/usr/bin:/bin:/usr/sbin", "PYTHONPATH": str(ROOT / "host_tools")},
        )  # fmt: skip
        assert done.returncode == want, done.stdout + done.stderr
        return done.stdout

    return run


def test_the_file_board_heals_as_its_text_says(shell, tmp_path):
    text = (EXAMPLES / "file_board.py").read_text()
    page = text.split('"""')[1].replace("\\\\\n", " ")
    commands = re.findall(r"^    (?!\./lifeboat setup)(\S.*)$", page, re.M)
    assert len(commands) == 3
    for command in commands:
        said = shell(command)
    assert "[lifeboat] RUN: file-board 1.0, 0 bad" in said
    code = tmp_path / "code.img"
    good = code.read_bytes()
    code.write_bytes(b"rot" + good[3:])
    assert "RUN: file-board 1.0, 1 bad, 1 erased" in shell(commands[-1])
    assert code.read_bytes()[:4096] == good[:4096]
    shell("rm disk.img")
    shell("truncate -s 64M disk.img")
    code.write_bytes(b"rot" + good[3:])
    assert "RESCUE" in shell(commands[-1], want=1)


@pytest.mark.parametrize("name", sorted(path.name for path in EXAMPLES.glob("*.py")))
def test_every_example_is_code_that_micropython_takes(name):
    if not BINARY.exists():
        pytest.skip(f"no {BINARY}: ./lifeboat setup builds it")
    code = f"compile(open({str(EXAMPLES / name)!r}).read(), {name!r}, 'exec')"
    assert subprocess.run([str(BINARY), "-c", code], check=False).returncode == 0
