"""What a disk, a file or a board says does not fool, hang or fill a person's machine."""

import base64
import hashlib
import json
import os
import random
import socket
import stat
import struct
import time
import zlib

import layouts_raw as raw
import pytest
from layouts import blank, put

from lifeboat_host.base import files
from lifeboat_host.base.errors import LifeboatError
from lifeboat_host.base.inflate import inflate
from lifeboat_host.disk.disk import Disk
from lifeboat_host.model import image
from lifeboat_host.reserve import recovery_file

SIZE = 16 << 20
CREATE = ["--size", "4M", "--yes", "--json"]
ESCAPES = "\x1b]0;OWNED\x07\x1b[2J\x9b31m\u202e\x7f"


def error_of(out):
    return json.loads(out)["error"]["code"]


# --- the terminal --------------------------------------------------------------------------


def report_line(**fields):
    report = {"verdict": "RUN", "reasons": [], "build": None, "bad": [], "repaired": []}
    return "lifeboat: " + json.dumps({**report, "lost": [], "members": [], "ms": {}, **fields})


@pytest.mark.parametrize(
    "fields",
    [
        {"verdict": "RUN" + ESCAPES},
        {"reasons": [[ESCAPES, ESCAPES, ESCAPES]]},
        {"build": ESCAPES, "version": ESCAPES, "product": ESCAPES},
        {"ms": {ESCAPES: [1, ESCAPES]}},
        {"members": [{"disk": ESCAPES, "state": ESCAPES, "generation": 1}]},
        {"memory": ESCAPES, "set": ESCAPES, "trust": {ESCAPES: 1}},
    ],
)
def test_no_report_steers_the_terminal(tmp_path, lifeboat, fields):
    log = tmp_path / "console.log"
    log.write_text(report_line(**fields))
    code, out, err = lifeboat("report", log)
    assert code == 0
    assert all(c.isprintable() or c == "\n" for c in out + err)


def test_no_name_steers_the_terminal(tmp_path, lifeboat):
    for command in (["image", "inspect"], ["region", "inspect"], ["report"], ["log"]):
        code, out, err = lifeboat(*command, tmp_path / ("no" + ESCAPES.replace("/", "")))
        assert code == 1 and "\ufffd" in err
        assert all(c.isprintable() or c == "\n" for c in out + err)


# --- what is opened ------------------------------------------------------------------------


def fifo(path):
    os.mkfifo(path)


def a_socket(path):
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(path))


def link_to_zeros(path):
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize("make", [fifo, a_socket, link_to_zeros, lambda path: path.mkdir()])
@pytest.mark.parametrize(
    ("command", "code"),
    [
        (["image", "inspect"], "image-read"),
        (["image", "verify"], "image-read"),
        (["region", "inspect"], "disk-open"),
        (["region", "plan"], "disk-open"),
        (["region", "create"], "disk-open"),
        (["log"], "disk-open"),
        (["report"], "report-read"),
        (["region", "verify", "--image"], "image-read"),
    ],
)
def test_only_files_and_block_devices_are_opened(tmp_path, lifeboat, make, command, code):
    path, disk = tmp_path / "odd", tmp_path / "disk.img"
    make(path)
    blank(disk, SIZE)
    rest = [disk] if "--image" in command else []
    began = time.monotonic()
    result, out, _ = lifeboat(*command, path, *rest, "--json")
    assert (result, error_of(out)) == (1, code)
    assert time.monotonic() - began < 60  # a FIFO is not waited for


@pytest.mark.parametrize("size", [1 << 30, 64 << 30, 1 << 40, 1 << 43])
def test_sparse_files_of_any_size_are_answered(tmp_path, lifeboat, size):
    path = tmp_path / "sparse.img"
    with open(path, "wb") as file:
        file.truncate(size)
    code, out, _ = lifeboat("image", "inspect", path, "--json")
    assert (code, error_of(out)) == (1, "manifest-magic" if size <= 1 << 30 else "image-read")
    code, out, _ = lifeboat("region", "inspect", path, "--json")
    assert (code, error_of(out)) == (1, "region-none")
    assert lifeboat("region", "plan", path, "--json")[0] == 0


# --- what goes into an image ---------------------------------------------------------------


