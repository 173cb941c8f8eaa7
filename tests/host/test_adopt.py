"""What a controller remembers: shown by status, changed by adopt, written with the regions."""

import json
import struct

import pytest
from wire import ODD, Liar, Wire

from fakes import board as sim
from lifeboat import agent as agents
from lifeboat import boot, running
from lifeboat.errors import LifeboatError as DeviceError
from lifeboat_host.board import remembered
from lifeboat_host.board.remembered import DiskSet, Member, Remembered
from sim.disk import RamDisk

OLD = bytes(sim.image(seed=1, version="1.0"))
NEW = bytes(sim.image(seed=2, version="2.0"))
BLANK = b"\xff" * len(OLD)
OWN, OTHER, THIRD = "53" * 16, "58" * 16, "5a" * 16


def build(content):
    """The build id of an image, by format.md section 2."""
    at = len(content) - sim.ERASE
    return sim.build_id(content[at : at + struct.unpack_from("<I", content, at + 12)[0]]).hex()


def board_of(*sets, remembers="set", content=OLD):
    """A board with a disk for each of these set ids, which its first power-on knows nothing of."""
    board = sim.SimBoard(bytearray(content), members=len(sets), remembers=remembers)
    for disk, set_id in zip(board.drives, sets):
        disk.sectors.clear()
        sim.make_region(disk, set_id=bytes.fromhex(set_id), member=0, members=1)
    if remembers == "set":
        board.remember(board.drives[:1], bytes.fromhex(sets[0]))
    return board


def contents(board):
    return bytes(board.nor.data), bytes(board.chip.data), [dict(d.sectors) for d in board.drives]


def codes(report):
    return [reason[0] for reason in report["reasons"]]


@pytest.fixture(autouse=True)
def no_places(monkeypatch):
    monkeypatch.setattr(running, "places", ())


# Adopt


def test_the_only_other_set_is_adopted_and_the_old_one_forgotten(connected):
    board = board_of(OWN, OTHER)
    assert boot.power_on(board).verdict == "RUN"
    run = connected(board)
    before = contents(board)
    code, result = run("adopt", "--dry-run")
    assert (code, result["done"], result["adopted"]) == (0, False, OTHER)
    assert contents(board) == before
    code, result = run("adopt")
    assert code == 1 and result["error"]["code"] == "consent" and contents(board) == before
    code, result = run("adopt", "--yes")
    assert (code, result["done"], result["adopted"]) == (0, True, OTHER)
    assert result["memory"]["set"] == OTHER and result["report"]["set"] == OTHER
    assert [(m["disk"], m["state"]) for m in result["memory"]["members"]] == [("disk1", "level")]
    assert [(s["set"], s["own"], s["next"] != "") for s in result["sets"]] == [
        (OWN, False, True), (OTHER, True, False),
    ]  # fmt: skip
    assert [dict(board.drives[0].sectors)] == before[2][:1]
    assert boot.power_on(board).data["disk_writes"] == 0


def test_what_it_means_is_said_before_the_question(connected, lifeboat):
    board = board_of(OWN, OTHER)
    boot.power_on(board)
    twice = sim.record(5, 9, struct.pack("<II", 3, 2))
    end = board.chip.data.index(b"\xff" * 256)
    for mirror in (0, sim.MIRROR):
        board.chip.data[mirror + end : mirror + end + 256] = twice
    connected(board)
    code, out, _ = lifeboat("adopt", "--port", "-", "--dry-run")
    out = " ".join(out.split())
    assert code == 0
    assert "own from now on: disk1" in out
    assert f"forgotten: set {OWN} (disk0); its disks are only read from then on" in out
    assert "tried again: the repair of block 3, which failed before" in out


