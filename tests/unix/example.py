"""What the text of docs/examples/file_board.py says, done in a folder."""

import re
import subprocess
import sys

from .floor import BINARY, TESTS

ROOT = TESTS.parent
EXAMPLES = ROOT / "docs" / "examples"


class FileBoard:
    """The file-backed board: micropython runs it, with the package in the folder `library`."""

    def __init__(self, folder, micropython=BINARY, library=ROOT / "firmware"):
        self.folder = folder
        self.code = folder / "code.img"
        self._replaced = (
            ("./lifeboat ", f"{sys.executable} -m lifeboat_host "),
            ("region create", "region create --yes"),
            ("=firmware:", f"={library}:"),
            (".lifeboat/unix/micropython", str(micropython)),
            ("docs/examples/", f"{EXAMPLES}/"),
        )
        (folder / "src").mkdir()
        (folder / "src" / "main.py").write_text("print('app')")
        page = (EXAMPLES / "file_board.py").read_text().split('"""')[1].replace("\\\\\n", " ")
        commands = re.findall(r"^    (?!\./lifeboat setup)(\S.*)$", page, re.M)
        assert len(commands) == 3
        *self._before, self._power_on = commands

    def prepare(self):
        """The commands that make its files."""
        for command in self._before:
            self.shell(command)

    def power_on(self, want=0):
        """What its console says."""
        return self.shell(self._power_on, want)

    def shell(self, command, want=0):
        for old, new in self._replaced:
            command = command.replace(old, new)
        done = subprocess.run(
            command, shell=True, cwd=self.folder, capture_output=True, text=True, check=False,
            env={"PATH": "/usr/bin:/bin:/usr/sbin", "PYTHONPATH": str(ROOT / "host_tools")},
        )  # fmt: skip
        assert done.returncode == want, done.stdout + done.stderr
        return done.stdout

    def heals(self):
        """Power on, damage the code, power on: it is whole."""
        assert "[lifeboat] RUN: file-board 1.0, 0 bad" in self.power_on()
        good = self.code.read_bytes()
        self.code.write_bytes(b"rot" + good[3:])
        assert "RUN: file-board 1.0, 1 bad, 1 erased" in self.power_on()
        assert self.code.read_bytes()[:4096] == good[:4096]
