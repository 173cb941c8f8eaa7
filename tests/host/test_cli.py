"""The `lifeboat` command: exit codes, JSON, and messages with a next step."""

import io
import json
import subprocess
import sys

import handmade
import pytest

import lifeboat_host
from lifeboat_host import cli, report, session

NUMBERS = ["--flash-size", "64K", "--block-size", "4K"]
SIZE = 2 << 20

REPORT = {
    "verdict": "RUN",
    "reasons": [["disk-io", "sata1", "read"]],
    "trust": "unsigned",
    "product": "prod",
    "version": "1.2",
    "build": "0123456789ab",
    "blocks": 30,
    "bad": [[3, 2], [9, 1]],
    "repaired": [[3, 2, "sata0"], [9, 1, "sata1"]],
    "lost": [],
    "manifest": "ok",
    "erases": 3,
    "disk_writes": 0,
    "members": [{"disk": "sata0", "state": "level", "generation": 4}],
    "ms": {"inspect": 1, "recover": 2, "backup": 3, "total": 6},
}


@pytest.fixture
def code_image(tmp_path, lifeboat):
    (tmp_path / "os.bin").write_bytes(b"os" * 3000)
    path = tmp_path / "code.img"
    arguments = ["--product", "prod", "--version", "1.2", *NUMBERS]
    code, _, err = lifeboat("image", "build", "-o", path, *arguments, f"os={tmp_path}/os.bin")
    assert (code, err) == (0, "")
    return path


@pytest.fixture
def disk(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # recovery files go there
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(SIZE))
    return path


# --- the command itself


def test_version_is_in_one_place(lifeboat):
    assert lifeboat("--version")[1].strip() == f"lifeboat {lifeboat_host.__version__}"


@pytest.mark.parametrize(
    "command",
    [
        [],
        ["image", "build"],
        ["region", "plan"],
        ["region", "create"],
        ["region", "remove"],
        ["board", "run"],
        ["report"],
        ["test"],
    ],
)
def test_every_command_has_help(lifeboat, command):
    code, out, _ = lifeboat(*command, "--help")
    assert code == 0
    assert "usage: lifeboat" in out


@pytest.mark.parametrize(
    "command",
    [
        [],
        ["nonsense"],
        ["image"],
        ["image", "build", "-o", "x", "--version", "1", "no-equals-sign"],
        ["region", "create", "--lba", "ten", "disk"],
        ["region", "create", "--size", "-5", "disk"],
        ["region", "create", "--overwrite", "9-8", "disk"],
        ["region", "create", "--tail", "--gpt", "disk"],
    ],
)
def test_wrong_usage_is_exit_code_2(lifeboat, command):
    code, _, err = lifeboat(*command)
    assert code == 2
    assert "usage: lifeboat" in err


def test_an_error_has_one_line_a_next_step_and_exit_code_1(lifeboat):
    code, out, err = lifeboat("image", "inspect", "no-such-file")
    assert (code, out) == (1, "")
    assert err.splitlines()[0] == "lifeboat: no-such-file: No such file or directory"
    assert err.splitlines()[1].startswith("  next: ")


def test_an_error_is_json_when_asked_for(lifeboat):
    code, out, err = lifeboat("image", "inspect", "no-such-file", "--json")
    assert (code, err) == (1, "")
    assert json.loads(out)["error"]["code"] == "image-read"


def test_the_module_can_be_run(tmp_path):
    run = subprocess.run(
        [sys.executable, "-m", "lifeboat_host", "--version"],
        capture_output=True,
        text=True,
        check=False,
        cwd=next(iter(lifeboat_host.__path__)) + "/..",
    )
    assert run.stdout.startswith("lifeboat ")


# --- image


def test_image_build_and_inspect_tell_the_same(lifeboat, code_image):
    code, out, _ = lifeboat("image", "inspect", code_image, "--json")
    told = json.loads(out)
    assert code == 0
    assert (told["product"], told["version"]) == ("prod", "1.2")
    assert (told["flash_size"], told["block_size"], told["block_count"]) == (65536, 4096, 2)
    assert told["segments"] == [{"name": "os", "kind": "os", "offset": 0, "size": 6000}]
    raw = code_image.read_bytes()[-4096:]
    size = int.from_bytes(raw[12:16], "little")
    assert told["build"] == handmade.build_id(raw[:size]).hex()
    _, text, _ = lifeboat("image", "inspect", code_image)
    assert told["build"][:12] in text
    assert "prod 1.2" in text


