"""Provisioning and operation over the console's pty: the `lifeboat` command and mpremote."""

import json
import os
import random
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from described import check_output

from lifeboat_host.base.errors import LifeboatError
from lifeboat_host.board import board_disk
from lifeboat_host.board.agent import Agent
from lifeboat_host.board.board_disk import open_disks
from lifeboat_host.board.link import Link
from lifeboat_host.disk.disk import Disk
from lifeboat_host.model import image, region
from qemu.rig import DISK, MB, Rig, data_hash, pty_board

ROOT = Path(__file__).resolve().parents[2]
DOC = ROOT / "docs" / "provisioning.md"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT / "host_tools")}


def command(*arguments):
    return [sys.executable, "-m", "lifeboat_host", *map(str, arguments)]


def lifeboat(*arguments, want=0):
    """Run the command with --json; its result. It must exit with `want`."""
    arguments = (*arguments, "--json")
    done = subprocess.run(
        command(*arguments),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=1500,  # the emulated Pico takes 20 minutes for what a board does in one
        check=False,
        env=ENVIRONMENT,
    )
    assert done.returncode == want, done.stdout + done.stderr
    check_output(arguments, done.stdout)
    return json.loads(done.stdout)


def new_code(rig, folder, size, **kwargs):
    """An image file for the rig's board, and its rig."""
    folder.mkdir()
    other = Rig(rig.spec, folder)
    other.app_source = kwargs.pop("app", rig.app_source)
    other.make_image(size, **kwargs)
    return other


