"""qemu.py and session.py, with a small script in QEMU's place."""

import dataclasses
import json
import shlex
import sys

import pytest

from lifeboat_host.base.errors import LifeboatError
from lifeboat_host.qemu import board_spec, faulty_media, machine
from lifeboat_host.qemu.board_spec import BoardSpec

# Answers on the monitor's socket and behaves on its console like a board with a raw REPL.
FAKE = r"""
import json, os, socket, sys, threading
arguments = sys.argv[1:]
if "--broken" in arguments:
    sys.exit("broken on purpose")
path = next(a for a in arguments if a.startswith("socket,id=qmp")).split("path=")[1]
monitor = socket.socket(socket.AF_UNIX)
monitor.connect(path)

def serve():
    stream = monitor.makefile("rwb", buffering=0)
    stream.write(b'{"QMP": {}}\n')
    for line in stream:
        command = json.loads(line)["execute"]
        if command == "nonsense":
            answer = {"error": {"desc": "no such command"}}
        else:
            answer = {"return": {"did": command}}
            stream.write(b'{"event": "SOMETHING"}\n')
        stream.write(json.dumps(answer).encode() + b"\n")

threading.Thread(target=serve, daemon=True).start()

def say(data):
    os.write(1, data)

say("booting ä\r\nlifeboat: not a report\r\n".encode())
say(b'lifeboat: {"verdict": "RUN", "reasons": [], "build": null, "bad": [], "repaired": [], ')
say(b'"lost": [], "members": [], "ms": {"total": 7}}\r\n>>> ')
text = b""
while True:
    data = os.read(0, 4096)
    if not data:
        break
    text += data
    if text.endswith(b"\x01"):
        say(b"\r\nraw REPL; CTRL-B to exit\r\n>")
        text = b""
    elif text.endswith(b"\x04"):
        error = b"Traceback" if b"raise" in text else b""
        say(b"OK" + str(len(text) - 1).encode() + b"\x04" + error + b"\x04>")
        text = b""
    elif text.endswith(b"die"):
        sys.exit("died")
"""


@pytest.fixture
def spec(tmp_path, monkeypatch):
    fake = tmp_path / "qemu"
    fake.write_text(f"#!{sys.executable}\n{FAKE}")
    fake.chmod(0o755)
    firmware = tmp_path / "boards" / "b-unsigned" / "firmware.bin"
    firmware.parent.mkdir(parents=True)
    firmware.write_bytes(b"boot")
    monkeypatch.setenv("LIFEBOAT_CACHE", str(tmp_path))
    return BoardSpec("b", "a board", "prod", 65536, 4096, str(fake), ("-machine", "virt"))


@pytest.fixture
def board(spec):
    with machine.Board("flash.img", ["disk.img"], spec=spec) as started:
        yield started


def test_the_report_is_found_among_other_lines(board):
    report = board.power_on_report(30)
    assert (report["verdict"], report["ms"]) == ("RUN", {"total": 7})
    assert "booting ä" in board.console


def test_code_is_run_in_the_raw_repl(board):
    board.repl()
    assert board.run("12345") == ("5", "")
    assert board.run("raise") == ("5", "Traceback")


def test_the_monitor_answers_and_events_are_kept(board):
    assert board.qmp("query-status") == {"did": "query-status"}
    with pytest.raises(LifeboatError, match="no such command"):
        board.qmp("nonsense")


def test_off_is_a_power_cut_and_on_starts_afresh(board):
    board.wait_for(">>> ")
    first = board.pid
    board.cycle()
    assert board.pid != first
    board.wait_for("booting")
    board.off()
    assert not board.running
    with pytest.raises(LifeboatError) as caught:
        board.send("x")
    assert caught.value.code == "board-off"
    board.off()


def test_a_text_that_does_not_come_is_an_error_with_all_that_is_known(board):
    with pytest.raises(LifeboatError, match="no 'never' after 0.1 seconds.*booting") as caught:
        board.wait_for("never", timeout=0.1)
    assert caught.value.code == "board-timeout"
    assert board.command_line() in caught.value.hint


def test_an_end_of_qemu_is_an_error_with_its_stderr(board):
    board.send("die")
    with pytest.raises(LifeboatError, match="died") as caught:
        board.wait_for("never")
    assert caught.value.code == "board-ended"


