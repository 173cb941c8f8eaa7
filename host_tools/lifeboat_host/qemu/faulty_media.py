"""A laboratory of NBD servers: disks that count, fail, hang and lose power on command.

Every medium of a machine (disks, flash) is an export of one `Lab`, so "cut the power at the
n-th operation" is one number for the whole machine:

    with Lab(cut_at=17, on_cut=board.kill) as lab:
        disk = lab.export("disk0", FileStore(path), volatile=True)
        ...                       # QEMU connects to disk.path, the board runs
        lab.cut.wait(60)
        lab.settle(keep="none")   # the media are now as after the power cut

Standard library only; speaks fixed newstyle NBD over unix sockets.
"""

from __future__ import annotations

import errno
import os
import random
import shutil
import socket
import struct
import tempfile
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Union

READ, WRITE, DISCONNECT, FLUSH, TRIM, ZERO = 0, 1, 2, 3, 4, 6
OP_NAMES = {READ: "read", WRITE: "write", FLUSH: "flush", TRIM: "trim", ZERO: "zero"}
CHANGING = frozenset((WRITE, FLUSH, TRIM, ZERO))

_FUA = 1
_OPT_EXPORT_NAME, _OPT_ABORT, _OPT_INFO, _OPT_GO = 1, 2, 6, 7
_REP_ACK, _REP_INFO, _REP_UNSUPPORTED = 1, 3, 0x80000001
_INFO_EXPORT, _INFO_BLOCK_SIZE = 0, 3
_EXPORT_FLAGS = 0x01 | 0x04 | 0x08 | 0x20 | 0x40  # known, flush, FUA, trim, write zeroes
_OPTION_MAGIC = 0x49484156454F5054
_OPTION_REPLY_MAGIC = 0x3E889045565A9
_REQUEST_MAGIC = 0x25609513
_REPLY_MAGIC = 0x67446698
_PAYLOAD_LIMIT = 32 << 20
_OPTION_LIMIT = 65536
_REQUEST = struct.Struct(">IHHQQI")
_REPLY = struct.Struct(">IIQ")

Data = Union[bytes, bytearray, memoryview]


class Store(Protocol):
    """The medium itself: a fixed number of bytes."""

    @property
    def size(self) -> int: ...

    def read(self, offset: int, size: int) -> Data: ...

    def write(self, offset: int, data: Data) -> None: ...


class MemoryStore:
    """A medium in memory."""

    def __init__(self, data: Data) -> None:
        self.data = bytearray(data)

    @property
    def size(self) -> int:
        return len(self.data)

    def read(self, offset: int, size: int) -> Data:
        return bytes(memoryview(self.data)[offset : offset + size])

    def write(self, offset: int, data: Data) -> None:
        self.data[offset : offset + len(data)] = data


class FileStore:
    """A medium in a file, which may be sparse: terabytes are fine.

    size: bytes; the file is made or grown to it. None: the file's own size.
    """

    def __init__(self, path: str | os.PathLike[str], size: int | None = None) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        if size is not None:
            os.ftruncate(self._fd, size)
        self._size = os.fstat(self._fd).st_size

    @property
    def size(self) -> int:
        return self._size

    def read(self, offset: int, size: int) -> Data:
        return os.pread(self._fd, size, offset)

    def write(self, offset: int, data: Data) -> None:
        os.pwrite(self._fd, data, offset)

    def close(self) -> None:
        os.close(self._fd)


@dataclass(frozen=True)
class Op:
    """An operation that a client asked for. number: its count in the lab, 0 if not counted."""

    number: int
    export: str
    name: str
    fua: bool
    offset: int
    size: int


class Fault:
    """What happens to the operations of an export that match: an error, or a delay.

    Made by Export.fail() and Export.hold(). `hits` counts the operations it met.
    """

    def __init__(
        self,
        ops: frozenset[str],
        span: tuple[int, int],
        after: int,
        times: int | None,
        error: int,
        seconds: float,
    ) -> None:
        self._ops = ops
        self._span = span
        self._after = after
        self._times = times
        self._error = error
        self._seconds = seconds
        self._released = threading.Event()
        self.hits = 0

    def release(self) -> None:
        """End the fault, and let go at once whatever it holds."""
        self._times = 0
        self._released.set()

    def meet(self, op: Op) -> int:
        """Wait as this fault demands; the errno that the operation ends with, or 0."""
        start, end = self._span
        touches = op.name == "flush" or (op.offset < end and op.offset + op.size > start)
        if op.name not in self._ops or not touches:
            return 0
        if self._after:
            self._after -= 1
            return 0
        if self._times is not None:
            if not self._times:
                return 0
            self._times -= 1
        self.hits += 1
        if self._seconds:
            self._released.wait(self._seconds)
        return self._error


