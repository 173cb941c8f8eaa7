"""A member is pulled in the middle of what is being done with it: the other one carries it on.

The connection of its NBD export is closed when the board has done so many operations with it: from
then on QEMU's disk has errors for every command. What was begun goes on with the other member, and
the one that was away is brought level when it is back. (While a build is staged: test_update.py.)
"""

import threading

import pytest

from lifeboat_host.qemu import faulty_media
from qemu.rig import MB
from qemu.test_update import ACCEPT, CONFIRM, armed, say  # noqa: F401 - a fixture, too

pytestmark = pytest.mark.sata
AT = [1, 12]  # the how manieth operation, of those that count
CHANGES = ("write", "flush")


def with_pulled(rig, pulled, ops, at, act, span=None):
    """Run act(board, begin); pull a member at its at-th operation of these names after begin().

    span: only operations that touch these bytes count. The operation is held until the member is
    gone, however busy the host is. Returns what act returns.
    """
    over = threading.Event()
    held = []

    def watch():
        while not over.wait(0.001):
            if held and held[0].hits:
                member.vanish()
                held[0].release()
                return

    def begin():
        held.append(member.hold(*ops, seconds=20, span=span, after=at - 1, times=1))

    with faulty_media.Lab() as lab:
        exports = [lab.export(path.stem, faulty_media.FileStore(path)) for path in rig.drives]
        member = exports[pulled]
        watcher = threading.Thread(target=watch, daemon=True)
        with rig.board(exports) as board:
            watcher.start()
            try:
                answer = act(board, begin)
            finally:
                over.set()
                watcher.join()
    assert held[0].hits == 1, f"there were less than {at} such operations"
    return answer


def started(board, begin):
    begin()
    report = board.power_on_report()
    board.wait_for("app: running")
    return report


@pytest.mark.parametrize("at", AT)
def test_while_a_backup_is_made(rig2, at):
    rig2.make_image(2 * MB, version="2.0", seed=2)
    report = with_pulled(rig2, 1, CHANGES, at, started)
    assert report["verdict"] in ("RUN", "RUN_DEGRADED")
    assert rig2.copies(rig2.drives[0])["2.0"] == []
    assert [] in rig2.copies(rig2.drives[1]).values()  # I2
    rig2.heal()
    assert all(rig2.copies(path)["2.0"] == [] for path in rig2.drives)


@pytest.mark.parametrize("at", AT)
def test_while_code_is_recovered_from_it(rig2, at):
    rig2.damage((0, b"\xff" * rig2.memory_range[0]))
    first = rig2.block_place(rig2.drives[0], 0)
    span = first, first + 2 * MB
    report = with_pulled(rig2, 0, ("read",), at, started, span)
    assert report["verdict"] in ("RUN", "RUN_DEGRADED") and rig2.content() == rig2.good
    assert {disk for _, _, disk in report["repaired"]} <= set(map(rig2.disk_name, (0, 1)))
    rig2.heal()
    assert [rig2.copies(path) for path in rig2.drives] == [{"1.0": []}] * 2


@pytest.mark.parametrize("at", AT)
def test_while_a_build_is_confirmed(armed, at):  # noqa: F811
    rig, new = armed
    say(rig, ACCEPT)
    rig.good = new.good
    report, _ = rig.power_on()
    assert (report["verdict"], report["version"]) == ("RUN", "2.0")

    def confirm(board, begin):
        board.power_on_report()
        board.wait_for("app: running")
        board.repl(interrupt=True)
        begin()
        return board.run(CONFIRM, 300)

    out, error = with_pulled(rig, 1, CHANGES, 1 + at // 12, confirm)
    assert not error, out + error
    report, _ = rig.power_on()
    assert (report["verdict"], report["version"]) == ("RUN", "2.0")
    assert rig.content() == rig.good
    assert all(rig.copies(path) == {"1.0": [], "2.0": []} for path in rig.drives)
