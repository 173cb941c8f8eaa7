"""A newcomer's walk: the commands of the README, one after the other, as they are printed."""

import json
import os
import random
import re
import shlex
import subprocess

import pytest

from lifeboat_host.base import tree
from lifeboat_host.qemu.background import Session

pytestmark = [
    pytest.mark.parametrize("spec", ["qemu_virt"], indirect=True),
]
START, END = "Now your own code on a board of your own", "A board on your desk"


def commands():
    text = (tree.root() / "README.md").read_text()
    part = text[text.index(START) : text.index(END)]
    return re.findall(r"^    (\S.*)$", part, re.M)


@pytest.fixture
def shell(spec, tmp_path):
    """Run a line in a folder with a newcomer's own files; what it printed."""
    (tmp_path / "lifeboat").symlink_to(tree.root() / "lifeboat")
    (tmp_path / "kernel.bin").write_bytes(random.Random(1).randbytes(600_000))
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "main.py").write_text("print('app: it runs')\n")
    environment = {**os.environ, "LIFEBOAT_CACHE": str(tree.cache())}
    if Session("default").running:
        pytest.skip("a board of this person's runs: lifeboat board off")

    def run(line, want=0):
        done = subprocess.run(
            ["bash", "-c", line], cwd=tmp_path, env=environment, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, check=False, timeout=300,
        )  # fmt: skip
        assert done.returncode == want, f"{line}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    yield run
    run("./lifeboat board off")


def test_the_commands_of_the_readme_work_as_printed(shell, tmp_path):
    ran = []
    for line in commands():
        # What a person does at a terminal: consent, and the name that was printed before.
        line = line.split("  #")[0].replace("region create", "region create --yes")
        if "/dev/pts/N" in line:
            status = json.loads(shell("./lifeboat board status --json"))
            line = line.replace("/dev/pts/N", shlex.quote(status["pty"]))
        ran.append((line, shell(line)))
    said = dict(ran)
    assert len(ran) == 9
    report = json.loads(
        next(out for line, out in ran if "mpremote" in line).split("lifeboat: ")[1]
    )
    assert report["verdict"] == "RUN" and len(report["members"]) == 2
    status = said["./lifeboat board status"]
    assert re.search(r"repaired\s+block 1 \(sata[01]\)", status), status
    log = next(out for line, out in ran if "lifeboat log" in line)
    assert "block 1" in log and "1 repair of 1 block" in log