@dataclass(frozen=True)
class _Write:
    """A write since the last flush: enough to take it back and to do it again."""

    offset: int
    old: Data
    new: Data
    durable: bool


class Export:
    """One medium. Connect QEMU to the unix socket `path`."""

    def __init__(self, lab: Lab, name: str, store: Store, volatile: bool) -> None:
        self.name = name
        self.store = store
        self.path = str(lab.folder / name)
        self._lab = lab
        self._volatile = volatile
        self._faults: list[Fault] = []
        self._unflushed: list[_Write] = []
        self._connections: list[socket.socket] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.path)
        self._listener.listen(4)
        threading.Thread(target=self._accept, daemon=True).start()

    # faults

    def fail(
        self,
        *ops: str,
        error: int = errno.EIO,
        span: tuple[int, int] | None = None,
        after: int = 0,
        times: int | None = None,
    ) -> Fault:
        """Operations of these names (`read`, `write`, `flush`, ...) end with `error`.

        span: only those that touch the bytes [start, end). after: let so many pass first.
        times: only so many, then the fault is over; None: for ever.
        """
        return self._fault(ops, span, after, times, error, 0)

    def hold(
        self,
        *ops: str,
        seconds: float,
        span: tuple[int, int] | None = None,
        after: int = 0,
        times: int | None = None,
    ) -> Fault:
        """Operations of these names are answered `seconds` late, or when it is released.

        Always give an end: QEMU's port reset waits for the host's answer.
        """
        return self._fault(ops, span, after, times, 0, seconds)

    def _fault(
        self,
        ops: tuple[str, ...],
        span: tuple[int, int] | None,
        after: int,
        times: int | None,
        error: int,
        seconds: float,
    ) -> Fault:
        span = span or (0, self.store.size)
        fault = Fault(frozenset(ops or OP_NAMES.values()), span, after, times, error, seconds)
        self._faults.append(fault)
        return fault

    def vanish(self) -> None:
        """Close the connections and take no new ones: the disk is pulled."""
        _shut(self._listener)
        for connection in self._connections:
            _shut(connection)

    # the power cut

    def settle(self, keep: str, rng: random.Random) -> None:
        """Leave the store as the medium is after the cut; see Lab.settle()."""
        writes, self._unflushed = self._unflushed, []
        for write in reversed(writes):
            self.store.write(write.offset, write.old)
        for write in writes:
            kept = (
                write.durable
                or keep == "all"
                or (keep == "last" and write is writes[-1])
                or (keep == "random" and rng.random() < 0.5)
            )
            if kept:
                self.store.write(write.offset, write.new)

    # the protocol

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._connections.append(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            if self._negotiate(connection):
                while self._request(connection):
                    pass
        except (OSError, EOFError):
            pass  # the client or the power went away
        finally:
            connection.close()

    def _negotiate(self, connection: socket.socket) -> bool:
        """Whether the client is now in the transmission phase."""
        connection.sendall(b"NBDMAGIC" + struct.pack(">QH", _OPTION_MAGIC, 0b11))
        _receive(connection, 4)
        while True:
            magic, option, size = struct.unpack(">QII", _receive(connection, 16))
            if magic != _OPTION_MAGIC or size > _OPTION_LIMIT:
                return False
            _receive(connection, size)
            if option == _OPT_EXPORT_NAME:
                connection.sendall(struct.pack(">QH", self.store.size, _EXPORT_FLAGS))
                return True
            if option in (_OPT_INFO, _OPT_GO):
                export = struct.pack(">HQH", _INFO_EXPORT, self.store.size, _EXPORT_FLAGS)
                sizes = struct.pack(">HIII", _INFO_BLOCK_SIZE, 1, 4096, _PAYLOAD_LIMIT)
                _answer(connection, option, _REP_INFO, export)
                _answer(connection, option, _REP_INFO, sizes)
                _answer(connection, option, _REP_ACK)
                if option == _OPT_GO:
                    return True
            elif option == _OPT_ABORT:
                _answer(connection, option, _REP_ACK)
                return False
            else:
                _answer(connection, option, _REP_UNSUPPORTED)

    def _request(self, connection: socket.socket) -> bool:
        """Serve one request; whether another may follow."""
        header = _receive(connection, _REQUEST.size)
        magic, flags, kind, cookie, offset, size = _REQUEST.unpack(header)
        if magic != _REQUEST_MAGIC or kind == DISCONNECT:
            return False
        if kind in (READ, WRITE) and size > _PAYLOAD_LIMIT:
            return False
        payload = _receive(connection, size) if kind == WRITE else b""
        error, data = self._perform(kind, bool(flags & _FUA), offset, size, payload)
        connection.sendall(_REPLY.pack(_REPLY_MAGIC, error, cookie))
        if data and not error:
            connection.sendall(data)
        return True

    def _perform(
        self, kind: int, fua: bool, offset: int, size: int, payload: Data
    ) -> tuple[int, Data]:
        if kind not in OP_NAMES:
            return errno.EINVAL, b""
        if kind != FLUSH and offset + size > self.store.size:
            return errno.ENOSPC if kind == WRITE else errno.EINVAL, b""
        new = bytes(size) if kind == ZERO else payload
        op = self._lab.enter(self, kind, fua, offset, size, new)
        for fault in self._faults:  # outside the lab's lock: other exports go on meanwhile
            error = fault.meet(op)
            if error:
                return error, b""
        with self._lab.lock:
            if self._lab.dead:
                raise EOFError
            if kind == READ:
                return 0, self.store.read(offset, size)
            if kind == FLUSH:
                self._unflushed.clear()
            elif new:
                self._write(offset, new, fua)
        return 0, b""

    def _write(self, offset: int, new: Data, fua: bool) -> None:
        if self._volatile:
            old = self.store.read(offset, len(new))
            self._unflushed.append(_Write(offset, old, new, fua))
        self.store.write(offset, new)


class Lab(AbstractContextManager["Lab"]):
    """Exports with one operation counter. Use as a context manager.

    cut_at: number of the operation before which the power fails; None: never.
    torn: how many bytes of that operation still reach the medium.
    on_cut: called once at the cut, from a server thread, before any answer is sent:
        it must stop the client (kill QEMU) and must not wait for the lab.
    counted: operation codes that count; reads do not, unless asked for.
    log: every operation, in order. The first three may be set later, too.
    """

    def __init__(
        self,
        cut_at: int | None = None,
        torn: int = 0,
        on_cut: Callable[[], object] | None = None,
        counted: frozenset[int] = CHANGING,
    ) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="lifeboat-nbd."))
        self.lock = threading.RLock()
        self.cut = threading.Event()
        self.dead = False
        self.count = 0
        self.log: list[Op] = []
        self.exports: list[Export] = []
        self.cut_op: Op | None = None
        self.cut_at = cut_at
        self.torn = torn
        self.on_cut = on_cut
        self._counted = counted
        self._torn_write: tuple[Store, int, Data] | None = None

    def export(self, name: str, store: Store, volatile: bool = True) -> Export:
        """Serve a store. volatile: it has a write cache that a power cut loses."""
        export = Export(self, name, store, volatile)
        self.exports.append(export)
        return export

    def enter(self, export: Export, kind: int, fua: bool, offset: int, size: int, new: Data) -> Op:
        """Count and log an operation; at the cut, raises EOFError and everything is dead."""
        with self.lock:
            if self.dead:
                raise EOFError
            number = 0
            if kind in self._counted:
                self.count += 1
                number = self.count
            op = Op(number, export.name, OP_NAMES[kind], fua, offset, size)
            self.log.append(op)
            if number and number == self.cut_at:
                self.cut_op = op
                if self.torn and new:
                    self._torn_write = (export.store, offset, new[: self.torn])
                self._die()
            return op

    def _die(self) -> None:
        self.dead = True
        if self.on_cut:
            self.on_cut()
        self.cut.set()
        raise EOFError

    def settle(self, keep: str = "none", seed: int | None = None) -> None:
        """Leave the stores as the media are after the power cut.

        keep: which unflushed writes the disks' caches happened to write: `none`, `all`, only
        the `last`, or a `random` subset (seed repeats it). Flushed and FUA writes always stay.
        """
        rng = random.Random(seed)
        with self.lock:
            self.dead = True
            for export in self.exports:
                export.settle(keep, rng)
            if self._torn_write:
                store, offset, part = self._torn_write
                store.write(offset, part)
                self._torn_write = None

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release what is held and end all servers."""
        self.dead = True
        for export in self.exports:
            for fault in export._faults:
                fault.release()
            export.vanish()
        shutil.rmtree(self.folder, ignore_errors=True)


def _receive(connection: socket.socket, size: int) -> bytearray:
    data = bytearray(size)
    view = memoryview(data)
    while view:
        got = connection.recv_into(view)
        if not got:
            raise EOFError
        view = view[got:]
    return data


def _answer(connection: socket.socket, option: int, kind: int, data: bytes = b"") -> None:
    header = struct.pack(">QIII", _OPTION_REPLY_MAGIC, option, kind, len(data))
    connection.sendall(header + data)


def _shut(sock: socket.socket) -> None:
    """Close a socket that another thread may be waiting on."""
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # not connected
    sock.close()
