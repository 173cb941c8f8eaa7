"""The `lifeboat` command: exit codes, JSON, and messages with a next step."""

import io
import json
import subprocess
import sys

import handmade
import pytest
from rich.table import Table
from rich.text import Text

import lifeboat_host
from lifeboat_host.base.errors import LifeboatError
from lifeboat_host.commands import test as test_command
from lifeboat_host.model import report
from lifeboat_host.qemu import background
from lifeboat_host.ui import consent, output

NUMBERS = ["--flash-size", "64K", "--block-size", "4K"]
SIZE = 2 << 20
ESCAPES = "\x1b[2J\x1b[31m"

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


def test_image_build_lists_the_bytes_to_program(lifeboat, tmp_path):
    (tmp_path / "os.bin").write_bytes(b"os" * 3000)
    build = ["image", "build", "-o", tmp_path / "code.img", "--product", "prod", "--version", "1"]
    build += [*NUMBERS, f"os={tmp_path}/os.bin"]
    code, out, _ = lifeboat(*build, "--ranges", "--json")
    told = json.loads(out)
    assert (code, told["memory_blocks"], told["manifest_blocks"]) == (0, 8, 1)
    assert told["ranges"] == [{"offset": 0, "size": 8192}, {"offset": 61440, "size": 4096}]
    assert "ranges" not in json.loads(lifeboat(*build, "--json")[1])
    assert "0x0000f000" in lifeboat(*build, "--ranges")[1]
    assert json.loads(lifeboat(*build, "--no-memory", "--json")[1])["memory_blocks"] == 0


def with_memory(path, payload=None):
    """Put a memory with a known and a rejected build into a chip of 64 KiB."""
    page = handmade.memory_record
    one = handmade.mirror(
        page(3, 1, handmade.build_payload(b"K" * 32, b"0.9")),
        page(4, 2, b"R" * 32),
        page(5, 3, b"\x11\0\0\0\x02\0\0\0"),
        page(6, 4, b"\x07\0\0\0"),
        bytes(256),
    )
    data = bytearray(path.read_bytes())
    data[28672:61440] = one + one
    path.write_bytes(data)


def test_image_inspect_shows_the_memory(lifeboat, code_image):
    told = json.loads(lifeboat("image", "inspect", code_image, "--json")[1])
    assert told["memory"]["state"] == "empty"
    assert "not yet begun" in lifeboat("image", "inspect", code_image)[1]
    with_memory(code_image)
    told = json.loads(lifeboat("image", "inspect", code_image, "--json")[1])["memory"]
    assert (told["state"], told["epoch"], told["set"], told["counter"]) == ("ok", 1, None, 7)
    assert [build["version"] for build in told["builds"]] == ["0.9"]
    assert (told["rejected"], told["failed"]) == ([(b"R" * 32).hex()], {"17": 2})
    assert [(item["mirror"], item["page"]) for item in told["damage"]] == [(0, 5), (1, 5)]
    out = lifeboat("image", "inspect", code_image)[1]
    for text in ("known", "0.9, build 4b4b4b4b4b4b", "block 17: 2 repairs", "mirror 1, page 5"):
        assert text in out


def test_image_put_asks_and_leaves_the_memory(lifeboat, code_image, tmp_path, monkeypatch):
    chip = tmp_path / "chip.img"
    chip.write_bytes(code_image.read_bytes())
    with_memory(chip)
    before = chip.read_bytes()
    (tmp_path / "os.bin").write_bytes(b"new" * 4000)
    build = ["image", "build", "-o", code_image, "--product", "prod", "--version", "2", *NUMBERS]
    assert lifeboat(*build, f"os={tmp_path}/os.bin")[0] == 0
    monkeypatch.setattr(sys, "stdin", io.StringIO("yes\n"))
    code, out, _ = lifeboat("image", "put", code_image, chip, "--json")
    assert (code, json.loads(out)["error"]["code"]) == (1, "consent")
    assert chip.read_bytes() == before
    monkeypatch.setattr(sys, "stdin", Terminal("yes\n"))
    code, out, err = lifeboat("image", "put", code_image, chip)
    assert code == 0 and "prod 1.2" in err and "prod 2" in err
    assert chip.read_bytes()[28672:61440] == before[28672:61440]
    assert lifeboat("image", "verify", chip)[0] == 0
    told = json.loads(lifeboat("image", "inspect", chip, "--json")[1])
    assert (told["version"], told["memory"]["state"]) == ("2", "ok")
    code, out, _ = lifeboat("image", "put", code_image, chip, "--yes", "--json")
    assert (code, json.loads(out)["memory"]) == (0, "ok")


