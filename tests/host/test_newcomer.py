"""What a person meets first: doctor, help, completion, other systems, and tables that can't be
misread."""

import json
import os
import re
import subprocess
import sys

import pytest

from fakes import scenarios
from lifeboat_host.base import tree
from lifeboat_host.ui.report_table import spans


def test_doctor_names_what_is_there_and_what_is_not(lifeboat, tmp_path, monkeypatch):
    code, out, _ = lifeboat("doctor", "--json")
    found = {one["what"]: one for one in json.loads(out)["findings"]}
    assert code == 0 and found["Python"]["ok"] and found["Python package mpremote"]["ok"]
    assert {"wipefs", "source tree", "board qemu_virt", "board rp2_sd"} <= found.keys()
    monkeypatch.setenv("LIFEBOAT_CACHE", str(tmp_path))
    _, out, _ = lifeboat("doctor")
    line = next(line for line in out.splitlines() if "its firmware is not built" in line)
    assert line.startswith("no") and "next: board qemu_virt: run ./lifeboat setup" in out


def test_every_page_is_a_topic(lifeboat):
    _, out, _ = lifeboat("help", "--json")
    pages = {path.stem for path in (tree.root() / "docs").glob("*.md")}
    assert set(json.loads(out)["topics"]) == pages
    for page in pages:
        code, out, _ = lifeboat("help", page)
        assert code == 0 and len(out) > 500
    code, out, _ = lifeboat("help", "nonsense", "--json")
    assert code == 1 and json.loads(out)["error"]["code"] == "help-topic"


@pytest.mark.skipif(not os.path.exists("/bin/bash"), reason="needs bash")
def test_bash_completes_commands_and_options(tmp_path):
    """In a real bash, as its completion calls the function."""
    script = subprocess.run(
        [sys.executable, "-m", "lifeboat_host", "completion", "bash"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    path = tmp_path / "completion"
    path.write_text(script)
    function = re.search(r"complete .*-F (\w+) lifeboat", script).group(1)

    def complete(*words):
        quoted = " ".join(f"'{word}'" for word in words)
        code = (
            f"source {path}; COMP_WORDS=({quoted}); COMP_CWORD={len(words) - 1}; "
            f'{function}; printf "%s\\n" "${{COMPREPLY[@]}}"'
        )
        done = subprocess.run(
            ["/bin/bash", "-c", code], capture_output=True, text=True, check=True
        )
        return set(done.stdout.split())

    assert complete("lifeboat", "reg") == {"region"}
    assert {"plan", "create", "inspect"} <= complete("lifeboat", "region", "")
    assert "--openmetrics" in complete("lifeboat", "status", "--o")


# As Windows is: no fcntl, no reads at a position, no holes, no links that are not followed.
ELSEWHERE = """
import os, sys
import mpremote.transport_serial, rich.console  # these have their own ways there
sys.modules["fcntl"] = None
for name in ("pread", "pwrite", "SEEK_DATA", "posix_fadvise", "O_NOFOLLOW", "O_NONBLOCK",
             "O_CLOEXEC", "O_DIRECTORY"):
    delattr(os, name)
sys.platform = "win32"
from lifeboat_host.commands.main import main
sys.exit(main(sys.argv[1:]))
"""


def elsewhere(*arguments):
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(tree.root() / "host_tools")},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout, done.stderr


def test_what_can_work_on_other_systems_works(tmp_path):
    code, target = tmp_path / "os.bin", tmp_path / "code.img"
    code.write_bytes(b"code" * 1000)
    numbers = "--product p --flash-size 1M --block-size 4K --version 1".split()
    assert elsewhere("image", "build", "-o", target, *numbers, f"os={code}")[0] == 0
    assert elsewhere("image", "verify", target)[0] == 0
    assert elsewhere("image", "inspect", target)[0] == 0
    disk = tmp_path / "disk.img"
    with open(disk, "wb") as file:
        file.truncate(64 << 20)
    status, _, said = elsewhere("region", "inspect", disk)
    assert status == 1 and "no backup region" in said
    status, _, said = elsewhere("key", "new", tmp_path / "k.key")
    assert status == 0 or "next:" in said


def test_an_inspection_tells_damaged_blocks_from_whole_ones(lifeboat, tmp_path):
    path = tmp_path / "code.img"
    data = bytearray(scenarios.NEW)
    path.write_bytes(data)
    _, out, _ = lifeboat("image", "inspect", path)
    assert "damaged" not in out
    data[0] ^= 1
    data[2 * 4096] ^= 1
    path.write_bytes(data)
    code, out, _ = lifeboat("image", "inspect", path)
    assert code == 0 and "2 of 6 blocks are damaged: blocks 0, 2" in out
    assert json.loads(lifeboat("image", "inspect", path, "--json")[1])["damaged"] == [0, 2]


@pytest.mark.parametrize(
    ("ranges", "text"),
    [
        ([], "none"),
        ([[0, 1]], "block 0"),
        ([[0, 1, "disk-a"]], "block 0 (disk-a)"),
        ([[3, 2, "sata0"]], "blocks 3-4 (sata0)"),
        ([[0, 1], [9, 1]], "blocks 0, 9"),
    ],
)
def test_a_block_number_is_no_count(ranges, text):
    assert spans(ranges) == text


def test_no_zero_stands_alone_in_a_report(lifeboat, tmp_path):
    report = {"verdict": "RUN", "reasons": [], "build": "b", "bad": [[0, 1]], "repaired": []}
    report |= {"lost": [], "members": [], "ms": {}, "erases": 0, "disk_writes": 0, "blocks": 6}
    log = tmp_path / "log"
    log.write_text("lifeboat: " + json.dumps(report))
    _, out, _ = lifeboat("report", log)
    assert "damaged      block 0" in out
    assert not re.search(r"\s0\s*$", out.replace("block 0", ""), re.M)


@pytest.mark.parametrize("columns", [50, 80, 120])
def test_a_plan_fits_the_terminal(lifeboat, tmp_path, monkeypatch, columns):
    """50 columns are what 400 pixels show."""
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.chdir(tmp_path)
    with open("disk.img", "wb") as file:
        file.truncate(64 << 20)
    code, out, _ = lifeboat("region", "plan", "disk.img", "--size", "8M")
    picture = out.split("  LBA")[0].splitlines()
    assert code == 0 and picture[1].startswith("[")
    assert max(len(line.rstrip()) for line in picture) <= columns
    assert "the backup region would be here" in out