def test_a_kill_from_another_thread_ends_a_wait(board):
    import threading

    board.wait_for(">>> ")
    threading.Timer(0.05, board.kill).start()
    with pytest.raises(LifeboatError) as caught:
        board.wait_for("never")
    assert caught.value.code == "board-ended"


def test_a_qemu_that_does_not_start_is_an_error_with_its_stderr(spec):
    board = machine.Board("flash.img", spec=spec, extra=["--broken"])
    with pytest.raises(LifeboatError, match="broken on purpose"):
        board.on()
    assert not board.running
    board.close()


# --- the command line


def arguments(spec, *drives, flash="flash.img", **keywords):
    return machine.machine_arguments(spec, flash, drives, **keywords)


def after(option, command):
    return [value for name, value in zip(command, command[1:]) if name == option]


def test_the_boot_stage_is_write_protected_and_the_flash_is_not(spec):
    boot, flash = after("-drive", arguments(spec))
    assert boot.startswith("if=pflash,unit=0,") and boot.endswith(",readonly=on")
    assert flash.startswith("if=pflash,unit=1,") and "readonly" not in flash
    assert (spec.firmware.with_name("pflash0.img")).read_bytes() == b"boot".ljust(65536, b"\0")


def test_a_new_boot_stage_is_taken(spec):
    arguments(spec)
    spec.firmware.write_bytes(b"new!")
    arguments(spec)
    assert spec.firmware.with_name("pflash0.img").read_bytes().startswith(b"new!")


def test_disks_take_the_ports_in_order_and_none_leaves_one_empty(spec):
    command = arguments(spec, "a", None, *"bcdefg")
    devices = after("-device", command)
    assert devices[:2] == ["ich9-ahci,id=ahci0", "ich9-ahci,id=ahci1"]
    buses = [device.split("bus=")[1].split(",")[0] for device in devices[2:]]
    assert buses == ["ahci0.0", *(f"ahci0.{n}" for n in range(2, 6)), "ahci1.0", "ahci1.1"]
    assert after("-device", arguments(spec)) == ["ich9-ahci,id=ahci0"]


def usb_places(command):
    devices = [d for d in after("-device", command) if d.startswith("usb-storage")]
    return [device.split("bus=")[1].split(",")[:3] for device in devices]


def test_usb_disks_hang_beside_sata_disks_on_a_controller_of_their_own(spec):
    command = arguments(spec, "a", machine.Usb("b", {"serial": "U"}), None, "c", machine.Usb("d"))
    devices = after("-device", command)
    assert "pci-ohci,id=usb,num-ports=3" in devices
    assert [d.split("bus=")[1].split(",")[0] for d in devices if d.startswith("ide-hd")] == [
        "ahci0.0", "ahci0.2",
    ]  # fmt: skip
    assert usb_places(command) == [
        ["usb.0", "port=1", "serial=U"], ["usb.0", "port=2", "serial=LU0001"],
    ]  # fmt: skip
    assert not [d for d in after("-device", arguments(spec, "a")) if "usb" in d or "ohci" in d]


def test_a_board_with_usb_disks_only_has_them_in_order(spec):
    usb = spec.with_usb()
    command = arguments(usb, "a", None, "b", machine.Sata("c"))
    assert [place[1] for place in usb_places(command)] == ["port=1", "port=3"]
    assert len([d for d in after("-device", command) if d.startswith("ide-hd")]) == 1
    assert not usb_places(arguments(usb))


def test_there_are_no_more_usb_disks_than_ports(spec):
    assert len(usb_places(arguments(spec.with_usb(), *["a"] * 15))) == 15
    with pytest.raises(LifeboatError) as caught:
        arguments(spec.with_usb(), *["a"] * 16)
    assert caught.value.code == "board-drives"