def test_several_sets_are_listed_and_one_has_to_be_named(connected):
    board = board_of(OWN, OTHER, THIRD)
    run = connected(board)
    before = contents(board)
    for arguments, words in (
        ((), ("58585858 on disk1", "5a5a5a5a on disk2")),
        (("5",), ("3 sets here begin with '5'",)),
        (("9",), ("no set here begins with '9'",)),
        (("\x1b[2J",), ("no set here begins",)),
        (("",), ("no set here",)),
    ):
        code, result = run("adopt", *arguments, "--yes")
        assert code == 1 and result["error"]["code"] == "adopt-set"
        said = result["error"]["message"] + result["error"]["hint"]
        assert all(word in said for word in words), said
    assert contents(board) == before
    assert run("adopt", "5A", "--yes")[1]["adopted"] == THIRD


def test_a_wiped_chip_with_several_sets_comes_back_by_one_command(connected):
    one, two = board_of(OWN, content=OLD), board_of(OTHER, content=NEW)
    assert boot.power_on(one).verdict == boot.power_on(two).verdict == "RUN"
    board = sim.SimBoard(bytearray(BLANK), members=0, remembers="nothing")
    board.drives = [one.drives[0], two.drives[0]]
    board.drives[1].name = "disk1"
    assert boot.power_on(board).verdict == "RESCUE"
    run = connected(board)
    code, result = run("status")
    assert code == 0 and result["memory"]["state"] == "empty" and len(result["sets"]) == 2
    assert all("lifeboat adopt" in one["next"] for one in result["sets"])
    assert run("adopt", "--yes")[1]["error"]["code"] == "adopt-set"
    code, result = run("adopt", "58", "--yes")
    assert (code, result["report"]["verdict"], result["memory"]["set"]) == (0, "RUN", OTHER)
    assert bytes(board.nor.data) == NEW
    assert [one["build"] for one in result["memory"]["builds"]] == [build(NEW)]


def test_a_set_that_can_not_be_remembered_is_exit_code_1(connected):
    board = board_of(OWN, OTHER)
    board.nor.data[5] ^= 1  # no copy anywhere
    before = bytes(board.chip.data)
    code, result = connected(board)("adopt", "--yes")
    assert (code, result["done"], result["adopted"]) == (1, True, None)
    assert result["report"]["verdict"] == "RESCUE" and board.chip.data == before


def test_a_board_without_a_memory_uses_the_set_once(connected):
    board = board_of(OWN, OTHER, remembers=None)
    assert "set-unclear" in codes(boot.power_on(board).data)
    code, result = connected(board)("adopt", OTHER, "--yes")
    assert (code, result["adopted"]) == (1, None) and result["report"]["verdict"] == "RUN"
    assert result["memory"]["why"] == "memory-none"


def test_there_is_nothing_to_adopt_on_a_board_that_remembers_its_set(connected):
    board = board_of(OWN)
    boot.power_on(board)
    before = contents(board)
    code, result = connected(board)("adopt")
    assert (code, result["done"], result["adopted"]) == (0, False, OWN)
    assert contents(board) == before
    board.drives.pop()
    assert connected(board)("adopt")[1]["error"]["code"] == "adopt-set"


def test_a_region_of_the_own_set_that_is_not_remembered_is_adopted(connected):
    board = sim.SimBoard(bytearray(OLD), members=2)
    board.remember(board.drives[:1])
    assert "member-new" in codes(boot.power_on(board).data)
    run = connected(board)
    (own,) = run("status")[1]["sets"]
    assert "disk1 not remembered" in own["next"] and "lifeboat adopt 53535353" in own["next"]
    code, result = run("adopt", "--yes")
    assert code == 0 and [m["state"] for m in result["memory"]["members"]] == ["level", "level"]


# Status