def differing(one, other, size):
    """The blocks in which two files differ."""
    a, b = one.read_bytes(), other.read_bytes()
    return [i for i in range(len(b) // size) if a[i * size :][:size] != b[i * size :][:size]]


def start_of(path, size):
    with open(path, "rb") as file:
        return file.read(size)


def wait_until(condition, process=None):
    """Wait for the condition; process must not end meanwhile."""
    deadline = time.monotonic() + 1500  # as for lifeboat()
    while not condition():
        assert time.monotonic() < deadline
        assert process is None or process.poll() is None
        time.sleep(0.02)


def app_runs(rig):
    """Another power-on, with nothing to do, that ends in the application."""
    report = rig.heal()
    assert report["bad"] == [] and report["disk_writes"] == 0
    assert {m["state"] for m in report["members"]} == {"level"}


def test_a_blank_board_becomes_protected_and_blank_again(empty_rig, tmp_path):
    """Cut short in the middle of the transfer, taken up again, run a third time, taken back."""
    rig = empty_rig
    block = rig.spec.block_size
    new = new_code(rig, tmp_path / "new", 8 * block)
    size = region.size_for(region.slot_size_for((new.blocks + 1) * block, block), 2)
    rig.flash.write_bytes(b"\xff" * rig.spec.flash_size)
    rig.good, rig.blocks = new.good, new.blocks
    paths = [rig.blank_disk() for _ in range(rig.most_disks)]
    names = [rig.disk_name(i) for i in range(rig.most_disks)]
    random.seed(5)
    for path in paths:  # what was there before has to come back
        with open(path, "r+b") as file:
            file.seek(DISK - MB)
            file.write(random.randbytes(1000))
    before = [data_hash(path) for path in paths]
    undo = tmp_path / "undo"
    undo.mkdir()

    with pty_board(rig) as (port, _):
        arguments = ["provision", "--port", port, "--image", new.flash, "--size", size]
        arguments += ["--undo", undo]
        # Nobody has said that what is not zero may be lost.
        assert lifeboat(*arguments, "--yes", want=1)["error"]["code"] in (
            "overwrite",
            "disk-unknown",
        )
        first = (DISK - MB) // 512
        last = first + 1000 // 512
        for _ in paths:
            arguments += ["--overwrite", f"{first}-{last}"]
        assert lifeboat(*arguments, want=1)["error"]["code"] == "consent"
        assert [data_hash(path) for path in paths] == before
        assert rig.flash.read_bytes().count(0xFF) == rig.spec.flash_size

        arguments.append("--yes")
        cut = subprocess.Popen(command(*arguments), stdout=subprocess.DEVNULL, env=ENVIRONMENT)
        wait_until(lambda: start_of(rig.flash, block) == new.good[:block], cut)
        cut.kill()
        cut.wait()
        missing = differing(rig.flash, new.flash, block)
        assert 1 < len(missing)

        result = lifeboat(*arguments)
        assert 0 < result["code"]["blocks_sent"] < len(missing)  # the manifest is not counted
        assert [made["disk"] for made in result["created"]] == names
        assert result["report"]["verdict"] == "RUN"
        drilled = result["drill"]["block"]
        assert [r[:2] for r in result["report"]["repaired"]] == [[drilled, 1]]
        assert rig.content() == new.good
        assert [rig.copies(path) for path in paths] == [{"1.0": []}] * len(paths)
        assert lifeboat("verify", "--port", port)["ok"]
        memory = lifeboat("status", "--port", port)["memory"]
        assert memory["set"] == result["memory"] == result["created"][0]["set_id"]
        assert [(m["disk"], m["state"]) for m in memory["members"]] == [
            (name, "level") for name in names
        ]
        assert [build["version"] for build in memory["builds"]] == ["1.0"]

        again = [data_hash(path) for path in [rig.flash, *paths]]
        result = lifeboat("provision", "--port", port, "--image", new.flash)
        assert result["done"] is False and result["regions"] == names
        assert [data_hash(path) for path in [rig.flash, *paths]] == again
    app_runs(rig)

    with pty_board(rig) as (port, _):
        files = [f"--undo={path}" for path in sorted(undo.iterdir())]
        assert len(files) == len(paths)
        assert (
            lifeboat("unprovision", "--port", port, *files, want=1)["error"]["code"] == "consent"
        )
        result = lifeboat("unprovision", "--port", port, *files, "--yes")
        assert [entry["disk"] for entry in result["removed"]] == names
        assert len(result["forgotten"]) == len(names)
        memory = lifeboat("status", "--port", port)["memory"]
        assert (memory["state"], memory["set"], memory["members"]) == ("ok", None, [])
        again = lifeboat("unprovision", "--port", port)
        assert again["removed"] == again["forgotten"] == []
    assert [data_hash(path) for path in paths] == before


def test_new_code_is_sent_as_far_as_it_differs_and_backed_up(rig2, tmp_path):
    new = new_code(rig2, tmp_path / "new", 2 * MB, version="2.0", app="print('app: running')\n#2")
    memory = range(*(at // rig2.spec.block_size for at in rig2.memory_range))
    want = differing(rig2.flash, new.flash, rig2.spec.block_size)
    want = [block for block in want if block not in memory]
    assert 1 < len(want) < rig2.blocks
    with pty_board(rig2) as (port, _):
        result = lifeboat("flash", "--port", port, "--image", new.flash, "--yes")
        assert result["sent"]["blocks_sent"] == len(want) - 1  # all but the manifest
        assert result["report"]["verdict"] == "RUN" and result["report"]["version"] == "2.0"
        assert {m["state"] for m in result["report"]["members"]} == {"created"}
        assert lifeboat("flash", "--port", port, "--image", new.flash)["done"] is False
        status = lifeboat("status", "--port", port)
        assert status["code"]["version"] == "2.0" and status["product"] == rig2.spec.product
        assert {m["state"] for m in status["members"]} == {"level"}
        versions = [sorted(c["version"] for c in m["copies"]) for m in status["members"]]
        assert versions == [["1.0", "2.0"]] * rig2.most_disks
    rig2.good = new.good
    app_runs(rig2)


def test_the_disks_of_another_controller_are_adopted(rig2):
    """Told by status, only read until a person says so, written from then on."""
    assert rig2.heal()["set"]
    own = [str(path) for path in rig2.drives]
    rig2.drives = []
    rig2.add_disks()
    before = [data_hash(path) for path in rig2.drives]
    with pty_board(rig2) as (port, _):
        status = lifeboat("status", "--port", port)
        (found,) = status["sets"]
        assert not found["own"] and found["next"].endswith(f"lifeboat adopt {found['set'][:8]}")
        assert [m["state"] for m in status["memory"]["members"]] == ["missing"] * len(own)
        assert lifeboat("adopt", "--port", port, "--dry-run")["adopted"] == found["set"]
        assert lifeboat("adopt", "--port", port, want=1)["error"]["code"] == "consent"
        assert [data_hash(path) for path in rig2.drives] == before
        result = lifeboat("adopt", "--port", port, found["set"][:8], "--yes")
        assert result["report"]["verdict"] == "RUN" and result["memory"]["set"] == found["set"]
        assert {m["state"] for m in result["report"]["members"]} == {"created"}
    app_runs(rig2)


def test_an_image_that_is_wrong_is_refused(rig2, tmp_path):
    spec = rig2.spec
    other, broken = tmp_path / "other.img", tmp_path / "broken.img"
    image.build(
        [image.Source("os", rig2.flash.parent / "flash.img")],
        other,
        product="another-board",
        version="1.0",
        flash_size=2 * spec.flash_size,
        block_size=spec.block_size,
    )
    data = bytearray(rig2.good)
    data[4321] ^= 1
    broken.write_bytes(data)
    before = rig2.hashes()
    with pty_board(rig2) as (port, _):
        for path, code in (
            (other, "manifest-product"),
            (broken, "image-damaged"),
            (rig2.drives[0], "manifest-magic"),
        ):
            for name in ("flash", "provision"):
                result = lifeboat(name, "--port", port, "--image", path, "--yes", want=1)
                assert result["error"]["code"] == code
    assert rig2.hashes() == before


def test_a_board_unplugged_in_the_middle_is_an_error_and_keeps_its_old_code(rig2, tmp_path):
    new = new_code(rig2, tmp_path / "new", 2 * MB, version="2.0", seed=2)
    block = rig2.spec.block_size
    with pty_board(rig2) as (port, board):
        flash = subprocess.Popen(
            command("flash", "--port", port, "--image", new.flash, "--yes", "--json"),
            stdout=subprocess.PIPE,
            text=True,
            env=ENVIRONMENT,
        )
        wait_until(lambda: start_of(rig2.flash, block) == new.good[:block], flash)
        board.kill()
        out, _ = flash.communicate(timeout=60)
        assert flash.returncode == 1
        assert json.loads(out)["error"]["code"] == "link-closed"
        assert lifeboat("status", "--port", port, want=1)["error"]["code"] == "link-open"
    assert rig2.differing()
    report = rig2.heal()
    assert report["version"] == "1.0" and report["repaired"]


def test_damage_is_found_and_mended_on_request(rig2):
    rig2.rot(rig2.drives[0], 1)
    with pty_board(rig2) as (port, _):
        with Link(port) as link:
            agent = Agent(link)
            # The board itself refuses to damage what it could not repair from everywhere.
            with pytest.raises(LifeboatError) as caught:
                agent.call("drill", 1)
            assert caught.value.code == "backup-none"
            assert agent.call("drill", 2) == rig2.most_disks
        result = lifeboat("verify", "--port", port, want=3)
        assert result["code"]["bad"] == [2]
        assert [m["copies"][0]["bad"] for m in result["members"]][0] == [1]
        assert lifeboat("backup", "--port", port, want=1)["error"]["code"] == "code-damaged"
        repaired = lifeboat("recover", "--port", port)["report"]["repaired"]
        assert [r[:2] for r in repaired] == [[2, 1]]
        assert lifeboat("verify", "--port", port, want=3)["code"]["bad"] == []
        assert lifeboat("backup", "--port", port)["done"] is False
    assert rig2.content() == rig2.good


def test_a_disk_behind_the_board_is_the_disk(rig2):
    """What is read, found and written through the board is what the file holds."""
    path = rig2.drives[-1]
    name = rig2.disk_name(rig2.most_disks - 1)
    start, end = rig2.region_range(path)
    rng = random.Random(3)
    with Disk(path) as file, pty_board(rig2) as (port, _):
        inspected = lifeboat("region", "inspect", "--port", port, name)["members"]
        assert [member["disk"] for member in inspected] == [name]
        with open_disks(port, [name], write=True) as (disk,):
            assert (disk.size, disk.lba_size, disk.local) == (file.size, 512, False)
            for at, size in ((0, 512), (start - 100, 9000), (end - 4096, 4096), (start + 7, 1)):
                assert disk.read(at, size) == file.read(at, size)
            for low, high in ((0, MB), (start - MB, end), (start + 1, end), (start + 600, end)):
                assert disk.first_nonzero(low, high) == file.first_nonzero(low, high)
            with pytest.raises(LifeboatError, match="not ours"):
                disk.write(MB, bytes(512))
            disk.allow([(MB, 2 * MB)])
            data = rng.randbytes(100 * 512) + b"\x03" * 512 + bytes(512)
            disk.write(MB + 512, data)
            disk.flush()
            assert disk.read(MB, 512 + len(data)) == bytes(512) + data
            with pytest.raises(LifeboatError, match="not ours"):
                disk.write(2 * MB - 512, bytes(1024))
            # The board holds the same line, whatever the host asks for.
            disk._allowed = ((0, disk.size),)
            for at in (0, MB - 512, 2 * MB):
                with pytest.raises(LifeboatError, match="nobody allowed"):
                    disk.write(at, bytes(512))
        assert file.read(MB + 512, len(data)) == data
        with pytest.raises(LifeboatError) as caught, open_disks(port, ["sata9"]):
            pass
        assert caught.value.code == "disk-open"


def test_the_transfer_is_near_to_what_the_line_carries(rig2, capsys):
    """Bytes on the line, against raw bytes without any protocol in the same run."""
    size = (96 if rig2.spec.flash_kind == "mtd" else 256) * 1024
    data = random.Random(4).randbytes(size)
    with pty_board(rig2) as (port, _), Link(port) as link:
        agent = Agent(link)
        (disk,) = board_disk.attached(agent, [rig2.disk_name(0)], write=True)
        disk.allow([(MB, 2 * MB)])
        rates = []
        for _ in range(2):
            link.begin(
                "import sys, micropython\n"
                f"b = bytearray({size})\n"
                "micropython.kbd_intr(-1)\nprint('go')\n"
                "sys.stdin.buffer.readinto(b)\nmicropython.kbd_intr(3)\n"
            )
            assert link.read(4, 10) == b"go\r\n"
            began = time.monotonic()
            for at in range(0, size, 4096):
                link.write(data[at : at + 4096])
            link.end(120)
            bare = size / (time.monotonic() - began)
            began = time.monotonic()
            disk.write(MB, data)
            rates.append((size / (time.monotonic() - began), bare))
        assert disk.read(MB, size) == data
    with capsys.disabled():
        for ours, bare in rates:
            print(f"\n{rig2.spec.id}: {ours / 1024:.0f} of {bare / 1024:.0f} KiB/s", end="")
    assert max(ours / bare for ours, bare in rates) > 0.5


@pytest.fixture
def config(tmp_path):
    """A home with the snippet of docs/provisioning.md as mpremote's config.py."""
    snippet = re.search(r"```python\n(agent = .*?)```", DOC.read_text(), re.DOTALL)[1]
    folder = tmp_path / "config" / "mpremote"
    folder.mkdir(parents=True)
    (folder / "config.py").write_text(snippet)
    names = re.findall(r'^    "(lifeboat-[a-z]+)', snippet, re.MULTILINE)
    return names, {**os.environ, "XDG_CONFIG_HOME": str(folder.parent)}


def test_mpremote_has_commands_of_lifeboat(rig2, config):
    names, environment = config
    rig2.rot(rig2.drives[0], 1)
    with pty_board(rig2) as (port, _):

        def mpremote(*arguments):
            done = subprocess.run(
                [sys.executable, "-m", "mpremote", "connect", port, *arguments],
                capture_output=True,
                text=True,
                timeout=120,
                check=False,
                env=environment,
            )
            assert done.returncode == 0, done.stdout + done.stderr
            return done.stdout

        out = {name: mpremote(name) for name in names}
    want = {"status", "verify", "log", "recover", "disks", "sets"}
    assert set(out) == {f"lifeboat-{name}" for name in want}
    assert "[lifeboat] RUN: " in out["lifeboat-status"]
    assert re.search(r"code 1\.0 .*: 0 damaged", out["lifeboat-verify"])
    assert re.search(r"%s slot 0 .*: 1 damaged" % rig2.disk_name(0), out["lifeboat-verify"])
    assert rig2.disk_name(0) in out["lifeboat-disks"]
    assert '"verdict": "RUN"' in out["lifeboat-recover"]
    assert "created" in out["lifeboat-log"]
    assert re.search(r"memory: ok - own set: [0-9a-f]{32}\s", out["lifeboat-sets"])
    assert f"{rig2.disk_name(0)} - set " in out["lifeboat-sets"]
