"""The host's end of the agent on a board (firmware/lifeboat/agent.py); docs/provisioning.md."""

from __future__ import annotations

import json
import re
import struct
import zlib
from collections.abc import Callable, Sequence
from typing import Any

from lifeboat_host.base.crc import crc32
from lifeboat_host.base.errors import LifeboatError
from lifeboat_host.base.inflate import inflate
from lifeboat_host.base.json_shape import Maybe, fits
from lifeboat_host.base.types import Progress
from lifeboat_host.board.link import Link
from lifeboat_host.model.reasons import ADVICE
from lifeboat_host.model.report import BLOCKS, REASONS, REPORT, TRIAL

PROTOCOL = 1

_PREFIX = "agent: "
_TRIES = 3
_CALL_S = 60  # the longest wait of a driver is 30 s
_ACK_S = 15  # for a piece to arrive, over a slow line
_VERDICT_S = 60  # to inflate, check, erase and program a block
_NAME = re.compile(r"\w[\w .:-]{0,63}", re.ASCII)  # of a disk; files are named after it
_COUNT = range(1 << 48)
_ID = re.compile("[0-9a-f]{32}")  # of a set, of a region
_KEY = re.compile("[0-9a-f]{16}")
_BUILD = re.compile("[0-9a-f]{64}")
_SHORT = re.compile("[0-9a-f]{12}")  # the first digits of a build id
_WORD = range(1 << 32)
_LBA = range(1 << 64)

_SCRUB = {
    "units": _WORD,
    "left": _WORD,
    "passes": _WORD,
    "age_ms": (None, _WORD),
    "bound_s": (None, _WORD),
}

# What the board says is believed only in these shapes; see fits().
_IDENTITY = {
    "product": str,
    "block_size": range(4096, 1 << 30, 4096),
    "blocks": BLOCKS,
    "piece": range(16, 4096),
    "window": range(1, 256),
    "frame": range(1, 1 << 16),
    "report": (None, REPORT),
    "scrub": Maybe((None, _SCRUB)),
    "updates": Maybe(bool),
}
_CODE = {
    "product": str,
    "version": str,
    "build": _SHORT,
    "blocks": BLOCKS,
    "crc": _COUNT,
    "blank": bool,
    "memory": Maybe(BLOCKS),
    "manifest": Maybe(BLOCKS),
}
_SLOT = {"slot": BLOCKS, "generation": _COUNT}
_COPIES = [({**_SLOT, "error": str}, {**_SLOT, **_CODE, "known": Maybe(bool)})]
_OWNER = {
    "serial": (None, _WORD),
    "keys": [[_KEY, range(256)]],
    "locked": bool,
    "answers": _WORD,
}
_MEMORY = {
    "state": str,
    "why": (None, str),
    "blocks": BLOCKS,
    "set": (None, _ID),
    "members": [{"region": _ID, "lba": _LBA, "sectors": _LBA, "index": _WORD, "disk": str}],
    "builds": [{"build": _BUILD, "counter": _WORD, "version": str}],
    "rejected": [_BUILD],
    "failed": [[_WORD, _WORD]],
    "counter": _WORD,
    "damaged": bool,
    "owner": Maybe((None, _OWNER)),
}
_UPDATE = {
    "trial": TRIAL,
    "offers": [{"version": str, "build": _SHORT, "disk": _NAME}],
}
_DISK = {"disk": _NAME, "sectors": _COUNT, "lba_size": _COUNT, "model": str, "serial": str}
_ANSWERS: dict[str, Any] = {
    "identify": {"agent": _COUNT},
    "code": _CODE,
    "offer": _CODE,
    "compare": [BLOCKS],
    "blocks": BLOCKS,
    "finish": bool,
    "members": {
        "members": [
            {
                "disk": str,
                "state": str,
                "copies": _COPIES,
                "set": Maybe((None, _ID)),
                "region": Maybe((None, _ID)),
            }
        ],
        "reasons": REASONS,
    },
    "check_copy": [BLOCKS],
    "power_on": REPORT,
    "adopt": REPORT,
    "rollback": {"version": str, "written": BLOCKS},
    "stage": {"version": str, "disks": [_NAME], "reasons": REASONS},
    "gather": bool,
    "needed": [[BLOCKS]],
    "put": BLOCKS,
    "commit": [_NAME],
    "arm": _UPDATE,
    "trial": _UPDATE,
    "accept": _UPDATE,
    "confirm": _UPDATE,
    "reject": _UPDATE,
    "memory": _MEMORY,
    "lock": _MEMORY,
    "remember": _MEMORY,
    "used": [BLOCKS],
    "drill": _COUNT,
    "disks": [({"disk": _NAME, "error": str}, _DISK)],
    "disk_first_nonzero": (None, _COUNT),
}
_START = """\
try:
    import board
    from lifeboat.agent import Agent
    _agent = Agent(board)
except ImportError as error:
    print("no-agent", error)
"""


