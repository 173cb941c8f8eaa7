"""nbd.py: the laboratory of disks that count, fail, hang and lose power."""

import errno
import socket
import struct
import threading
import time

import pytest

from lifeboat_host.qemu import faulty_media

READ, WRITE, DISC, FLUSH, TRIM, ZERO = 0, 1, 2, 3, 4, 6
SIZE = 1 << 16


class Client:
    """A minimal NBD client, from the protocol's description."""

    def __init__(self, path, option=7):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(10)
        self.sock.connect(path)
        assert self.take(16) == b"NBDMAGICIHAVEOPT"
        assert struct.unpack(">H", self.take(2))[0] & 1
        self.sock.sendall(struct.pack(">I", 3))
        if option == 7:
            self.option(99, b"?")
            assert self.reply() == (99, 0x80000001, b"")
            self.option(7, struct.pack(">IH", 0, 0))
            infos = {}
            while True:
                _, kind, data = self.reply()
                if kind == 1:
                    break
                infos[struct.unpack(">H", data[:2])[0]] = data[2:]
            self.size, self.flags = struct.unpack(">QH", infos[0])
        else:
            self.option(1, b"")
            self.size, self.flags = struct.unpack(">QH", self.take(10))

    def option(self, number, data):
        self.sock.sendall(b"IHAVEOPT" + struct.pack(">II", number, len(data)) + data)

    def reply(self):
        magic, option, kind, size = struct.unpack(">QIII", self.take(20))
        assert magic == 0x3E889045565A9
        return option, kind, self.take(size)

    def take(self, size):
        data = b""
        while len(data) < size:
            part = self.sock.recv(size - len(data))
            if not part:
                raise EOFError
            data += part
        return data

    def ask(self, kind, offset=0, size=0, data=b"", fua=False):
        """(error, data) of one request."""
        header = struct.pack(">IHH8sQI", 0x25609513, fua, kind, b"cookie!!", offset, size)
        self.sock.sendall(header + data)
        magic, error, cookie = struct.unpack(">II8s", self.take(16))
        assert (magic, cookie) == (0x67446698, b"cookie!!")
        return error, self.take(size) if kind == READ and not error else b""

    def write(self, offset, data, fua=False):
        return self.ask(WRITE, offset, len(data), data, fua)[0]


@pytest.fixture
def lab():
    with faulty_media.Lab() as laboratory:
        yield laboratory


def memory(lab, name="disk", **keywords):
    store = faulty_media.MemoryStore(bytes(SIZE))
    export = lab.export(name, store, **keywords)
    return store, export, Client(export.path)


@pytest.mark.parametrize("option", [1, 7])
def test_a_client_negotiates_reads_and_writes(lab, option):
    store = faulty_media.MemoryStore(bytes(SIZE))
    client = Client(lab.export("disk", store).path, option)
    assert client.size == SIZE
    assert client.flags == 1 | 4 | 8 | 32 | 64  # flush, FUA, trim, write zeroes
    assert client.write(512, b"hello") == 0
    assert client.ask(READ, 511, 7) == (0, b"\0hello\0")
    assert client.ask(ZERO, 512, 2) == (0, b"")
    assert client.ask(READ, 512, 5) == (0, b"\0\0llo")
    assert client.ask(TRIM, 512, 5)[0] == 0
    assert client.ask(FLUSH)[0] == 0


def test_operations_are_counted_and_logged_over_all_exports(lab):
    _, _, one = memory(lab, "one")
    _, _, two = memory(lab, "two")
    one.write(0, b"a")
    two.ask(READ, 0, 512)
    two.write(8, b"bc", fua=True)
    one.ask(FLUSH)
    assert lab.count == 3
    assert lab.log == [
        faulty_media.Op(1, "one", "write", False, 0, 1),
        faulty_media.Op(0, "two", "read", False, 0, 512),
        faulty_media.Op(2, "two", "write", True, 8, 2),
        faulty_media.Op(3, "one", "flush", False, 0, 0),
    ]


def test_requests_outside_the_disk_and_unknown_ones_are_refused(lab):
    store, _, client = memory(lab)
    assert client.ask(READ, SIZE - 1, 2)[0] == errno.EINVAL
    assert client.write(SIZE, b"x") == errno.ENOSPC
    assert client.ask(77)[0] == errno.EINVAL
    assert not any(store.data)
    assert lab.log == []


def test_a_file_store_of_terabytes_stays_sparse(lab, tmp_path):
    path = tmp_path / "huge"
    store = faulty_media.FileStore(path, 4 << 40)
    client = Client(lab.export("huge", store).path)
    assert client.write((4 << 40) - 512, b"end".ljust(512)) == 0
    assert client.ask(READ, (4 << 40) - 512, 3) == (0, b"end")
    assert path.stat().st_blocks * 512 < 1 << 20
    store.close()


