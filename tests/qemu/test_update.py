"""A new build comes by the disks: a good one stays, a bad one goes by itself; power cuts (I4)."""

import os
import re
from pathlib import Path

import pytest

from lifeboat_host.bench import measure
from lifeboat_host.qemu import faulty_media
from qemu.rig import MB, pty_board
from qemu.test_power_cuts import cut_all, cuts_upon_cuts
from qemu.test_provision import lifeboat, new_code

GOOD = """
import lifeboat
print("app: confirms", lifeboat.confirm())
print("app: running")
"""
# An application that comes to nothing.
BAD = """
print("app: crashes")
raise ValueError
"""
PAGE = Path(__file__).resolve().parents[2] / "docs" / "update.md"
# A campaign: LIFEBOAT_CUTS=300 ./lifeboat test --slow -k qemu/test_update.
CUTS = int(
    os.environ.get(
        "LIFEBOAT_CUTS", "200" if os.environ.get("LIFEBOAT_CAMPAIGN") == "boards" else "10"
    )
)


@pytest.fixture(autouse=True)
def not_small(spec):
    if spec.disk_kind == "sd" and spec.flash_kind == "port":
        pytest.skip("its boot stage has no room for the extra update")


def test_a_good_update_stays(rig2, tmp_path):
    new = new_code(rig2, tmp_path / "new", 2 * MB, version="2.0", app=GOOD)
    with pty_board(rig2) as (port, _):
        update = ("update", "--port", port, "--image", new.flash)
        assert lifeboat(*update, want=1)["error"]["code"] == "consent"
        result = lifeboat(*update, "--yes", "--wait", "120")
        assert result["report"]["version"] == "2.0" and result["sent"]["blocks_sent"] < 4
        found = lifeboat("update", "--port", port)
        assert found["trial"]["state"] == "confirmed" and found["offers"] == []
    old, rig2.good = rig2.good, new.good
    rig2.heal()
    assert all(rig2.copies(drive) == {"1.0": [], "2.0": []} for drive in rig2.drives)
    # And it is a build like any other: a person goes back to the old one.
    with pty_board(rig2) as (port, _):
        assert lifeboat("rollback", "--port", port, "--yes")["report"]["version"] == "1.0"
    rig2.good = old
    rig2.heal()


def test_the_example_of_the_page_confirms_itself(rig2, tmp_path):
    example = re.search(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL).group(1)
    app = example + 'print("app: running")\n'
    new = new_code(rig2, tmp_path / "new", 2 * MB, version="2.0", app=app)
    with pty_board(rig2) as (port, _):
        update = ("update", "--port", port, "--image", new.flash, "--yes")
        assert lifeboat(*update, "--wait", "120")["report"]["version"] == "2.0"
    rig2.good = new.good
    rig2.heal()


def test_a_bad_update_comes_back_by_itself(rig2, tmp_path):
    new = new_code(rig2, tmp_path / "new", 2 * MB, version="2.0", seed=2, app=BAD)
    with pty_board(rig2) as (port, _):
        update = ("update", "--port", port, "--image", new.flash, "--yes")
        result = lifeboat(*update, "--wait", "120", want=1)
        assert result["error"]["code"] == "update-back" and "crash" in result["error"]["message"]
        found = lifeboat("update", "--port", port)["trial"]
        assert (found["state"], found["why"], found["old_version"]) == ("returned", "crash", "1.0")
        assert lifeboat(*update, want=1)["error"]["code"] == "build-rejected"
    rig2.heal()
    assert all(rig2.copies(drive) == {"1.0": []} for drive in rig2.drives)


def test_one_that_is_never_confirmed_is_gone_after_three_starts(rig2, tmp_path):
    new = new_code(rig2, tmp_path / "new", 2 * MB, version="2.0", seed=2)
    with pty_board(rig2) as (port, _):
        result = lifeboat("update", "--port", port, "--image", new.flash, "--yes")
        assert result["trial"]["state"] == "trying" and result["report"]["version"] == "2.0"
    for starts in (2, 3):
        report, _ = rig2.power_on()
        assert (report["version"], report["trial"]["starts"]) == ("2.0", starts)
    report, _ = rig2.power_on()
    assert (report["version"], report["trial"]["why"]) == ("1.0", "trial-starts")
    assert rig2.heal()["reasons"] == []