def test_media_may_be_files_nbd_exports_or_anything_blockdev_knows(spec):
    with faulty_media.Lab() as lab:
        export = lab.export("disk", faulty_media.MemoryStore(bytes(512)))
        faulty = {"driver": "blkdebug", "image": {"driver": "file", "filename": "x"}}
        command = arguments(
            spec, "a,b.img", export, faulty, machine.Sata("c", {"serial": "S,1"}), flash=export
        )
    nodes = [json.loads(node) for node in after("-blockdev", command)]
    assert nodes[0]["file"]["filename"].endswith("/a,b.img")
    assert nodes[1]["file"] == {"driver": "nbd", "server": {"type": "unix", "path": export.path}}
    assert nodes[2]["file"] == faulty
    assert "serial=S,,1" in after("-device", command)[-1]
    assert (
        f"file.driver=nbd,file.server.type=unix,file.server.path={export.path}"
        in (after("-drive", command)[1])
    )


def test_the_command_line_is_quoted_for_a_shell(spec):
    board = machine.Board(
        "a b.img", ["c d.img"], spec=spec, icount="shift=0", extra=["-no-reboot"]
    )
    line = board.command_line()
    board.close()
    assert shlex.split(line) == board.arguments()
    assert "-icount shift=0 -no-reboot" in line
    assert "-chardev stdio" in line
    assert "qmp" not in line


# --- a board with SPI media


@pytest.fixture
def sifive(spec):
    return dataclasses.replace(spec, flash_kind="mtd", disk_kind="sd", boot_base=0x20000000)


@pytest.fixture
def card(tmp_path):
    path = tmp_path / "card,1.img"
    path.write_bytes(bytes(4096))
    return path


def test_the_boot_stage_may_be_loaded_and_flash_and_card_be_drives(sifive, card):
    command = arguments(sifive, card, flash="a,b.img")
    assert after("-device", command) == [
        f"loader,file={sifive.firmware},addr=0x20000000,force-raw=on"
    ]
    flash, disk = after("-drive", command)
    assert flash.startswith("if=mtd,format=raw,file.driver=file,file.filename=/")
    assert flash.endswith("/a,,b.img")
    assert disk.startswith("if=sd,format=raw,") and disk.endswith("/card,,1.img")
    assert "-blockdev" not in command


def test_an_sd_card_is_optional_and_in_any_place(sifive, card):
    assert len(after("-drive", arguments(sifive))) == 1
    assert len(after("-drive", arguments(sifive, None, card))) == 2


@pytest.mark.parametrize("drives", [["a", "b"], [machine.Sata("a")], [machine.Usb("a")]])
def test_more_than_one_card_or_a_sata_disk_is_refused(sifive, drives):
    with pytest.raises(LifeboatError, match="one slot for an SD card") as caught:
        arguments(sifive, *drives)
    assert caught.value.code == "board-drives"


@pytest.mark.parametrize("size", [0, 4095, 3 << 20])
def test_a_card_image_that_is_no_power_of_two_is_refused(sifive, card, size):
    card.write_bytes(bytes(size))
    with pytest.raises(LifeboatError, match=f"{size} bytes.*power of two") as caught:
        arguments(sifive, card)
    assert "truncate" in caught.value.hint


def test_soldered_media_may_be_exports_or_anything_blockdev_knows(sifive):
    with faulty_media.Lab() as lab:
        export = lab.export("disk", faulty_media.MemoryStore(bytes(512)))
        errors = [{"event": "none", "sector": 7, "once": True}]
        faulty = {"driver": "blkdebug", "image": export_of(export), "inject-error": errors}
        flash, disk = after("-drive", arguments(sifive, faulty, flash=export))
    assert f"file.server.type=unix,file.server.path={export.path}" in flash
    assert f"file.image.server.path={export.path}" in disk
    assert disk.endswith("inject-error.0.sector=7,file.inject-error.0.once=on")


def export_of(export):
    return {"driver": "nbd", "server": {"type": "unix", "path": export.path}}


def test_the_boards_of_the_tree_can_be_loaded(monkeypatch):
    monkeypatch.delenv("LIFEBOAT_ROOT", raising=False)
    virt, sifive = board_spec.load("qemu_virt"), board_spec.load("qemu_sifive_u")
    assert (virt.flash_kind, virt.disk_kind, virt.boot_base) == ("pflash", "sata", None)
    assert (sifive.flash_kind, sifive.disk_kind, sifive.boot_base) == ("mtd", "sd", 0x20000000)
    assert board_spec.load("sifive_u") == sifive
    with pytest.raises(LifeboatError, match="no board 'other'"):
        board_spec.load("other")