def build(lifeboat, tmp_path, folder, *more):
    numbers = ["--product", "p", "--flash-size", "1M", "--block-size", "4K", "--version", "1"]
    target = tmp_path / "code.img"
    return lifeboat("image", "build", "-o", target, *numbers, f"app={folder}", "--json", *more)


def test_links_that_lead_out_of_a_folder_are_followed_only_when_that_is_said(tmp_path, lifeboat):
    folder, secret = tmp_path / "src", tmp_path / "secret"
    folder.mkdir()
    secret.write_bytes(b"the private key")
    (folder / "main.py").write_text("pass")
    (folder / "inside.py").symlink_to("main.py")
    assert build(lifeboat, tmp_path, folder)[0] == 0
    (folder / "sub").mkdir()
    (folder / "sub" / "lib.py").symlink_to("../../secret")
    code, out, _ = build(lifeboat, tmp_path, folder)
    assert (code, error_of(out)) == (1, "segment-link")
    assert build(lifeboat, tmp_path, folder, "--follow-links")[0] == 0
    assert b"the private key" in (tmp_path / "code.img").read_bytes()


def test_a_folder_with_more_than_files_is_refused(tmp_path, lifeboat):
    folder = tmp_path / "src"
    folder.mkdir()
    os.mkfifo(folder / "pipe")
    code, out, _ = build(lifeboat, tmp_path, folder)
    assert (code, error_of(out)) == (1, "segment-source")


# --- what is written -----------------------------------------------------------------------


@pytest.fixture(params=["", "umask"])
def umask(request):
    old = os.umask(0 if request.param else 0o022)
    yield
    os.umask(old)


def test_recovery_files_are_their_owners_alone(tmp_path, lifeboat, umask):
    disk, file = tmp_path / "disk.img", tmp_path / "undo.json"
    blank(disk, SIZE)
    assert lifeboat("region", "create", disk, *CREATE, "--undo", file)[0] == 0
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


@pytest.mark.parametrize("name", ["undo.json", "undo.json.part", ".undo.json.part"])
@pytest.mark.parametrize("dangling", [False, True])
def test_no_file_is_written_through_a_link(tmp_path, lifeboat, name, dangling):
    disk, victim = tmp_path / "disk.img", tmp_path / "victim"
    blank(disk, SIZE)
    if not dangling:
        victim.write_text("precious")
    (tmp_path / name).symlink_to(victim)
    before = disk.read_bytes()
    code, out, _ = lifeboat("region", "create", disk, *CREATE, "--undo", tmp_path / "undo.json")
    if name == "undo.json":
        assert (code, error_of(out)) == (1, "undo-write")
        assert disk.read_bytes() == before
    assert victim.exists() != dangling and (dangling or victim.read_text() == "precious")


def test_an_image_takes_the_place_of_a_link_and_spares_what_it_names(tmp_path, lifeboat):
    source, victim, target = tmp_path / "os.bin", tmp_path / "victim", tmp_path / "code.img"
    source.write_bytes(b"code" * 100)
    victim.write_text("precious")
    target.symlink_to(victim)
    assert build(lifeboat, tmp_path, source)[0] == 0
    assert victim.read_text() == "precious"
    assert not target.is_symlink() and target.stat().st_size == 1 << 20
    assert sorted(os.listdir(tmp_path)) == ["code.img", "os.bin", "victim"]


def test_a_file_without_links_beneath_is_still_created_whole(tmp_path, monkeypatch):
    """As on FAT, where a file gets its name by a rename."""

    def none(*_, **__):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", none)
    path = tmp_path / "file"
    files.create_whole(path, b"content")
    with pytest.raises(FileExistsError):
        files.create_whole(path, b"other")
    assert path.read_bytes() == b"content" and os.listdir(tmp_path) == ["file"]


# --- recovery files of others --------------------------------------------------------------


@pytest.fixture
def reserved(tmp_path, lifeboat):
    """(disk, content of its recovery file, a function that removes the region with a content)."""

    def make(with_gpt):
        disk, file = tmp_path / "disk.img", tmp_path / "undo.json"
        blank(disk, SIZE)
        if with_gpt:
            put(disk, raw.gpt(SIZE, [(raw.LINUX, 2048, 4095)]))
        assert lifeboat("region", "create", disk, *CREATE, "--undo", file)[0] == 0

        def remove(content):
            other = tmp_path / "other.json"
            other.write_text(content if isinstance(content, str) else json.dumps(content))
            code, out, _ = lifeboat("region", "remove", disk, "--undo", other, "--yes", "--json")
            return code and error_of(out)

        return disk, json.loads(file.read_text()), remove

    return make