# The image lies raw on the disk, behind the file system; the board makes a file of it.
FILE = """
import board, vfs
from lifeboat.userarea import user_area

class Part:
    def __init__(self, dev, count):
        self.readblocks, self.writeblocks = dev.readblocks, dev.writeblocks
        self.dev, self.count = dev, count
    def ioctl(self, op, arg):
        return self.count if op == 4 else self.dev.ioctl(op, arg)

area = user_area(board.disks()[0])
part = Part(area, %d // 512)
vfs.VfsFat.mkfs(part)
vfs.mount(vfs.VfsFat(part), "/sd")
buf = bytearray(65536)
with open("/sd/new.img", "wb") as file:
    for at in range(%d, %d, 65536):
        area.readblocks(at // 512, buf)
        file.write(buf)
ballast = fill_heap(%d)
from lifeboat.stage import from_image
from_image(board, "/sd/new.img")
"""


HEAP = 704 * 1024
FILL_HEAP = Path(measure.__file__).with_name("on_board_heap_device.py")


def test_an_image_from_a_file_on_the_user_area(protected, spec, tmp_path):
    """16 MB where the flash is mapped, else 8; blocks of up to 256 KB, with HEAP left for all."""
    size = 16 * MB if spec.flash_kind == "pflash" else 8 * MB
    rig = protected(size).copy_to(tmp_path)
    new = new_code(rig, tmp_path / "new", size, version="2.0", seed=2, app=GOOD)
    data = new.flash.read_bytes()
    first = 80 * MB
    with open(rig.drives[0], "r+b") as disk:
        disk.seek(first)
        disk.write(data)
    with rig.board() as board:
        board.power_on_report()
        board.wait_for("app: running")
        board.repl(interrupt=True)
        assert board.run(FILL_HEAP.read_text()) == ("", "")
        out, error = board.run(FILE % (first, first, first + len(data), HEAP), 600)
        assert not error, out + error
        assert "2.0 is on" in out
    report, console = rig.power_on()
    assert report["version"] == "2.0" and "lifeboat-trial: confirmed 2.0" in console
    rig.good = new.good
    rig.heal()
    assert all(rig.copies(drive)["2.0"] == [] for drive in rig.drives)


HANGS = """
print("app: hangs")
while True:
    pass
"""


@pytest.mark.parametrize("spec", ["qemu_virt", "qemu_virt-signed"], indirect=True)
def test_a_watchdog_ends_what_hangs(rig2, tmp_path):
    """QEMU's i6300esb resets the machine; the power-on that follows brings the old build back."""
    dog = ["-device", "i6300esb", "-action", "watchdog=reset"]
    new = new_code(rig2, tmp_path / "new", 2 * MB, version="2.0", seed=2, app=HANGS)
    with pty_board(rig2) as (port, _):
        lifeboat("update", "--port", port, "--image", new.flash, "--yes", "--starts", "200")
    short = "import board; board.watchdog(3000)"
    with rig2.board(extra=dog) as board:
        assert board.power_on_report()["version"] == "2.0"
        board.wait_for("app: hangs")
        board.repl(interrupt=True)
        out, error = board.run(short, 30)  # sooner than in the board's ten minutes
        assert not error, out + error
        report = board.power_on_report()
        assert (report["version"], report["trial"]["why"]) == ("1.0", "trial-watchdog")
    assert rig2.heal()["reasons"] == []


@pytest.fixture
def armed(rig2, tmp_path):
    """Holds a candidate, and the next power-on tries it; the rig of the new code, too."""
    new = new_code(rig2, tmp_path / "new", 2 * MB, version="2.0", seed=2)
    with pty_board(rig2) as (port, _):
        lifeboat("update", "--port", port, "--image", new.flash, "--yes", "--starts", "200")
        lifeboat("update", "--port", port, "--reject", "again")
        # On its way back at the last look: staged again, the flash holds the old build.
    return rig2, new


def check_either(rig, old, new):
    def check(rig, n):
        for _ in range(3):
            report, _ = rig.power_on()
            assert report["verdict"] == "RUN", (n, report)
            assert rig.content()[: rig.memory_range[0]] in (
                old[: rig.memory_range[0]],
                new[: rig.memory_range[0]],
            ), n
        assert all(rig.copies(drive)["1.0"] == [] for drive in rig.drives), n

    return check


ACCEPT = """
import board
from lifeboat import trial, update
found = update.Update(board)
for manifest, _ in found.offers():
    found.accept(manifest.build, 200)
    break
else:
    raise OSError
"""
# Candidates that were rejected are a person's to accept.
CONFIRM = "import lifeboat; lifeboat.confirm()"
TURN_BACK = "import board; from lifeboat import trial; trial.turn_back(board, 'no good')"


