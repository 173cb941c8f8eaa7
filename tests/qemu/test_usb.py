"""USB disks on QEMU's OHCI controller: the driver on the board, and a board healed from USB.

With `--slow` the whole list of this folder runs on a board whose disks are USB disks only.
"""

import errno
import json
import shutil
import time

import pytest

from lifeboat_host.qemu import faulty_media
from lifeboat_host.qemu.machine import Sata, Usb
from qemu import test_power_cuts as cuts
from qemu.rig import MB, Rig, extents
from qemu.test_drivers import FREE, TIB, Console, hold_far_apart, source, write_far_apart

pytestmark = pytest.mark.parametrize("spec", ["qemu_virt-usb"], indirect=True)


@pytest.fixture(scope="module")
def made(spec, tmp_path_factory):
    rig = Rig(spec, tmp_path_factory.mktemp("usb"))
    rig.make_image(MB)
    assert FREE > MB
    yield rig
    shutil.rmtree(rig.folder, ignore_errors=True)


@pytest.fixture
def rig(made, tmp_path):
    """A rig without disks whose flash has an image of 1 MB."""
    yield made.copy_to(tmp_path)
    shutil.rmtree(tmp_path, ignore_errors=True)


# The driver. QEMU's usb-storage has sectors of 512 bytes; other disks hang on its usb-bot.


def four_k(path):
    """QEMU's arguments for a USB disk with sectors of 4096 bytes on a controller of its own."""
    node = f'{{"driver":"raw","node-name":"n","file":{{"driver":"file","filename":"{path}"}}}}'
    disk = "scsi-hd,bus=bot.0,scsi-id=0,lun=0,drive=n,logical_block_size=4096,serial=4K"
    return [
        "-device", "pci-ohci,id=other",
        "-device", "usb-bot,id=bot,bus=other.0",
        "-blockdev", node,
        "-device", f"{disk},physical_block_size=4096",
    ]  # fmt: skip