def test_image_verify_finds_damage_with_exit_code_3(lifeboat, code_image):
    assert lifeboat("image", "verify", code_image)[0] == 0
    data = bytearray(code_image.read_bytes())
    data[5000] ^= 4
    code_image.write_bytes(data)
    code, out, _ = lifeboat("image", "verify", code_image)
    assert code == 3
    assert "block 1 at 0x00001000" in out
    code, out, _ = lifeboat("image", "verify", code_image, "--json")
    told = json.loads(out)
    assert (code, told["ok"]) == (3, False)
    assert [damage["block"] for damage in told["damaged"]] == [1]


def test_image_verify_of_a_destroyed_manifest_is_damage_too(lifeboat, code_image):
    data = bytearray(code_image.read_bytes())
    data[-4096 + 60] ^= 4
    code_image.write_bytes(data)
    code, _, err = lifeboat("image", "verify", code_image)
    assert code == 3
    assert "offset 0xf000: manifest: CRC-32" in err


# --- region


def test_region_create_inspect_and_verify(lifeboat, disk):
    code, out, _ = lifeboat("region", "create", disk, *NUMBERS, "--json", "--yes")
    (member,) = json.loads(out)["created"]
    assert (code, member["disk"], member["slot_count"]) == (0, str(disk), 2)
    code, out, _ = lifeboat("region", "inspect", disk, "--json")
    told = json.loads(out)["members"][0]
    assert (code, told["region_id"], told["found"]) == (0, member["region_id"], "tail")
    assert [copy["state"] for copy in told["headers"]] == ["ok"] * 3
    assert [slot["state"] for slot in told["slots"]] == ["free", "free"]
    code, out, _ = lifeboat("region", "verify", disk)
    assert code == 3
    assert "no backup copy yet" in out


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_region_create_asks_and_without_a_terminal_refuses(lifeboat, disk, monkeypatch):
    create = ["region", "create", disk, *NUMBERS]
    for stdin, expected in ((io.StringIO("yes\n"), "consent"), (Terminal("no\n"), "consent")):
        monkeypatch.setattr(sys, "stdin", stdin)
        code, out, _ = lifeboat(*create, "--json")
        assert (code, json.loads(out)["error"]["code"]) == (1, expected)
    assert disk.read_bytes() == bytes(SIZE)
    assert not list(disk.parent.glob("lifeboat-undo*"))
    monkeypatch.setattr(sys, "stdin", Terminal("yes\n"))
    code, _, err = lifeboat(*create)
    assert code == 0
    assert "tail of the disk" in err and "lifeboat-undo-disk.img-" in err
    assert len(list(disk.parent.glob("lifeboat-undo-disk.img-*.json"))) == 1


def test_region_create_overwrites_only_what_a_person_names(lifeboat, disk, monkeypatch):
    data = bytearray(SIZE)
    data[-1] = data[-70000] = 1
    disk.write_bytes(data)
    first, last = (SIZE - 70000) // 512, SIZE // 512 - 1
    create = ["region", "create", disk, *NUMBERS, "--tail"]
    assert f"LBA {first}-{last} are not zero" in lifeboat("region", "plan", *create[2:])[1]
    wrong = (f"{first}-{last - 1}", f"{first + 1}-{last}", f"0-{last}", f"{first}-{last + 1}")
    for given in ([], *(["--overwrite", one] for one in wrong)):
        code, out, _ = lifeboat(*create, "--yes", "--json", *given)
        assert (code, json.loads(out)["error"]["code"]) == (1, "overwrite")
    for answers in ("yes\n", f"{first}-{last}\nno\n"):
        monkeypatch.setattr(sys, "stdin", Terminal(answers))
        assert lifeboat(*create)[0] == 1
    assert disk.read_bytes() == data
    assert lifeboat(*create, "--yes", "--overwrite", f"{first}-{last}")[0] == 0
    assert lifeboat("region", "inspect", disk)[0] == 0
    undo = next(disk.parent.glob("lifeboat-undo*"))
    assert lifeboat("region", "remove", disk, "--undo", undo, "--yes")[0] == 0
    assert disk.read_bytes() == data
    monkeypatch.setattr(sys, "stdin", Terminal(f"{first}-{last}\nyes\n"))
    assert lifeboat(*create)[0] == 0