def test_image_put_refuses_a_chip_without_that_memory(lifeboat, code_image, tmp_path):
    chip = tmp_path / "chip.img"
    build = ["image", "build", "-o", chip, "--product", "prod", "--version", "2", *NUMBERS]
    assert lifeboat(*build, "--no-memory", f"os={tmp_path}/os.bin")[0] == 0
    code, out, _ = lifeboat("image", "put", code_image, chip, "--yes", "--json")
    assert (code, json.loads(out)["error"]["code"]) == (1, "memory-place")


# --- what others have written does not reach the terminal as it is


def test_texts_of_media_are_cleaned(lifeboat, tmp_path):
    # The set is told by a journal entry, whose texts keep no rules.
    entries = [
        handmade.entry(1, 1, b"power-on", b"RUN", b"\x1b[2J"),
        handmade.entry(2, 1, b"\x9b31mx", "\u202eabc".encode(), b"a\x07"),
    ]
    path = tmp_path / "disk"
    path.write_bytes(handmade.journal_disk([handmade.page(1, entries), bytes(4096)]))
    code, out, _ = lifeboat("log", path)
    assert code == 0
    assert not set(out) & set("\x1b\x9b\x07\u202e")
    assert "[2J" in out


@pytest.mark.parametrize(
    "char", ["\x1b", "\x00", "\x07", "\r", "\x7f", "\x9b", "\u202e", "\u2066"]
)
def test_one_function_cleans_all_that_is_shown(capsys, char):
    told = output.Output()
    grid = Table.grid()
    grid.add_row("name", f"a{char}b")
    told.show(f"text{char}", grid, Text(f"styled{char}", style="red"))
    told.failure(LifeboatError("code", f"message{char}", f"hint{char}"))
    captured = capsys.readouterr()
    assert char not in captured.out + captured.err
    for word in ("text", "styled", "message", "hint"):
        assert word in captured.out + captured.err


def test_a_version_with_escapes_is_refused_before_it_is_shown(lifeboat, tmp_path):
    raw = handmade.manifest(version=ESCAPES.encode())
    path = tmp_path / "image"
    path.write_bytes(b"\xff" * 7 * 4096 + raw.ljust(4096, b"\xff"))
    code, out, err = lifeboat("image", "inspect", path)
    assert code == 1 and "control characters" in err
    assert "\x1b" not in out + err