@pytest.mark.parametrize("size", [512, 4096])
def test_disk_conformance(rig, size):
    path = rig.blank_disk(64 * MB)
    drives, extra = ([path], []) if size == 512 else ([], four_k(path))
    with Console(rig, drives, extra=extra) as console:
        assert console.run("print(d.name, d.ioctl(4, 0), d.ioctl(5, 0))") == [
            "usb0", str(64 * MB // size), str(size),
        ]  # fmt: skip
        words = console.run(source("conformance/disk.py") + "check_disk(d, 2048, 256, 1 << 19)")
    assert words[-2:] == ["checks", "passed"] and int(words[-3]) > 9
    for start, end in extents(path):
        assert 2048 * size <= start and end <= (2048 + 256) * size, "written elsewhere"


def test_disks_are_named_by_their_ports_and_tell_their_serial_numbers(rig):
    drives = [Sata(rig.blank_disk(2 * MB)), *(rig.blank_disk(2 * MB) for _ in range(4))]
    drives[2] = None
    with Console(rig, drives) as console:
        said = console.run("for d in disks: print(d.name, d.serial, d.power_cycles())")
    assert said == "sata0 LB0000 0 usb0 LU0000 0 usb2 LU0002 0 usb3 LU0003 0".split()


def test_a_disk_beyond_32_bits(rig):
    path = rig.blank_disk(4 * TIB)
    with Console(rig, [path]) as console:
        places = write_far_apart(console)
    hold_far_apart(path, places)


def test_a_write_protected_disk(rig):
    protected = {
        "driver": "file",
        "filename": str(rig.blank_disk(2 * MB)),
        "read-only": True,
    }
    with Console(rig, []) as console:
        assert console.run("print(len(disks))") == ["0"]
    node = f'{{"driver":"raw","node-name":"n","read-only":true,"file":{json.dumps(protected)}}}'
    extra = ["-device", "pci-ohci,id=other", "-blockdev", node]
    extra += ["-device", "usb-storage,bus=other.0,drive=n"]
    with Console(rig, [], extra=extra) as console:
        said = console.run("b = bytearray(512)\nd.readblocks(0, b)\ntry: d.writeblocks(0, b)\n"
                           "except OSError as e: print(e.errno)")  # fmt: skip
    assert said == [str(errno.EROFS)]


def test_errors_of_a_disk_and_work_after_them(rig):
    """A sector that fails to be read, one that fails to be written, a flush that fails once."""
    with faulty_media.Lab() as lab:
        export = lab.export("disk", faulty_media.FileStore(rig.blank_disk(16 * MB)))
        with Console(rig, [export]) as console:
            faults = [
                export.fail("read", span=(1000 * 512, 1001 * 512)),
                export.fail("write", span=(2000 * 512, 2001 * 512)),
                export.fail("flush", times=1),
            ]
            said = console.run(
                "b, w = bytearray(16384), b'\\x5a' * 16384\n"
                "print(result(d.readblocks, 990, b), d.sense > 0)\n"
                "print(result(d.readblocks, 1001, b))\n"
                "print(result(d.writeblocks, 1990, w), d.sense > 0)\n"
                "print(result(d.writeblocks, 2001, w))\n"
                "print(result(d.ioctl, 3, 0), result(d.ioctl, 3, 0))\n"
                "print(result(d.readblocks, 2001, b), b == w)"
            )
            assert said == "EIO True ok EIO True ok EIO ok ok True".split()
            assert all(fault.hits for fault in faults)
            for fault in faults:
                fault.release()


def test_a_hung_command_and_the_disk_revived(rig):
    with faulty_media.Lab() as lab:
        export = lab.export("disk", faulty_media.FileStore(rig.blank_disk(16 * MB)))
        with Console(rig, [export]) as console:
            held = export.hold("read", seconds=8, span=(MB, 2 * MB))
            out = console.run(
                "b = bytearray(65536)\n"
                "t = time.ticks_ms()\n"
                "print(result(d.readblocks, 2048, b), time.ticks_diff(time.ticks_ms(), t))\n"
                "print(result(d.readblocks, 0, b), result(d.ioctl, 4, 0))"
            )
            # To cancel a request, QEMU stops the machine until the host has answered it.
            assert out[0] == "ETIMEDOUT" and 5000 <= int(out[1]) < 9500
            assert out[2:] == ["ENODEV"] * 2
            held.release()
            assert console.run(
                "b = bytearray(b'\\xa5' * 65536)\n"
                "print(result(d.ioctl, 1, 0), result(d.writeblocks, 2048, b))\n"
                "print(result(d.ioctl, 3, 0), result(d.readblocks, 0, b))\n"
                "print(result(d.readblocks, 2048, b), b == b'\\xa5' * 65536)"
            ) == ["ok"] * 5 + ["True"]


def test_a_disk_pulled_put_back_and_another_in_its_place(rig):
    paths = [rig.blank_disk(2 * MB), rig.blank_disk(2 * MB)]
    drives = [Usb(path, {"share-rw": "on"}) for path in paths]
    with Console(rig, drives) as console:
        console.run("d.writeblocks(3, b'here' * 128)\nd.ioctl(3, 0)\nb = bytearray(512)")
        console.pull("usb0-disk")
        gone = console.run("print(result(d.readblocks, 3, b), result(d.ioctl, 1, 0))")
        assert gone == ["ENODEV", "ENODEV"]
        console.pull("usb1-disk")
        console.plug(id="x", drive="usb1", port="1", serial="LU0001", **{"share-rw": True})
        assert console.run("print(result(d.ioctl, 1, 0), result(d.readblocks, 3, b))") == [
            "ENODEV", "ENODEV",
        ]  # fmt: skip
        console.pull("x")
        console.plug(id="y", drive="usb0", port="1", serial="LU0000", **{"share-rw": True})
        assert console.run(
            "print(result(d.readblocks, 3, b), result(d.ioctl, 1, 0))\n"
            "print(result(d.readblocks, 3, b), b[:4])"
        ) == ["ENODEV", "ok", "ok", "bytearray(b'here')"]


def test_a_disk_object_of_before_a_start_is_gone_and_its_successor_works(rig):
    with Console(rig, [rig.blank_disk(16 * MB)]) as console:
        console.run("b = bytearray(b'new!' * 1024)\nold = d\nboard.start()\nd = board.disks()[0]")
        assert console.run(
            "print(result(d.ioctl, 1, 0), result(d.writeblocks, 8, b), result(d.ioctl, 3, 0))\n"
            "print(result(old.readblocks, 0, b), result(old.ioctl, 1, 0), d is old)\n"
            "c = bytearray(4096)\nd.readblocks(8, c)\nprint(c == b)"
        ) == ["ok", "ok", "ok", "ENODEV", "ENODEV", "False", "True"]


def test_no_read_completes_into_the_heap_after_a_soft_reset(rig):
    """Ctrl-C and a soft reset while a read is under way: the controller is stopped before."""
    with faulty_media.Lab() as lab:
        export = lab.export("disk", faulty_media.MemoryStore(b"late" * MB))
        with rig.board([export]) as board:
            board.repl()
            held = export.hold("read", seconds=2, span=(MB, 2 * MB))
            board.run(
                "import board\nd = board.disks()[0]\nd.ioctl(1, 0)\nb = bytearray(122880)\n"
                "from uctypes import addressof\nprint(addressof(b))"
            )
            board.send("d.readblocks(2048, b)\x04")
            board.wait_for("OK")
            deadline = time.monotonic() + 10
            while not held.hits:
                assert time.monotonic() < deadline, "the read has not begun"
                time.sleep(0.01)
            board.send("\x03")
            board.wait_for("KeyboardInterrupt")
            board.send("\x04")
            board.wait_for("raw REPL; CTRL-B to exit\r\n>")
            out, err = board.run(
                "import time\nb = bytearray(7 << 20)\ntime.sleep(2)\nprint(b.find(b'late'))"
            )
            assert (out.split(), err) == (["-1"], "")


# The whole.


@pytest.fixture
def usb_only(empty_rig):
    """A board with 2 MB of code and one USB disk, powered on once."""
    empty_rig.make_image(2 * MB)
    empty_rig.add_disks(1)
    report, _ = empty_rig.power_on()
    assert (report["verdict"], report["members"][0]["disk"]) == ("RUN", "usb0"), report
    assert report["members"][0]["state"] == "created"
    return empty_rig


def test_one_usb_disk_heals_whatever_happens_to_the_flash(usb_only):
    rig = usb_only
    before = rig.hashes()
    assert rig.heal()["disk_writes"] == 0
    assert rig.hashes() == before
    assert rig.damage((300000, b"rot")) == [1]
    assert rig.heal()["repaired"] == [[1, 1, "usb0"]]
    rig.damage((0, b"\xff" * rig.spec.flash_size))
    report = rig.heal()
    assert report["repaired"] == [[0, rig.blocks, "usb0"], [rig.manifest_block, 1, "usb0"]]
    assert report["erases"] == rig.blocks + 1


def test_a_usb_disk_beside_a_sata_disk(empty_rig):
    rig = empty_rig
    rig.make_image(2 * MB)
    rig.add_disks(2)
    sata, usb = Sata(rig.drives[0]), Usb(rig.drives[1])
    report = rig.heal(drives=[sata, usb])
    assert [(m["disk"], m["state"]) for m in report["members"]] == [
        ("sata0", "created"), ("usb0", "created"),
    ]  # fmt: skip
    rig.rot(rig.drives[0], 2)
    rig.rot(rig.drives[1], 3)
    block = rig.spec.block_size
    assert rig.damage((2 * block, b"two"), (3 * block, b"three")) == [2, 3]
    assert rig.heal(drives=[sata, usb])["repaired"] == [[2, 1, "usb0"], [3, 1, "sata0"]]
    # Each of them alone.
    for drive, name in ((usb, "usb0"), (sata, "sata0")):
        rig.damage((block, b"rot"))
        assert rig.heal(drives=[drive])["repaired"] == [[1, 1, name]]
    # A member may move from one bus to the other.
    assert [m["state"] for m in rig.heal(drives=[Usb(sata.medium), usb])["members"]] == [
        "level"
    ] * 2


def test_a_usb_disk_pulled_during_operation_keeps_nothing_from_running(usb_only):
    with usb_only.board() as board:
        board.power_on_report()
        board.wait_for("app: running")
        board.repl(interrupt=True)
        board.qmp("device_del", id="usb0-disk")
        out, err = board.run(
            "import board\nfrom lifeboat.scrub import Scrubber\ns = Scrubber(board)\n"
            "for _ in range(100): s.step(20)\nprint('alive')",
            timeout=120,
        )
    assert (out.split(), err) == (["alive"], "")


@pytest.mark.parametrize("places", [5, pytest.param(30, marks=pytest.mark.slow)])
@pytest.mark.parametrize("what", ["creating", "recovering"])
def test_power_cuts(sweep, usb_only, tmp_path, monkeypatch, what, places):
    monkeypatch.setattr(cuts, "CUTS", places)
    test = {"creating": cuts.test_creating_is_cut, "recovering": cuts.test_recovering_is_cut}
    test[what](sweep, usb_only, tmp_path)