def test_faults_meet_the_operations_they_are_made_for(lab):
    _, export, client = memory(lab)
    fault = export.fail("read", error=errno.EIO, span=(512, 1024), after=1, times=2)
    results = [client.ask(READ, 512, 512)[0] for _ in range(4)]
    assert results == [0, errno.EIO, errno.EIO, 0]
    assert fault.hits == 2
    export.fail("write", error=errno.ENOSPC, span=(512, 1024))
    assert client.write(0, b"x" * 512) == 0
    assert client.write(511, b"xx") == errno.ENOSPC
    assert client.write(1024, b"x") == 0
    export.fail("flush")
    assert client.ask(FLUSH)[0] == errno.EIO


def test_a_held_operation_waits_until_released_and_others_go_on(lab):
    _, export, client = memory(lab)
    _, _, other = memory(lab, "other")
    fault = export.hold("read", seconds=60)
    answers = []
    thread = threading.Thread(target=lambda: answers.append(client.ask(READ, 0, 512)))
    thread.start()
    while not fault.hits:
        time.sleep(0.001)
    assert other.write(0, b"x") == 0
    assert answers == []
    fault.release()
    thread.join(10)
    assert answers == [(0, bytes(512))]
    start = time.monotonic()
    client.ask(READ, 0, 512)
    assert time.monotonic() - start < 50  # the fault is over


def test_a_pulled_disk_answers_nobody(lab):
    _, export, client = memory(lab)
    export.vanish()
    with pytest.raises((EOFError, OSError)):
        client.ask(READ, 0, 1)
    with pytest.raises((EOFError, OSError)):
        Client(export.path)


# --- power cuts


def cut(script, keep, cut_at, torn=0, volatile=True, seed=0):
    """Content of a 4 byte disk after the power failed at that operation of the script."""
    killed = []
    with faulty_media.Lab(cut_at, torn, lambda: killed.append(True)) as lab:
        store = faulty_media.MemoryStore(b"....")
        client = Client(lab.export("disk", store, volatile).path)
        with pytest.raises((EOFError, OSError)):
            for step in script:
                if step == "flush":
                    client.ask(FLUSH)
                else:
                    client.write(step[0], step[1], fua=len(step) > 2)
        assert lab.cut.wait(10)
        assert killed == [True]
        assert lab.cut_op.number == cut_at == lab.count
        lab.settle(keep, seed)
        return bytes(store.data)


SCRIPT = [(0, b"A"), "flush", (1, b"B"), (2, b"C"), (0, b"a"), (3, b"D")]


@pytest.mark.parametrize(
    ("keep", "expected"), [("none", b"A..."), ("all", b"aBC."), ("last", b"a...")]
)
def test_a_volatile_cache_loses_what_was_not_flushed(keep, expected):
    assert cut(SCRIPT, keep, cut_at=6) == expected


def test_a_random_subset_is_repeated_by_its_seed():
    results = {seed: cut(SCRIPT, "random", 6, seed=seed) for seed in range(8)}
    assert len(set(results.values())) > 2
    assert results[3] == cut(SCRIPT, "random", 6, seed=3)


def test_without_a_cache_every_answered_write_stays():
    assert cut(SCRIPT, "none", cut_at=6, volatile=False) == b"aBC."


def test_fua_writes_stay_and_older_ones_below_them_do_not_come_back():
    script = [(0, b"xxxx"), (1, b"F", "fua"), (2, b"y"), "flush"]
    assert cut(script, "none", cut_at=4) == b".F.."
    assert cut(script, "all", cut_at=4) == b"xFyx"


def test_a_torn_write_reaches_the_medium_in_part():
    script = [(0, b"ABCD"), "flush"]
    assert cut(script, "none", cut_at=1) == b"...."
    assert cut(script, "none", cut_at=1, torn=3) == b"ABC."


def test_no_operation_after_the_cut_is_served():
    with faulty_media.Lab(cut_at=1) as lab:
        store = faulty_media.MemoryStore(bytes(SIZE))
        export = lab.export("disk", store)
        one, two = Client(export.path), Client(export.path)
        with pytest.raises((EOFError, OSError)):
            one.write(0, b"x")
        with pytest.raises((EOFError, OSError)):
            two.write(0, b"x")
        assert not any(store.data)
        assert lab.count == 1


def test_close_leaves_no_files():
    lab = faulty_media.Lab()
    folder = lab.folder
    memory(lab)
    lab.close()
    assert not folder.exists()