def test_the_question_is_cleaned_too(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", Terminal("yes\n"))
    consent.confirm([f"disk{ESCAPES}"], yes=False)
    assert "\x1b" not in capsys.readouterr().err


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
    assert "power the board on" in out


def test_region_create_says_that_a_board_with_a_memory_has_to_be_told(lifeboat, disk):
    code, out, _ = lifeboat("region", "create", disk, *NUMBERS, "--yes")
    assert code == 0 and "lifeboat adopt" in out and "--port" in out


def test_region_inspect_shows_what_1_2_brings(lifeboat, disk):
    assert lifeboat("region", "create", disk, *NUMBERS, "--yes")[0] == 0
    told = json.loads(lifeboat("region", "inspect", disk, "--json")[1])["members"][0]
    assert (told["header_serial"], told["agreed"], told["product"]) == (0, True, "")
    assert [extent["kind"] for extent in told["extents"]] == [1, 2, 3]
    out = lifeboat("region", "inspect", disk)[1]
    for text in (
        "changed",
        "state of a trial: 2 units",
        "evidence: 129 units",
        "parity, not used: 128 units",
    ):
        assert text in out


def test_region_inspect_names_candidates_and_newer_formats(lifeboat, tmp_path):
    raw = handmade.manifest()
    data = handmade.disk(4096 + handmade.SECTORS * 512, slots=[(0, 1, handmade.BLOCKS, {})])
    data[8192 : 8192 + 4096] = handmade.commit(raw, 0, 1, magic=b"LBCANDID")
    second = 8192 + handmade.SLOT_SIZE
    data[second : second + 4096] = handmade.commit(raw, 1, 2, patch=[(8, b"\2")])
    path = tmp_path / "disk"
    path.write_bytes(data)
    out = lifeboat("region", "inspect", path)[1]
    assert "candidate of an update: prod 1.2" in out
    assert "of a newer format (commit-version): neither used nor overwritten" in out
    told = json.loads(lifeboat("region", "inspect", path, "--json")[1])["members"][0]
    assert [slot["state"] for slot in told["slots"]] == ["candidate", "newer"]


def of_a_newer_format(disk, patch):
    """Make the region at the disk's end one that this version must not use."""
    data = bytearray(disk.read_bytes())
    header = data[-4096:-3584]
    start = int.from_bytes(header[48:56], "little") * 512
    for offset, content in patch:
        header[offset : offset + len(content)] = content
    header = handmade.sealed(bytes(header[:508])).ljust(4096, b"\0")
    for at in (start, len(data) - 8192, len(data) - 4096):
        data[at : at + 4096] = header
    disk.write_bytes(data)
    return start // 512


@pytest.mark.parametrize("patch", [[(8, b"\2")], [(92, b"\1")]])
def test_a_region_of_a_newer_format_is_never_made_anew(lifeboat, disk, patch):
    with open(disk, "r+b") as file:
        file.truncate(6 << 20)
    assert lifeboat("region", "create", disk, *NUMBERS, "--yes", "--undo", disk.parent)[0] == 0
    first = of_a_newer_format(disk, patch)
    before = disk.read_bytes()
    ways = [[], ["--tail"], ["--gpt"], ["--lba", "64"], ["--lba", first], ["--lba", first - 800]]
    for way in ways:
        given = [*NUMBERS, *way, "--yes", "--overwrite", f"0-{(6 << 11) - 1}"]
        code, out, _ = lifeboat("region", "create", disk, *given, "--json")
        error = json.loads(out)["error"]
        assert (code, error["code"]) == (1, "region-version"), way
        assert "create" not in error["hint"]
    for command in (["inspect"], ["verify"], ["remove", "--yes"]):
        code, out, _ = lifeboat("region", *command, disk, "--json")
        assert json.loads(out)["error"]["code"] == "region-version"
    assert disk.read_bytes() == before
    code, out, _ = lifeboat("region", "plan", disk, *NUMBERS)
    assert code == 1 and "region-version" in out


def test_a_range_with_a_newer_region_in_it_is_refused(lifeboat, disk):
    """One that is at no usual place: only its head copy, where a region was asked for."""
    data = bytearray(6 << 20)
    data[-1 << 20 : (-1 << 20) + 4096] = handmade.region(patch=[(8, b"\2")])
    disk.write_bytes(data)
    given = [*NUMBERS, "--tail", "--yes", "--overwrite", f"0-{(6 << 11) - 1}", "--json"]
    code, out, _ = lifeboat("region", "create", disk, *given)
    assert (code, json.loads(out)["error"]["code"]) == (1, "region-version")
    assert disk.read_bytes() == data


def test_region_verify_says_what_helps(lifeboat, tmp_path):
    path = tmp_path / "disk"
    whole = handmade.disk(4096 + handmade.SECTORS * 512, slots=[(0, 1, handmade.BLOCKS, {})])
    for at, helps, does_not in (
        (8192 + 69632 + 5, "scrubber", "next power-on"),  # a block of the copy
        (4096 + 20, "next power-on", "scrubber"),  # the head copy
    ):
        data = bytearray(whole)
        data[at] ^= 1
        path.write_bytes(data)
        code, out, _ = lifeboat("region", "verify", path)
        hints = "".join(line for line in out.splitlines() if "next: " in line)
        assert code == 3 and helps in hints and does_not not in hints


def test_the_product_of_a_known_board_stands_in_its_regions(lifeboat, tree, disk):
    assert lifeboat("region", "create", disk, "--board", "b", "--yes")[0] == 0
    told = json.loads(lifeboat("region", "inspect", disk, "--json")[1])["members"][0]
    assert told["product"] == "prod"


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
    assert json.loads(lifeboat("report", log, "--json")[1]) == {"schema": 1, **REPORT}
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
    firmware = tmp_path / "cache" / "boards" / "b-unsigned" / "firmware.bin"
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
    assert (tree / "cache/boards/b-unsigned/pflash0.img").read_bytes() == b"boot".ljust(
        65536, b"\0"
    )


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
    (tree / "cache/boards/b-unsigned/firmware.bin").unlink()
    code, _, err = lifeboat("board", "run", "--board", "b")
    assert (code, "is not built" in err) == (1, True)


def test_a_foreign_process_with_our_number_is_not_ours(lifeboat, tree):
    board = background.Session("default")
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
        (
            [],
            [
                ["host and not slow", "-n", "2"],
                ["not host and not slow", "-n", "2", "--dist", "loadfile"],
            ],
        ),
        (["--slow"], [["host", "-n", "2"], ["not host", "-n", "2", "--dist", "loadfile"]]),
        (["-m", "host", "-k", "name"], [["(host) and not slow", "-k", "name"]]),
        (["--slow", "-m", "qemu", "-x"], [["(qemu)", "-x"]]),
        (["-k", "name"], [["not slow", "-k", "name"]]),
    ],
)
def test_test_runs_pytest_in_the_tree(lifeboat, tree, monkeypatch, arguments, expected):
    calls = []

    def run(command, cwd, check):
        calls.append(([part for part in command if "--junit-xml=" not in part], cwd))
        return subprocess.CompletedProcess(command, 5 if len(calls) == 1 else 0)

    monkeypatch.setattr(test_command.subprocess, "run", run)
    (tree / "docs").mkdir()
    (tree / "docs" / "security.md").write_text("no claim")
    assert lifeboat("test", *arguments)[0] == 5
    assert calls == [([sys.executable, "-m", "pytest", "-m", *run], tree) for run in expected]
