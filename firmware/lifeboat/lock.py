"""A console that opens only for a signed answer (format.md section 7).

    lock.closed(board)      whether it is to stay closed
    lock.serve(board)       tell the challenge, and wait for the answer
    lock.change(board, on)  close it from the next reset on, or leave it open

The port keeps Ctrl-C and the REPL away meanwhile: boards/port/_console.py has the order.
"""

import json
import select
import sys
from binascii import a2b_base64, hexlify, unhexlify
from struct import pack
from time import ticks_diff, ticks_ms

from micropython import const

from . import running
from .codeflash import CodeFlash
from .errors import LifeboatError
from .lms import verify
from .owner import LOCK_RECORD, LOCKED, UNLOCK
from .trust import Trust

_LINE = const(12000)
_UID = const(32)
_SILENCE_MS = const(30000)
_POLL_MS = const(100)
_KNOCK_MS = const(250)


def _recalled(board):
    return Trust(board, CodeFlash(board.flash(), board.BLOCK_SIZE)).recall()


# The memory is written only where the manifest in flash does not say that something else is there.
def _trusted(board):
    trust = _recalled(board)
    try:
        if not trust.declares_memory(trust.flash.manifest(trust)[0]):
            trust.memory.writable = False
    except LifeboatError:  # there is none, or one that does not count
        pass
    return trust


def closed(board):
    """Return whether the console is locked: by the boot stage, or by the memory.

    Nobody gets in because something failed: a memory that could not be read may have locked it.
    """
    if not getattr(board, "KEYS", b""):
        return False
    if getattr(board, "LOCKED", False):
        return True
    try:
        trust = _recalled(board)
        return trust.owner.locked or trust.memory.why == "memory-failed"
    except Exception:  # noqa: BLE001 - of the board's drivers, or too little memory
        return True


def challenge(board, trust):
    """Return the bytes that an answer signs. Raises LifeboatError: lock-nameless, memory-full."""
    uid = bytes(board.uid())[:_UID] if hasattr(board, "uid") else b""
    uid = uid or trust.memory.set_id
    if not uid:
        raise LifeboatError("lock-nameless")
    if trust.owner.answers == 0xFFFFFFFF:
        raise LifeboatError("memory-full", "answers")
    return pack("<8sB32sI", b"LBUNLOCK", len(uid), uid, trust.owner.answers + 1)


def answer(board, line):
    """Take an answer. Raises LifeboatError: it opens nothing.

    Order: it is used up before it opens anything, and that was read back.
    """
    trust = _trusted(board)
    owner, memory = trust.owner, trust.memory
    try:
        word, name, signature = str(line, "ascii").split()
        name, signature = unhexlify(name), a2b_base64(signature)
    except (ValueError, MemoryError):  # CPython's binascii.Error and UnicodeError are ValueErrors
        word = ""
    if word != "unlock":
        raise LifeboatError("lock-answer")
    key = owner.keys and owner.keys.key(name, UNLOCK)
    if not key:
        raise LifeboatError("key-unknown")
    if not verify(key, signature, challenge(board, trust)):
        raise LifeboatError("signature-bad")
    if memory.state in ("empty", "lost") and _may_begin(trust):
        memory.remember_set([])
    _write(trust, owner.answers + 1, owner.flags)


# A memory is begun where the manifest in flash leaves room for it, or where nothing is at all:
# else nobody could help a board whose flash was wiped.
def _may_begin(trust):
    try:
        return trust.declares_memory(trust.flash.manifest(trust)[0])
    except LifeboatError:
        return trust.memory.state == "empty"


def _write(trust, answers, flags):
    trust.memory.add([(LOCK_RECORD, (pack("<II", answers, flags),))])


def change(board, on):
    """Lock the console from the next reset on, or leave it open. Raises LifeboatError."""
    trust = _trusted(board)
    owner = trust.owner
    if not owner or not owner.keys or on and not owner.keys.opens:
        raise LifeboatError("lock-keyless")
    if on:
        challenge(board, trust)  # what has no name can't be opened
    flags = owner.flags & ~LOCKED | LOCKED * on
    if flags != owner.flags:
        _write(trust, owner.answers, flags)


# The one line that a locked console says.
def _tell(board, refused=None):
    about = {"verdict": running.report.verdict if running.report else None}
    if refused:
        about["refused"] = refused
    try:
        trust = _trusted(board)
        about["challenge"] = hexlify(challenge(board, trust)).decode()
        about["key"] = [hexlify(name).decode() for name in trust.owner.keys.opens]
    except Exception as error:  # noqa: BLE001 - a dead flash, for one
        about["challenge"] = None
        about["why"] = getattr(error, "code", repr(error))
    print("lifeboat-locked: " + json.dumps(about))


def serve(board, patience=None):
    """Tell the challenge and take lines; return whether an answer opened the console.

    patience: milliseconds of silence after which to give up, and in any case after four times as
    many; None: never.
    """
    stream = sys.stdin.buffer
    line = bytearray(_LINE)
    used = 0
    heard = began = ticks_ms()
    _tell(board)
    while True:
        if patience:
            if ticks_diff(ticks_ms(), began) > 4 * patience:
                return False
            if not _heard(_POLL_MS):
                if ticks_diff(ticks_ms(), heard) > patience:
                    return False
                continue
        c = stream.read(1)
        if not c:
            return False
        heard = ticks_ms()
        if c not in b"\r\n":
            # What a tool sends to stop a program, Ctrl-C, is no part of an answer.
            if c >= b" ":
                if used < _LINE:
                    line[used] = c[0]
                used += 1
            continue
        why = None
        if used:
            try:
                if used > _LINE:
                    raise LifeboatError("lock-answer")
                answer(board, memoryview(line)[:used])
                print("lifeboat-open: {}")
                return True
            except Exception as error:  # noqa: BLE001 - whatever it was, it opens nothing
                why = getattr(error, "code", "internal")
            used = 0
        _tell(board, why)


def knock(board):
    """Take an answer before the application starts, if somebody is typing: True when it opened.

    Code that was found intact does not wait long: a quarter of a second for the first character;
    with one until the silence after it, and two minutes whatever comes.
    """
    return _heard(_KNOCK_MS) and serve(board, _SILENCE_MS)


def _heard(ms):
    poll = select.poll()
    poll.register(sys.stdin, select.POLLIN)
    return bool(poll.poll(ms))
