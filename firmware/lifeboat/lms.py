"""LMS signatures: verification only (RFC 8554, sections 4.6 and 5.4; NIST SP 800-208).

SHA-256/192 and SHA-256, one tree, from hashlib alone. Nothing here depends on how many hashes a
signature takes: memory is a buffer of one hash input.
"""

from hashlib import sha256
from struct import pack_into, unpack_from

from micropython import const

# Type codes: LMS_SHA256_M32_H5.. are 5 to 9, M24_H5.. 10 to 14; LMOTS_SHA256_N32_W1.. are 1 to 4,
# N24_W1.. 5 to 8.
_LMS32 = const(5)
_LMS24 = const(10)
_LMS_END = const(15)
_OTS24 = const(5)
_OTS_END = const(9)

_MESSAGE = const(0x8181)  # D_MESG, D_PBLC, D_LEAF, D_INTR
_PUBLIC = const(0x8080)
_LEAF = const(0x8282)
_INNER = const(0x8383)


def shape(public):
    """Return (n, w, p, ls, h, bytes of a signature) of a public key, or None when it is none.

    The names are those of the RFC; HSS of one level is one tree with a number before it.
    """
    if len(public) < 48:
        return None
    lms, ots = unpack_from(">II", public)
    n = 24 if lms >= _LMS24 else 32
    if (
        not (_LMS32 <= lms < _LMS_END and 0 < ots < _OTS_END)
        or (ots >= _OTS24) != (n == 24)
        or len(public) != 24 + n
    ):
        return None
    w = 1 << (ots - 1 & 3)
    digits = 8 * n // w
    most = ((1 << w) - 1) * digits  # of the checksum
    sums = 0
    while most >> sums * w:
        sums += 1
    h = 5 * ((lms - _LMS32) % 5 + 1)
    p = digits + sums
    return n, w, p, 16 - sums * w, h, 12 + n * (p + 1) + n * h


def verify(public, signature, message):
    """Return whether a signature of a message is by a public key; all bytes-like.

    Both may have HSS's number of levels before them, which has to be one.
    """
    if bytes(public[:4]) == b"\0\0\0\1":
        public = public[4:]
    found = shape(public)
    if not found:
        return False
    n, w, p, ls, h, size = found
    signature = memoryview(signature)
    if len(signature) == size + 4 and not any(signature[:4]):
        signature = signature[4:]
    if len(signature) != size:
        return False
    leaf, ots = unpack_from(">II", signature)
    path = 12 + n * (p + 1)
    lms = unpack_from(">I", signature, path - 4)[0]
    if (lms, ots) != unpack_from(">II", public) or leaf >> h:
        return False

    # Every hash begins with I and 32 bits.
    buf = bytearray(23 + 32 + 32)
    buf[:16] = public[8:24]
    pack_into(">IH", buf, 16, leaf, _MESSAGE)
    view = memoryview(buf)
    q = sha256(view[:22])
    q.update(signature[8 : 8 + n])
    q.update(message)
    digits = bytearray(q.digest()[:n] + b"\0\0")
    most, total = (1 << w) - 1, 0
    for i in range(8 * n // w):
        total += most - (digits[i * w >> 3] >> 8 - w - (i * w & 7) & most)
    pack_into(">H", digits, n, total << ls)

    # Walk each of the p chains from its digit to the end.
    pack_into(">H", buf, 20, _PUBLIC)
    key = sha256(view[:22])
    link, y = view[: 23 + n], 8 + n
    for i in range(p):
        pack_into(">H", buf, 20, i)
        digit = digits[i * w >> 3] >> 8 - w - (i * w & 7) & most
        if digit == most:
            key.update(signature[y : y + n])
        else:
            view[23 : 23 + n] = signature[y : y + n]
            tail = _walk(buf, view, link, digit, most)
            key.update(tail[:n])
        y += n

    # From the leaf to the root.
    node = leaf + (1 << h)
    pack_into(">IH", buf, 16, node, _LEAF)
    view[22 : 22 + 32] = key.digest()
    found = sha256(view[: 22 + n]).digest()
    at = path
    while node > 1:
        here, there = (22 + n, 22) if node & 1 else (22, 22 + n)
        node >>= 1
        pack_into(">IH", buf, 16, node, _INNER)
        view[here : here + n] = found[:n]
        view[there : there + n] = signature[at : at + n]
        found = sha256(view[: 22 + 2 * n]).digest()
        at += n
    return found[:n] == bytes(public[24:])


# Hash to the end of a chain. What of a hash does not count lies behind what is hashed next.
def _walk(buf, view, link, digit, most):
    tail = view[23:55]
    found = None
    for j in range(digit, most):
        buf[22] = j
        found = sha256(link).digest()
        tail[:] = found
    return found