def extent(offset, data):
    if not any(data):
        return {"offset": offset, "size": len(data)}
    return {
        "offset": offset,
        "size": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "data": base64.b64encode(zlib.compress(data)).decode(),
    }


@pytest.mark.parametrize("with_gpt", [False, True])
@pytest.mark.parametrize("lba", [0, 1, 40, 100, 3000, SIZE // 512 - 40])
def test_a_recovery_file_changes_the_region_and_its_table_alone(reserved, with_gpt, lba):
    """It names other bytes as part of the table: as they are, and as somebody wants them."""
    disk, content, remove = reserved(with_gpt)
    before = disk.read_bytes()
    stands = before[lba * 512 : lba * 512 + 512]
    table = content["parts"]["table"]
    for name, data in (("old", b"ATTACKER" * 64), ("new", stands)):
        table[name] = [x for x in table[name] if x["offset"] != lba * 512]
        table[name].append(extent(lba * 512, data))
    if not with_gpt:
        content["region"]["partition"] = raw.LINUX and str(raw.LINUX).upper()
    assert remove(content) == "undo-broken"
    assert disk.read_bytes() == before


def test_a_forged_table_far_away_is_no_table(reserved):
    """A GPT header of the file's own, whose entries stand where somebody's data is."""
    disk, content, remove = reserved(True)
    at = 3000 * 512  # in the other partition
    entries = bytearray(128 * 128)
    own = content["region"]
    first, last = own["start"] // 512, own["end"] // 512 - 1
    unique = bytes.fromhex(own["partition"].replace("-", ""))
    unique = unique[3::-1] + unique[5:3:-1] + unique[7:5:-1] + unique[8:]
    struct.pack_into("<16s16sQQQ", entries, 0, b"\x01" * 16, unique, first, last, 0)
    head = bytearray(512)
    fields = (b"EFI PART", 0x10000, 92, 0, 0, 1, SIZE // 512 - 1, 34, SIZE // 512 - 34)
    struct.pack_into("<8sIIIIQQQQ16sQIII", head, 0, *fields, b"\x02" * 16, 3000, 128, 128,
                     zlib.crc32(entries))  # fmt: skip
    struct.pack_into("<I", head, 16, zlib.crc32(head[:92]))
    put(disk, [(at, bytes(entries))])  # he can write his own partition
    before = disk.read_bytes()
    content["parts"]["table"] = {
        "old": [extent(512, before[512:1024]), extent(at, b"ATTACKER" * 2048)],
        "new": [extent(512, bytes(head)), extent(at, bytes(entries))],
    }
    assert remove(content) == "undo-broken"
    assert disk.read_bytes() == before


def numbers(text):
    def spoil(content):
        return json.dumps(content).replace(f'"start": {content["region"]["start"]}', text)

    return spoil


def bomb(content):
    content["parts"]["body"]["old"][0].update(
        data=base64.b64encode(zlib.compress(bytes(64 << 20), 9)).decode(), sha256="x"
    )
    return content


def change(act):
    def spoil(content):
        act(content)
        return content

    return spoil


@pytest.mark.parametrize(
    "spoil",
    [
        lambda content: "[" * 200000,
        lambda content: '{"a":' * 200000,
        lambda content: "[]",
        lambda content: "",
        lambda content: "9" * 100000,
        numbers('"start": 1e999'),
        numbers('"start": NaN'),
        numbers('"start": 1.5'),
        numbers('"start": true'),
        numbers('"start": -4096'),
        numbers('"start": "0"'),
        numbers(f'"start": {"9" * 400}'),
        bomb,
        change(lambda c: c.update(parts=None)),
        change(lambda c: c.update(parts=[])),
        change(lambda c: c.update(region=5)),
        change(lambda c: c["region"].update(region_id=5)),
        change(lambda c: c["disk"].update(size=1 << 70)),
        change(
            lambda c: c["disk"].update(path=ESCAPES, size=5 << 20) or c["region"].update(end=9)
        ),
        change(lambda c: c["parts"]["body"].update(old=None)),
        change(lambda c: c["parts"]["body"].update(old=[5])),
        change(lambda c: c["parts"]["headers"]["new"].append({"offset": 0, "size": 4096})),
    ],
)
def test_an_odd_recovery_file_is_an_error_and_changes_nothing(reserved, spoil):
    disk, content, remove = reserved(False)
    before = disk.read_bytes()
    assert remove(spoil(content)) == "undo-broken"
    assert disk.read_bytes() == before


def test_a_bomb_is_not_unpacked(tmp_path):
    """More bytes than an extent has are never in memory: the limit of the library is given."""
    content = base64.b64encode(zlib.compress(bytes(64 << 20), 9)).decode()
    row = {"offset": 0, "size": 4096, "data": content, "sha256": "x"}
    import tracemalloc

    tracemalloc.start()
    with pytest.raises(ValueError, match="SHA-256"):
        recovery_file._unpack([row])
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()


def test_what_others_packed_takes_no_more_memory_than_it_should():
    """A frame of a board, an extent of a recovery file."""
    import tracemalloc

    packed = zlib.compress(bytes(64 << 20), 9)
    tracemalloc.start()
    assert inflate(packed, 8192) == bytes(8193)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()
    good = zlib.compress(b"abcd" * 100)
    assert inflate(good, 400) == b"abcd" * 100
    for bad in (good[:-1], good[:-5], b"", good[:-1] + bytes([good[-1] ^ 1])):
        with pytest.raises(zlib.error):
            inflate(bad, 400)


def test_zeros_without_end_take_no_memory():
    """An extent of zeros is two numbers: it may say that it is as large as any disk."""
    import tracemalloc

    data = bytearray(b"x" * 4096)
    tracemalloc.start()
    recovery_file.Extent(2048, 1 << 60).lay_over(data, 0)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()
    assert data == b"x" * 2048 + bytes(2048)


def test_a_recovery_file_is_never_read_beyond_its_limit(tmp_path):
    path = tmp_path / "huge.json"
    with open(path, "wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(LifeboatError) as caught:
        recovery_file.load(path)
    assert caught.value.code == "undo-read"


# --- reads with bounds ---------------------------------------------------------------------


def test_blocks_of_an_impossible_size_are_refused(tmp_path, lifeboat):
    """A manifest of a few hundred bytes that wants half a gigabyte in memory."""
    block = 1 << 29
    total = 128 + 48 + 36 + 4
    raw_manifest = b"LBMANIF\n" + struct.pack(
        "<BBHIIIHHIII", 1, 0, 128, total, block, 1, 1, 0, 0, 0, 0
    )
    raw_manifest += b"p".ljust(32, b"\0") + b"v".ljust(24, b"\0") + bytes(32)
    raw_manifest += b"a".ljust(24, b"\0") + struct.pack("<III", 0, 0, 16) + bytes(12)
    raw_manifest += struct.pack("<I", 1) + bytes(32)
    raw_manifest += struct.pack("<I", zlib.crc32(raw_manifest))
    path = tmp_path / "big.img"
    with open(path, "wb") as file:
        file.seek(block)
        file.write(raw_manifest)
        file.truncate(2 * block)
    code, out, _ = lifeboat("image", "verify", path, "--json")
    assert (code, error_of(out)) == (1, "image-geometry")


def test_a_random_disk_is_looked_at_in_pieces(tmp_path, monkeypatch):
    path = tmp_path / "disk.img"
    path.write_bytes(random.Random(5).randbytes(SIZE))
    sizes = []
    read = Disk.read

    def noted(disk, offset, size):
        sizes.append(size)
        return read(disk, offset, size)

    monkeypatch.setattr(Disk, "read", noted)
    from lifeboat_host.reserve import disk_map

    with Disk(path) as disk:
        disk_map.look(disk)
    assert max(sizes) <= 1 << 20


def test_the_images_own_size_has_a_limit(tmp_path):
    path = tmp_path / "x.img"
    with open(path, "wb") as file:
        file.truncate(1 << 31)
    with pytest.raises(LifeboatError) as caught:
        image.Image(path)
    assert caught.value.code == "image-read"