def test_status_tells_all_that_is_remembered(connected, lifeboat):
    board = sim.SimBoard(bytearray(OLD), members=2)
    at = [disk.count - sim.REGION // 512 for disk in board.drives]
    pages = sim.set_records(
        b"S" * 16,
        [(bytes([i + 1] * 16), at[i], sim.REGION // 512, 512, i, f"sata{i}") for i in (0, 1)],
    )
    for content in (NEW, OLD):
        raw = content[8 * sim.ERASE :]
        raw = raw[: struct.unpack_from("<I", raw, 12)[0]]
        pages.append(sim.build_record(len(pages) + 1, raw))
    pages.append(sim.record(4, len(pages) + 1, b"R" * 32))
    pages.append(sim.record(5, len(pages) + 1, struct.pack("<II", 3, 2)))
    pages.append(sim.record(6, len(pages) + 1, struct.pack("<I", 7)))
    board.chip.data[:] = sim.memory(pages)
    gone = board.drives.pop()
    board.drives.append(RamDisk("new", gone.count))
    sim.make_region(board.drives[1], set_id=b"X" * 16)
    run = connected(board)
    code, result = run("status")
    memory = result["memory"]
    assert code == 0 and memory["members"] == [
        {"region": "01" * 16, "lba": at[0], "sectors": sim.REGION // 512, "index": 0,
         "name": "sata0", "disk": "disk0", "state": "stale"},
        {"region": "02" * 16, "lba": at[1], "sectors": sim.REGION // 512, "index": 1,
         "name": "sata1", "disk": None, "state": "missing"},
    ]  # fmt: skip
    assert [(b["build"], b["version"]) for b in memory["builds"]] == [
        (build(OLD), "1.0"), (build(NEW), "2.0"),
    ]  # fmt: skip
    assert memory["rejected"] == ["52" * 32] and memory["failed"] == [[3, 2]]
    assert (memory["state"], memory["why"], memory["counter"], memory["damaged"]) == (
        "ok", None, 7, False,
    )  # fmt: skip
    assert [(s["set"], s["own"], s["disks"]) for s in result["sets"]] == [
        (OWN, True, ["disk0"]), (OTHER, False, ["new"]),
    ]  # fmt: skip
    _, out, _ = lifeboat("status", "--port", "-")
    out = " ".join(out.split())
    for words in (
        f"own set {OWN}", f"member 0 disk0, stale, LBA {at[0]} to", "member 1 missing (sata1)",
        f"known builds 1.0, build {build(OLD)[:12]} 2.0, build {build(NEW)[:12]}",
        "rejected build 525252525252", "failed repairs 3 (2 times)", "least counter 7",
        "lifeboat adopt 58585858",
    ):  # fmt: skip
        assert words in out, words


@pytest.mark.parametrize(
    "spoil, state, why",
    [("lost", "lost", "memory-lost"), ("rot", "ok", None), ("none", "none", "memory-none")],
)
def test_status_tells_what_is_wrong_with_the_memory(connected, spoil, state, why):
    board = board_of(OWN, remembers=None if spoil == "none" else "set")
    if spoil == "lost":
        board.chip.data[:] = sim.noise(1, len(board.chip.data))
    elif spoil == "rot":
        board.chip.data[300] ^= 1
    memory = connected(board)("status")[1]["memory"]
    assert (memory["state"], memory["why"], memory["damaged"]) == (state, why, spoil == "rot")


class Older(Wire):
    """A boot stage from before the memory."""

    def begin(self, code):
        if any(f"'{name}'" in code for name in ("memory", "used", "remember")):
            code = "_agent.call('no_such_method')"
        code = code.replace("'power_on', True", "'power_on', True, 'one argument too many'")
        super().begin(code)

    def spoil(self, said):
        answer = json.loads(said.strip().split("\n")[-1].removeprefix("agent: "))
        found = answer["ok"]
        if isinstance(found, dict):
            found.pop("memory", None)
            for member in found.get("members", ()):
                for key in ("set", "region", "memory"):
                    member.pop(key, None)
        return "agent: " + json.dumps(answer)


def test_a_boot_stage_from_before_the_memory_is_spoken_to(connected):
    board = sim.SimBoard(bytearray(OLD))
    boot.power_on(board)
    run = connected(board, Older(board))
    code, result = run("status")
    assert code == 0 and result["memory"]["state"] == "none" and result["sets"] == []
    assert run("verify")[0] == run("recover")[0] == 0
    assert run("flash", "--yes", code=NEW)[0] == 0 and bytes(board.nor.data) == NEW
    assert run("adopt")[1]["error"]["code"] == "adopt-set"


# Recover


def test_recover_tries_again_what_failed_too_often(connected, lifeboat):
    board = sim.SimBoard(bytearray(OLD))
    boot.power_on(board)
    end = board.chip.data.index(b"\xff" * 256)
    for mirror in (0, sim.MIRROR):
        at = mirror + end
        board.chip.data[at : at + 256] = sim.record(5, 9, struct.pack("<II", 2, 3))
    board.nor.data[2 * sim.ERASE] ^= 1
    assert "repair-limit" in codes(boot.power_on(board).data)
    code, result = connected(board)("recover")
    assert code == 0 and [r[:2] for r in result["report"]["repaired"]] == [[2, 1]]
    _, out, _ = lifeboat("recover", "--help")
    assert "reads all backup copies" in " ".join(out.split())


# Regions and memory in one session


def disks_only(content=OLD, count=2, sectors=4096, **kwargs):
    board = sim.SimBoard(bytearray(content), members=0, **kwargs)
    board.drives = [RamDisk(f"disk{i}", sectors) for i in range(count)]
    return board


@pytest.fixture
def cut(monkeypatch):
    """Makes power fail, once, between the regions and the memory."""
    real = agents.Agent.remember
    armed = []

    def remember(self, *args):
        if armed:
            raise DeviceError("memory-failed", armed.pop())
        return real(self, *args)

    monkeypatch.setattr(agents.Agent, "remember", remember)
    return lambda: armed.append("cut")


CREATE = ("--yes", "--flash-size", "36K", "--block-size", "4K", "--undo")


def test_regions_made_through_the_board_are_remembered(connected, tmp_path):
    board = disks_only()
    run = connected(board)
    code, result = run("region create", *CREATE, tmp_path)
    assert (code, result["adopt"], result["remembered"]) == (0, False, True)
    own = result["created"][0]["set_id"]
    memory = run("status")[1]["memory"]
    assert memory["set"] == own
    assert [(m["disk"], m["lba"]) for m in memory["members"]] == [
        (made["disk"], made["start_lba"]) for made in result["created"]
    ]
    report = boot.power_on(board)
    assert report.verdict == "RUN" and report.data["reasons"] == []


def test_a_new_set_waits_for_adopt_where_another_one_is_remembered(connected, tmp_path):
    board = sim.SimBoard(bytearray(OLD), members=1)
    board.drives.append(RamDisk("new", 4096))
    before = bytes(board.chip.data)
    run = connected(board)
    code, result = run("region create", *CREATE, tmp_path, "new")
    assert (code, result["adopt"], result["remembered"]) == (0, True, False)
    assert board.chip.data == before
    code, result = run("adopt", "--yes")
    assert code == 0 and [m["disk"] for m in result["memory"]["members"]] == ["new"]


@pytest.mark.parametrize("kind", ["no code", "no memory"])
def test_regions_are_made_where_the_memory_can_not_be_written_yet(connected, tmp_path, kind):
    if kind == "no code":
        board = disks_only(b"\xff" * 49 * 4096, 1, remembers="flash")
    else:
        board = disks_only(count=1, remembers=None)
    before = bytes(board.nor.data)
    code, result = connected(board)("region create", *CREATE, tmp_path)
    assert (code, len(result["created"]), result["remembered"]) == (0, 1, False)
    assert bytes(board.nor.data) == before


def test_a_join_that_was_cut_before_the_memory_is_finished_by_the_same_command(
    connected, tmp_path, cut
):
    board = disks_only(count=3)
    run = connected(board)
    assert run("region create", *CREATE, tmp_path, "disk0", "disk1")[0] == 0
    assert boot.power_on(board).verdict == "RUN"
    board.drives[1].sectors.clear()
    join = ("region create", "--yes", "--undo", tmp_path / "undo", "--join", "disk0", "disk2")
    cut()
    code, result = run(*join)
    assert code == 1 and "run the same command again" in result["error"]["hint"]
    told = codes(boot.power_on(board).data)
    assert "member-new" in told and "member-missing" in told
    code, result = run(*join)
    assert (code, result["created"], result["remembered"]) == (0, [], True)
    report = boot.power_on(board).data
    assert report["reasons"] == [] and [m["state"] for m in report["members"]] == [
        "level", "no-region", "created",
    ]  # fmt: skip
    assert run(*join)[1]["error"]["code"] != "memory-failed"  # it has a region: refused as before


def test_a_provision_that_was_cut_before_the_memory_is_finished_by_the_same_command(
    connected, tmp_path, cut
):
    board = disks_only(BLANK)
    run = connected(board)
    provision = ("provision", "--yes", "--undo", tmp_path)
    cut()
    code, result = run(*provision, code=NEW)
    assert code == 1 and "run the same command again" in result["error"]["hint"]
    code, result = run(*provision, code=NEW)
    assert (code, result["created"], result["report"]["reasons"]) == (0, [], [])
    assert result["memory"] == run("status")[1]["memory"]["set"]
    code, result = run("provision", code=NEW)
    assert (code, result["done"]) == (0, False)


def test_provision_says_which_set_it_forgets(connected, lifeboat, tmp_path):
    board = sim.SimBoard(bytearray(OLD), members=1)
    board.drives[:] = [RamDisk("new", 4096)]
    run, out = said_before(connected, lifeboat, board, "provision", OLD, tmp_path)
    assert f"set {OWN} (disk0) is forgotten" in out
    code, result = run("provision", "--yes", "--undo", tmp_path, code=OLD)
    assert code == 0 and result["memory"] == result["created"][0]["set_id"]
    assert run("status")[1]["memory"]["set"] == result["memory"]


def test_a_cut_before_another_set_is_forgotten_is_left_to_adopt(connected, tmp_path, cut):
    """The regions are there, of a set that is not the remembered one: nobody guesses whose."""
    board = sim.SimBoard(bytearray(OLD), members=1)
    board.drives[:] = [RamDisk("new", 4096)]
    run = connected(board)
    cut()
    assert run("provision", "--yes", "--undo", tmp_path, code=OLD)[0] == 1
    code, result = run("provision", "--yes", "--undo", tmp_path, code=OLD)
    assert code == 1 and result["error"]["code"] == "provision-backup"
    assert "set-other" in result["error"]["message"]
    assert run("adopt", "--yes")[0] == 0
    assert run("provision", code=OLD)[1]["done"] is False


def test_a_region_that_is_removed_is_forgotten_and_the_rest_kept(connected, tmp_path, cut):
    board = disks_only()
    run = connected(board)
    assert run("region create", *CREATE, tmp_path)[0] == 0
    remove = ("region remove", "--yes", "disk0")
    cut()
    code, result = run(*remove)
    assert code == 1 and "run the same command again" in result["error"]["hint"]
    assert "member-missing" in codes(boot.power_on(board).data)
    code, result = run(*remove)
    assert (code, result["removed"], len(result["forgotten"])) == (0, [], 1)
    memory = run("status")[1]["memory"]
    assert [m["name"] for m in memory["members"]] == ["disk1"]
    code, result = run(*remove)
    assert code == 1 and result["error"]["code"] == "region-none"
    assert len(run("region remove", "--yes", "disk1")[1]["forgotten"]) == 1
    assert run("status")[1]["memory"]["set"] is None


def test_unprovision_forgets_the_set_with_members_that_are_not_here(connected, tmp_path, cut):
    board = disks_only()
    run = connected(board)
    assert run("region create", *CREATE, tmp_path)[0] == 0
    board.drives.pop()
    cut()
    assert run("unprovision", "--yes")[0] == 1
    code, result = run("unprovision")
    assert code == 1 and result["error"]["code"] == "consent"
    code, result = run("unprovision", "--yes")
    assert (code, result["removed"], len(result["forgotten"])) == (0, [], 2)
    memory = run("status")[1]["memory"]
    assert (memory["state"], memory["set"], memory["members"]) == ("ok", None, [])
    assert run("unprovision")[1]["forgotten"] == []


# What new code erases besides the old code

TOTAL, MIRRORS = 49, 8  # blocks; mirrors of 16 KiB are four blocks each
WITH = bytes(sim.image(seed=3, version="3.0", total=TOTAL, memory=MIRRORS))
WITHOUT = bytes(sim.image(seed=4, version="4.0", total=TOTAL))


def said_before(connected, lifeboat, board, name, content, tmp_path):
    """What a command shows before it asks; nothing is changed."""
    run = connected(board)
    before = bytes(board.nor.data)
    image = tmp_path / "image"
    image.write_bytes(content)
    more = ("--undo", tmp_path) if name == "provision" else ()
    code, out, err = lifeboat(name, "--port", "-", "--image", image, *more)
    assert code == 1 and "consent" in err and bytes(board.nor.data) == before
    return run, " ".join(out.split())


@pytest.mark.parametrize("name", ["flash", "provision"])
def test_data_behind_the_manifest_is_told_before_it_is_erased(connected, lifeboat, tmp_path, name):
    board = disks_only(count=1)
    board.nor.data[-100:] = b"bootcmd=run distro".ljust(100, b"\0")
    run, out = said_before(connected, lifeboat, board, name, NEW, tmp_path)
    assert "block 8: what stands behind the manifest in flash is erased" in out


@pytest.mark.parametrize("place, told", [(40, "40"), (48, "48"), (39, None)])
def test_what_stands_in_the_place_of_manifest_and_memory_is_told(
    connected, lifeboat, tmp_path, place, told
):
    board = disks_only(b"\xff" * len(WITH), count=1, sectors=8192, remembers="flash")
    board.nor.data[place * 4096 + 2000] = 0
    _, out = said_before(connected, lifeboat, board, "provision", WITH, tmp_path)
    line = f"block {told}: what stands there is neither manifest nor memory, and is erased"
    assert (line in out) is (told is not None)


def test_an_image_without_the_memory_that_is_alive_says_what_is_lost(
    connected, lifeboat, tmp_path
):
    board = disks_only(b"\xff" * len(WITH), count=1, sectors=8192, remembers="flash")
    run = connected(board)
    code, result = run("provision", "--yes", "--undo", tmp_path, code=WITH)
    assert code == 0 and result["report"]["reasons"] == []
    own = result["memory"]
    assert run("status")[1]["memory"]["blocks"] == MIRRORS
    run, out = said_before(connected, lifeboat, board, "flash", WITHOUT, tmp_path)
    assert "no room for the controller's memory" in out and own in out and "1 known builds" in out
    assert "memory: none with this code" in out
    code, result = run("flash", "--yes", code=WITHOUT)
    assert code == 0 and "memory-place" in codes(result["report"])
    assert run("status")[1]["memory"]["why"] == "memory-place"
    assert run("flash", "--yes", code=WITH)[1]["report"]["reasons"] == []


def test_an_image_of_format_1_1_is_provisioned_and_said_to_have_no_memory(
    connected, lifeboat, tmp_path
):
    board = disks_only(b"\xff" * len(WITH), count=1, sectors=8192, remembers="flash")
    run, out = said_before(connected, lifeboat, board, "provision", WITHOUT, tmp_path)
    assert "memory: none with this code (the image leaves no room for it)" in out
    code, result = run("provision", "--yes", "--undo", tmp_path, code=WITHOUT)
    assert (code, result["memory"]) == (0, None)
    assert codes(result["report"]) == ["memory-none"]


# Whatever a board says


@pytest.mark.parametrize("seed", range(3))
def test_whatever_a_board_says_adopt_ends_without_a_traceback(connected, seed):
    ends = set()
    for i in range(24):
        board = board_of(OWN, OTHER)
        boot.power_on(board)
        run = connected(board, Liar(board, 5000 + 100 * seed + i))
        code, result = run("adopt", OTHER, "--yes")
        ends.add(result["error"]["code"] if "error" in result else code)
    assert "link-garbled" in ends and ends & {0, 1}


MEMORY = {
    "state": "ok", "why": None, "blocks": 0, "set": OWN, "counter": 0, "damaged": False,
    "members": [{"region": "01" * 16, "lba": 1, "sectors": 2, "index": 0, "disk": "disk0"}],
    "builds": [{"build": "ab" * 32, "counter": 0, "version": "1"}], "rejected": ["cd" * 32],
    "failed": [[1, 2]],
}  # fmt: skip


class Forger(Wire):
    """Answers `memory` with what it is given."""

    def __init__(self, board, memory):
        super().__init__(board)
        self.memory = memory
        self.asked = ""

    def begin(self, code):
        self.asked = code
        super().begin(code)

    def spoil(self, said):
        return "agent: " + json.dumps({"ok": self.memory}) if "'memory'" in self.asked else said


def changed(value, path, new):
    value = json.loads(json.dumps(value))
    where = value
    for key in path[:-1]:
        where = where[key]
    where[path[-1]] = new
    return value


PATHS = [(key,) for key in MEMORY]
PATHS += [("members", 0, key) for key in ("region", "lba", "sectors", "index", "disk")]
PATHS += [("builds", 0, key) for key in ("build", "counter", "version")]
PATHS += [("rejected", 0), ("failed", 0), ("failed", 0, 1), ("members", 0), ("builds", 0)]


@pytest.mark.parametrize("path", PATHS, ids=str)
def test_a_memory_of_odd_shape_is_not_believed(connected, path):
    board = board_of(OWN)
    refused = 0
    for odd in (*ODD, "53", "5G" * 16, [1, 2, 3], 1 << 64):
        run = connected(board, Forger(board, changed(MEMORY, path, odd)))
        code, result = run("status")
        assert code == 0 or result["error"]["code"] == "link-garbled"
        refused += code
    assert refused >= 10


def test_escapes_in_what_a_board_remembers_do_not_reach_the_terminal(connected, lifeboat):
    board = board_of(OWN, OTHER)
    evil = "\x1b[2J\u202e\x9b31m"
    memory = changed(MEMORY, ("members", 0, "disk"), evil)
    memory["builds"][0]["version"] = memory["state"] = memory["why"] = evil
    for arguments in (("status",), ("adopt", "--dry-run"), ("adopt", "9")):
        connected(board, Forger(board, memory))
        _, out, err = lifeboat(*arguments, "--port", "-")
        assert not set(out + err) & set("\x1b\x9b\u202e")


# The words


def member(disk, state, set_id, region="01" * 16):
    return {"disk": disk, "state": state, "copies": [], "set": set_id, "region": region}


def test_a_short_id_tells_sets_apart():
    assert remembered.short(OWN) == OWN[:8]
    near = OWN[:9] + "f" * 23
    assert remembered.short(OWN, [OWN, near]) == OWN[:12]


@pytest.mark.parametrize(
    "state, set_id, words",
    [
        ("foreign", OTHER, "lifeboat adopt 58585858"),
        ("new", OWN, "lifeboat adopt 53535353"),
        ("claimed", OWN, "a partition reaches into the region"),
        ("level", OWN, None),
    ],
)
def test_what_to_do_about_a_set(state, set_id, words):
    memory = Remembered("ok", None, set_id=OWN, members=(Member("01" * 16, 1, 2, 0, "a"),))
    told = remembered.advice(memory, [DiskSet(set_id, (member("a", state, set_id),))])
    assert words is None and not told or words in told[set_id]


def test_a_copied_disk_is_no_member_to_adopt(connected):
    board = sim.SimBoard(bytearray(OLD), members=1)
    assert boot.power_on(board).verdict == "RUN"
    board.drives.append(RamDisk("clone", board.drives[0].count))
    board.drives[1].sectors.update(board.drives[0].sectors)
    run = connected(board)
    (own,) = run("status")[1]["sets"]
    assert "clone is a copy of another disk" in own["next"]
    code, result = run("adopt")
    assert (code, result["done"]) == (0, False)


def test_without_a_memory_no_set_can_be_remembered():
    told = remembered.advice(
        Remembered("none", "memory-none"), [DiskSet(OTHER, (member("a", "foreign", OTHER),))]
    )
    assert "take the others out" in told[OTHER]


def test_disks_without_a_set_are_no_set():
    found = {"members": [member("a", "no-region", None), member("b", "failed", OWN)]}
    assert remembered.sets(found) == []