def test_an_overwrite_that_nothing_needs_is_an_error(lifeboat, disk):
    create = ["region", "create", disk, *NUMBERS, "--yes", "--overwrite", "3000-3001", "--json"]
    code, out, _ = lifeboat(*create)
    assert (code, json.loads(out)["error"]["code"]) == (1, "overwrite")
    assert disk.read_bytes() == bytes(SIZE)


def test_region_join_replaces_a_member(lifeboat, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    paths = [tmp_path / name for name in ("a", "b", "new")]
    for path in paths:
        path.write_bytes(bytes(SIZE))
    assert lifeboat("region", "create", *paths[:2], *NUMBERS, "--yes")[0] == 0
    assert lifeboat("region", "create", "--yes", "--join", paths[0], paths[2])[0] == 0
    members = json.loads(lifeboat("region", "inspect", "--json", *paths)[1])["members"]
    assert [member["member_index"] for member in members] == [0, 1, 1]
    assert len({member["set_id"] for member in members}) == 1
    assert lifeboat("region", "create", paths[0], paths[0], *NUMBERS)[0] == 1


def test_region_verify_lists_damaged_blocks_and_knows_the_image(lifeboat, tmp_path):
    blocks = handmade.BLOCKS
    data = handmade.disk(4096 + handmade.SECTORS * 512, slots=[(0, 1, blocks, {})])
    path, image = tmp_path / "disk", tmp_path / "image"
    path.write_bytes(data)
    flash = b"".join(blocks).ljust(7 * 4096, b"\xff")
    image.write_bytes(flash + handmade.manifest().ljust(4096, b"\xff"))
    assert lifeboat("region", "verify", path, "--image", image)[0] == 0
    image.write_bytes(flash + handmade.manifest(version=b"2").ljust(4096, b"\xff"))
    code, out, _ = lifeboat("region", "verify", path, "--image", image)
    assert code == 3
    assert "not the backup of" in out
    at = 8192 + 69632 + 4096
    data[at] ^= 1
    path.write_bytes(data)
    code, out, _ = lifeboat("region", "verify", path)
    assert code == 3
    assert f"slot 0: block 1 at {at:#x} is damaged" in out
    told = json.loads(lifeboat("region", "verify", path, "--json")[1])
    assert told["members"][0]["copies"][0]["bad"] == [1]


# --- report


def test_report_explains_the_last_line_of_a_log(lifeboat, tmp_path):
    log = tmp_path / "console.log"
    old = {**REPORT, "verdict": "RESCUE"}
    text = f"boot\r\nlifeboat: {json.dumps(old)}\r\nlifeboat: {json.dumps(REPORT)}\r\nMicroPython"
    log.write_text(text)
    code, out, _ = lifeboat("report", log)
    assert code == 0
    assert "RUN  the code is intact" in out
    assert "3-4 (sata0), 9 (sata1)" in out
    assert json.loads(lifeboat("report", log, "--json")[1]) == REPORT
    log.write_text("nothing")
    assert lifeboat("report", log)[0] == 1


def test_report_ranges_become_block_numbers():
    assert report.blocks(REPORT["bad"]) == [3, 4, 9]
    assert report.blocks(REPORT["repaired"]) == [3, 4, 9]
    assert report.parse_line("lifeboat: {broken") is None
    assert report.parse_line("lifeboat: inspecting") is None
    assert report.parse_line('lifeboat: {"verdict":' + "[" * 100000) is None
    for key, odd in (("verdict", 5), ("bad", [[1]]), ("members", [None]), ("ms", None)):
        assert report.parse_line("lifeboat: " + json.dumps({**REPORT, key: odd})) is None


# --- board


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A source tree with a board whose firmware is built."""
    (tmp_path / "boards" / "b").mkdir(parents=True)
    board = {
        "id": "b",
        "name": "a board",
        "product": "prod",
        "flash_size": 65536,
        "block_size": 4096,
        "qemu": "qemu-system-none",
        "machine": ["-machine", "none"],
        "flash_kind": "pflash",
        "disk_kind": "sata",
    }
    (tmp_path / "boards" / "b" / "board.json").write_text(json.dumps(board))
    firmware = tmp_path / "cache" / "boards" / "b" / "firmware.bin"
    firmware.parent.mkdir(parents=True)
    firmware.write_bytes(b"boot")
    monkeypatch.setenv("LIFEBOAT_ROOT", str(tmp_path))
    monkeypatch.setenv("LIFEBOAT_CACHE", str(tmp_path / "cache"))
    return tmp_path


def test_board_command_is_the_exact_command(lifeboat, tree, code_image, disk):
    media = ["--flash", code_image, "--disk", disk]
    code, out, _ = lifeboat("board", "command", "--board", "b", *media, "--json")
    command = json.loads(out)["command"]
    assert code == 0
    assert command[:3] == ["qemu-system-none", "-machine", "none"]
    pflash = [argument for argument in command if argument.startswith("if=pflash")]
    assert pflash[0].endswith(",readonly=on")
    assert str(code_image) in pflash[1]
    assert str(disk) in " ".join(command)
    assert (tree / "cache/boards/b/pflash0.img").read_bytes() == b"boot".ljust(65536, b"\0")


def test_board_without_a_flash_gets_a_blank_one(lifeboat, tree):
    assert lifeboat("board", "command", "--board", "b")[0] == 0
    assert (tree / "cache/run/default/flash.img").read_bytes() == b"\xff" * 65536


def test_board_says_what_is_missing(lifeboat, tree, disk):
    code, _, err = lifeboat("board", "run", "--board", "b", "--flash", "no-such-flash")
    assert (code, "no-such-flash" in err) == (1, True)
    code, _, err = lifeboat("board", "run", "--board", "b", "--flash", disk)
    assert (code, "the board's flash has 65536" in err) == (1, True)
    code, _, err = lifeboat("board", "run", "--board", "other")
    assert (code, "no board 'other'" in err) == (1, True)
    code, _, err = lifeboat("board", "run", "--board", "b")
    assert (code, "qemu-system-none" in err) == (1, True)
    (tree / "cache/boards/b/firmware.bin").unlink()
    code, _, err = lifeboat("board", "run", "--board", "b")
    assert (code, "is not built" in err) == (1, True)


def test_a_foreign_process_with_our_number_is_not_ours(lifeboat, tree):
    board = session.Session("default")
    board.folder.mkdir(parents=True)
    (board.folder / "state.json").write_text(json.dumps({"pid": 1}))
    assert not board.running
    assert lifeboat("board", "off")[0] == 0
    code, out, _ = lifeboat("board", "status", "--json")
    assert (code, json.loads(out)["running"]) == (0, False)
    assert lifeboat("board", "reset")[0] == 1


# --- test


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], [["host and not slow", "-n", "2"], ["not host and not slow"]]),
        (["--slow"], [["host", "-n", "2"], ["not host"]]),
        (["-m", "host", "-k", "name"], [["(host) and not slow", "-k", "name"]]),
        (["--slow", "-m", "qemu", "-x"], [["(qemu)", "-x"]]),
        (["-k", "name"], [["not slow", "-k", "name"]]),
    ],
)
def test_test_runs_pytest_in_the_tree(lifeboat, tree, monkeypatch, arguments, expected):
    calls = []

    def run(command, cwd, check):
        calls.append((command, cwd))
        return subprocess.CompletedProcess(command, 5 if len(calls) == 1 else 0)

    monkeypatch.setattr(cli.subprocess, "run", run)
    assert lifeboat("test", *arguments)[0] == 5
    assert calls == [([sys.executable, "-m", "pytest", "-m", *run], tree) for run in expected]
