"""The console: what runs when, what can interrupt it, and that mpremote always gets in."""

import time

BUSY = """
import time
print("app: running")
n = 0
while True:
    n += 1
"""


def test_ctrl_c_does_not_stop_the_inspection(rig8):
    with rig8.board() as board:
        board.send("\x03" * 64)
        report = board.power_on_report()
        assert report["verdict"] == "RUN" and report["reasons"] == []
        board.wait_for("app: running")


def test_ctrl_c_stops_a_busy_application(empty_rig):
    empty_rig.app_source = BUSY
    empty_rig.make_image(1 << 20)
    with empty_rig.board() as board:
        board.wait_for("app: running")
        board.repl(interrupt=True)
        assert "KeyboardInterrupt" in board.console
        assert board.run("print(n > 0)")[0].strip() == "True"


def test_a_soft_reset_reports_the_stored_verdict_and_does_not_inspect(rig8):
    with rig8.board() as board:
        first = board.power_on_report()
        board.wait_for(">>> ")
        # Damage that an inspection would find: the soft reset reports what power-on found.
        rig8.damage((0, b"broken"))
        board.send("\x04")
        board.wait_for("soft reboot")
        assert board.power_on_report() == first
        board.wait_for("app: running")
        board.wait_for(">>> ")
        board.send("\r\x01")
        board.wait_for("raw REPL; CTRL-B to exit\r\n>")
        out, _ = board.run("import machine; print(machine.reset_cause() == machine.SOFT_RESET)")
        assert out.strip() == "True"


def test_machine_reset_inspects_in_full(rig8):
    with rig8.board() as board:
        board.power_on_report()
        board.repl()
        board.send("import machine; machine.reset()\x04")
        report = board.power_on_report()
        assert report["verdict"] == "RUN" and report["ms"]["inspect"] > 0
        board.wait_for("app: running")
        board.repl()
        # An RP2040 resets itself by its watchdog.
        cause = "WDT_RESET" if rig8.small else "HARD_RESET"
        out, _ = board.run(f"import machine; print(machine.reset_cause() == machine.{cause})")
        assert out.strip() == "True"


def test_the_idle_console_sleeps(rig8):
    """The prompt costs the host next to nothing: far less than a console that polls."""
    with rig8.board() as board:
        board.wait_for(">>> ")

        def cpu():
            fields = open(f"/proc/{board.pid}/stat").read().rsplit(")", 1)[1].split()
            return int(fields[11]) + int(fields[12])

        before = cpu()
        time.sleep(2)
        idle = cpu() - before
        # The same clock counts what does not sleep; how soon depends on the host's other work.
        board.send("while True: pass\r\n\r\n")
        before = cpu()
        deadline = time.monotonic() + 120
        while cpu() - before <= 5 * idle + 50:
            assert time.monotonic() < deadline
            time.sleep(0.1)
    assert idle < 20


def test_mpremote_connects_and_runs_code(rig8, mpremote):
    out = mpremote(rig8, "exec", "import lifeboat; print(lifeboat.report().verdict)")
    assert out.strip() == "RUN"


def test_everything_a_storage_controllers_code_needs_is_there(rig8):
    code = """
import asyncio, binascii, deflate, errno, hashlib, io, json, select, struct, time, vfs, os
import board, lifeboat
names = [(n, k, size) for n, k, size, data in lifeboat.segments(board)]
print(names[0][0], names[1][0], os.listdir("/rom"))
async def main():
    await asyncio.sleep_ms(5)
    return "slept"
print(asyncio.run(main()))
print(hashlib.sha256(b"abc").digest()[:4].hex(), time.time_ns() > 0)
d = board.disks()[0]
vfs.VfsFat.mkfs(lifeboat.blockdev.Window(d, 64, 4096))
v = vfs.VfsFat(lifeboat.blockdev.Window(d, 64, 4096))
vfs.mount(v, "/fat")
with open("/fat/x", "w") as f:
    f.write("hello")
print(open("/fat/x").read())
"""
    with rig8.board() as board:
        board.repl()
        out, err = board.run(code)
    assert not err
    # SHA-256("abc") begins ba7816bf: FIPS 180-4, appendix B.1.
    assert out.split() == ["os", "rom", "['main.py']", "slept", "ba7816bf", "True", "hello"]