def say(rig, code):
    with rig.board() as board:
        board.power_on_report()
        board.wait_for("app: running")
        board.repl(interrupt=True)
        out, error = board.run(code, 300)
        assert not error, out + error


@pytest.mark.slow
@pytest.mark.parametrize("way", ["try", "confirm", "back"])
def test_each_way_is_cut(sweep, armed, tmp_path, monkeypatch, way):
    """The power-on that programs the new build; that and its confirmation; the way back."""
    from qemu import test_power_cuts

    monkeypatch.setattr(test_power_cuts, "CUTS", max(CUTS, 10))
    rig, new = armed
    old = bytes(rig.good)
    say(rig, ACCEPT)
    if way == "back":
        say(rig, TURN_BACK)
    then = CONFIRM if way == "confirm" else None
    check = check_either(rig, old, new.good)
    kinds = cut_all(sweep, rig, tmp_path, lambda rig: None, check, then)
    assert ("flash", "write") in kinds or ("flash", "program") in kinds or not sweep.whole


def test_a_trial_survives_cuts_upon_cuts(sweep, armed, tmp_path):
    """The power-on that programs the new build is cut, and the ones that go on with it."""
    rig, new = armed
    old = bytes(rig.good)
    say(rig, ACCEPT)
    cuts_upon_cuts(sweep, rig, tmp_path, lambda rig: None, check_either(rig, old, new.good))


# The application stages what lies raw on its disk.
STAGE = """
import board
from lifeboat.stage import Stage
from lifeboat.userarea import user_area
area = user_area(board.disks()[0])
first, size, manifest_at, length = %d, %d, %d, %d
buf = memoryview(bytearray(size))
area.readblocks((first + manifest_at) // 512, buf)
stage = Stage(board, buf[:length])
for _ in stage.gather():
    pass
"""
PUT = """
for block in stage.needed:
    area.readblocks((first + block * size) // 512, buf)
    stage.put(block, buf)
print(stage.commit())
stage.arm(200)
"""


def beside(rig, new):
    """Put an image raw onto the first disk; what begins to stage it from there."""
    data, first = new.flash.read_bytes(), 80 * MB
    with open(rig.drives[0], "r+b") as disk:
        disk.seek(first)
        disk.write(data)
    length = int.from_bytes(data[new.manifest_at :][12:16], "little")
    return STAGE % (first, rig.spec.block_size, new.manifest_at, length)


@pytest.mark.sata
def test_a_member_that_vanishes_while_it_is_staged_is_brought_level_later(rig2, tmp_path):
    new = new_code(rig2, tmp_path / "new", 2 * MB, version="2.0", seed=2)
    begin = beside(rig2, new)
    with faulty_media.Lab() as lab:
        exports = [lab.export(p.stem, faulty_media.FileStore(p)) for p in rig2.drives]
        with rig2.board(exports) as board:
            board.power_on_report()
            board.wait_for("app: running")
            board.repl(interrupt=True)
            assert board.run(begin, 300) == ("", "")
            exports[1].vanish()
            out, error = board.run(PUT, 300)
            assert not error and out.strip() == f"['{rig2.disk_name(0)}']", out + error
    # The trial needs both builds whole: the first disk has them.
    with rig2.board(rig2.drives[:1]) as board:
        report = board.power_on_report()
        assert (report["verdict"], report["version"]) == ("RUN", "2.0")
        board.wait_for("app: running")
        board.repl(interrupt=True)
        out, error = board.run(CONFIRM, 300)
        assert not error, out + error
    rig2.good = new.good
    report = rig2.heal()
    assert [member["state"] for member in report["members"]] == ["level", "created"]
    assert all(rig2.copies(drive)["2.0"] == [] for drive in rig2.drives)


@pytest.mark.slow
def test_staging_is_cut(sweep, rig2, tmp_path, monkeypatch):
    """Old copies are whole after each cut; a later power-on has one of both builds."""
    from qemu import test_power_cuts

    monkeypatch.setattr(test_power_cuts, "CUTS", max(CUTS, 10))
    new = new_code(rig2, tmp_path / "new", 2 * MB, version="2.0", seed=2)
    then = beside(rig2, new) + PUT
    check = check_either(rig2, bytes(rig2.good), new.good)
    kinds = cut_all(sweep, rig2, tmp_path, lambda rig: None, check, then)
    assert ("disk", "write") in kinds or not sweep.whole