def encoded(piece: bytes) -> bytes:
    """A piece as it goes over the line, without a byte 0x03."""
    places = [place for place, byte in enumerate(piece) if byte == 3]
    numbers = (len(piece), len(places), *places)
    digits = bytes(64 + part for number in numbers for part in (number >> 6, number & 63))
    return digits + piece.replace(b"\3", b"\0")


class Agent:
    """The agent of a connected board. Raises LifeboatError: no-agent, the link's, and the
    board's own codes (docs/operations.md)."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.about: dict[str, Any] = {}
        self.start()

    def start(self) -> None:
        """Begin a session, at first and after trouble on the line or a reset."""
        said = self.link.exec(_START, _CALL_S)
        if said.startswith("no-agent"):
            raise LifeboatError(
                "no-agent",
                f"{self.link.port}: lifeboat does not answer there: {said[8:].strip()}",
                'freeze the module `agent` into the board\'s boot stage (extras="agent line")',
            )
        about = self.call("identify")
        if about["agent"] != PROTOCOL:
            raise LifeboatError(
                "no-agent",
                f"{self.link.port}: its agent speaks version {about['agent']}, "
                f"this tool {PROTOCOL}",
                "use the lifeboat release of the boot stage",
            )
        if not fits(about, _IDENTITY):
            raise self.link.garbled(str(about)[:80])
        self.about = about

    @property
    def product(self) -> str:
        return str(self.about["product"])

    @property
    def block_size(self) -> int:
        return int(self.about["block_size"])

    @property
    def flash_size(self) -> int:
        """Bytes; 0 when the flash gives errors."""
        return int(self.about["blocks"]) * self.block_size

    def call(self, name: str, *args: Any, timeout: float = _CALL_S) -> Any:
        """The answer of a method of the board's agent."""
        self._begin(name, args)
        return self._answer(name, timeout)

    def call_if_known(self, name: str, *args: Any) -> Any:
        """The answer of a method; None when the boot stage is older than the method."""
        try:
            return self.call(name, *args)
        except LifeboatError as error:
            if error.code == "link-device" and "AttributeError" in error.message:
                return None
            raise

    def need_updates(self) -> None:
        """Raise LifeboatError update-missing unless the boot stage can change builds."""
        if not self.about.get("updates"):
            raise LifeboatError(
                "update-missing",
                f"{self.link.port}: its boot stage can not change builds",
                ADVICE["update-missing"],
            )

    def _begin(self, name: str, args: Sequence[Any]) -> None:
        self.link.begin(f"_agent.call({', '.join(map(repr, (name, *args)))})")

    def _answer(self, name: str, timeout: float = _CALL_S) -> Any:
        said = self.link.end(timeout).strip().split("\n")[-1]
        try:
            answer: Any = json.loads(said[len(_PREFIX) :]) if said.startswith(_PREFIX) else None
        except (ValueError, RecursionError):
            answer = None
        if fits(answer, {"error": [str, str]}):
            code, detail = answer["error"]
            about = f": {detail}" if detail else ""
            message = f"{self.link.port}: the board says {code}{about}"
            raise LifeboatError(code, message, ADVICE.get(code, ""))
        if not fits(answer, {"ok": _ANSWERS.get(name)}):
            raise self.link.garbled(said[:80])
        return answer["ok"]

    # Parcels to the board

    def offer(self, manifest: bytes) -> Any:
        """Send the manifest of new code; what the board takes it for, or its refusal."""
        self._begin("offer", ())
        self._parcel(0, manifest)
        return self._answer("offer")

    def stage(self, manifest: bytes, again: bool, timeout: float) -> Any:
        """Send the manifest of a build to be staged; which disks have room for it."""
        self._begin("stage", (again,))
        self._parcel(0, manifest, timeout)
        return self._answer("stage")

    def send(
        self,
        name: str,
        args: Sequence[Any],
        parcels: Sequence[tuple[int, Callable[[], bytes]]],
        progress: Progress | None = None,
    ) -> Any:
        """Call a method that receives parcels: (number, what gives its bytes)."""
        self._begin(name, args)
        for done, (number, data) in enumerate(parcels):
            if not self._parcel(number, data()):
                return self._answer(name)  # which says why
            if progress:
                progress(done + 1, len(parcels))
        self._pieces([bytes(16)])
        return self._answer(name)

    # Send a parcel, again when it arrives damaged. False: the board has ended the call.
    def _parcel(self, number: int, data: bytes, timeout: float = _VERDICT_S) -> bool:
        # The board keeps the window in its heap, which has room for some of its blocks.
        window = max(9, min(15, self.block_size.bit_length() - 1))
        packer = zlib.compressobj(9, wbits=window)
        packed = packer.compress(data) + packer.flush()
        if len(packed) >= len(data):
            packed = b""
        head = struct.pack("<IIII", number, len(data), len(packed), crc32(data))
        payload = packed or data
        size = int(self.about["piece"])
        pieces = [head, *(payload[at : at + size] for at in range(0, len(payload), size))]
        for _ in range(_TRIES):
            self._pieces(pieces)
            verdict = self.link.answer(timeout, b"=!~")
            if verdict != b"~":
                return verdict == b"="
        raise self.link.garbled(f"parcel {number} came damaged, {_TRIES} times")

    def _pieces(self, pieces: Sequence[bytes]) -> None:
        window = int(self.about["window"])
        for number, piece in enumerate(pieces):
            if number >= window:
                self._acknowledged()
            self.link.write(encoded(piece))
        for _ in range(min(window, len(pieces))):
            self._acknowledged()

    def _acknowledged(self) -> None:
        self.link.answer(_ACK_S, b"+")

    # Frames from the board

    def receive(self, name: str, args: Sequence[Any], size: int) -> bytes:
        """The bytes that a method sends as frames; tried again when the line loses some."""
        for left in reversed(range(_TRIES)):
            try:
                return self._frames(name, args, size)
            except LifeboatError as error:
                if error.code not in ("link-garbled", "link-timeout") or not left:
                    raise
        raise AssertionError

    def _frames(self, name: str, args: Sequence[Any], size: int) -> bytes:
        self._begin(name, args)
        data = bytearray()
        while len(data) < size:
            kind = self.link.answer(_CALL_S, b"!0zr")
            if kind == b"!":
                self._answer(name)  # raises
            head = self.link.read(12, _ACK_S)
            room = min(int(self.about["frame"]), size - len(data))
            data += self._frame(kind, head, room)
            self.link.write(b"+")
        self._answer(name)
        return bytes(data)

    def _frame(self, kind: bytes, head: bytes, room: int) -> bytes:
        try:
            length, crc = int(head[:4], 16), int(head[4:], 16)
            payload = self.link.read(length, _ACK_S) if 0 <= length <= room else b""
            frame = {b"0": bytes(room), b"z": b"", b"r": payload}[kind]
            if kind == b"z":
                frame = inflate(payload, room)
        except (ValueError, KeyError, zlib.error):
            frame, crc = b"", 0
        if len(frame) != room or crc32(frame) != crc:
            raise self.link.garbled("a damaged frame")
        return frame
