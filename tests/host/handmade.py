"""Structures built by hand from docs/format.md with struct, zlib and hashlib only.

What the tests hold the host tools against: shares no code with them.
"""

import hashlib
import struct
import zlib

B = 4096  # smallest block size
BLOCKS = [bytes([i]) * B for i in range(3)]


def u32(value):
    return struct.pack("<I", value)


def sealed(body):
    return body + u32(zlib.crc32(body))


def manifest(
    blocks=BLOCKS,
    segments=((b"os", 1, 0, 5000), (b"app", 2, 8192, 4096)),
    product=b"prod",
    version=b"1.2",
    block_size=B,
    counter=0,
    signature=b"",
    signature_type=None,
    patch=(),
    tail=b"",
    minor=2,
    extensions=b"",
    memory_blocks=0,
):
    """patch: (offset, bytes) put into the body before the CRC is computed."""
    if signature_type is None:
        signature_type = 1 if signature else 0
    total = 128 + 48 * len(segments) + 36 * len(blocks) + len(extensions) + len(signature) + 4
    body = b"LBMANIF\n" + bytes([1, minor]) + struct.pack("<H", 128)
    body += struct.pack("<III", total, block_size, len(blocks))
    body += struct.pack("<HHII", len(segments), signature_type, len(signature), counter)
    body += u32(len(extensions)) + product.ljust(32, b"\0") + version.ljust(24, b"\0")
    if minor >= 2:
        manifest_blocks = -(-total // block_size) if block_size else 0
        body += bytes(8) + struct.pack("<HH", memory_blocks, manifest_blocks) + bytes(20)
    else:
        body += bytes(32)
    for name, kind, offset, size in segments:
        body += name.ljust(24, b"\0") + struct.pack("<III", kind, offset, size) + bytes(12)
    body += b"".join(u32(zlib.crc32(block)) for block in blocks)
    body += b"".join(hashlib.sha256(block).digest() for block in blocks)
    body = bytearray(body + extensions + signature)
    for offset, data in patch:
        body[offset : offset + len(data)] = data
    return sealed(bytes(body)) + tail


def build_id(raw, signature_size=0):
    """Since minor 2 over zeros where the sizes of the manifest and the signature are."""
    body = bytearray(raw[: len(raw) - 4 - signature_size])
    if raw[9] >= 2:
        body[12:16] = bytes(4)
        body[26:32] = bytes(6)
    return hashlib.sha256(body).digest()


SLOT_SIZE = 69632 + 4 * B
SECTORS = (4096 + 2 * SLOT_SIZE + 131072 + 8192) // 512
SET_ID = bytes(range(16))
REGION_ID = bytes(range(16, 32))


def region(
    start_lba=8,
    sectors=SECTORS,
    lba_size=512,
    index=0,
    count=2,
    slots=2,
    slot_size=SLOT_SIZE,
    region_id=REGION_ID,
    journal=(0, 0),
    minor=2,
    serial=0,
    product=b"",
    area=0,
    slots_offset=0,
    extents=(),
    patch=(),
):
    """extents: (type, flags, units, offset) of each; patch as in manifest()."""
    body = b"LBREGION" + bytes([1, minor]) + struct.pack("<HI", 512, lba_size)
    body += SET_ID + region_id + struct.pack("<QQ", start_lba, sectors)
    body += struct.pack("<HHIQQI", index, count, slots, slot_size, *journal)
    if minor >= 2:
        body += bytes(8) + u32(serial) + product.ljust(32, b"\0") + u32(area) + u32(slots_offset)
        body += bytes(124) + b"".join(struct.pack("<HHIQ", *extent) for extent in extents)
    return _record(body, patch)


def commit(
    raw,
    slot=0,
    generation=1,
    region_id=REGION_ID,
    signature_size=0,
    patch=(),
    magic=b"LBCOMMIT",
):
    block_size, block_count = struct.unpack_from("<II", raw, 16)
    body = magic + bytes([1, 2]) + struct.pack("<HI", 512, slot) + region_id
    body += build_id(raw, signature_size)
    body += struct.pack("<IIII", generation, len(raw), block_size, block_count)
    return _record(body, patch)


def _record(body, patch):
    body = bytearray(body.ljust(508, b"\0"))
    for offset, data in patch:
        body[offset : offset + len(data)] = data
    return sealed(bytes(body)).ljust(4096, b"\0")


AFTER_SLOTS = 4096 + 2 * SLOT_SIZE  # of region(): room for 32 units before the tail copies


def entry(number, session, event, code=b"", where=b"", first=0, count=0, time=0, up=9, phase=0):
    head = struct.pack("<IIIIB", number, session, time, up, phase)
    texts = event.ljust(11, b"\0") + code.ljust(16, b"\0") + where.ljust(12, b"\0")
    return head + texts + struct.pack("<II", first, count)


def page(serial, entries, region_id=REGION_ID, count=None, patch=(), minor=2):
    """A page of the journal; patch as in manifest()."""
    count = len(entries) if count is None else count
    body = b"LBJOURNL" + bytes([1, minor]) + struct.pack("<HI", 64, serial) + region_id
    body = (body + u32(count)).ljust(64, b"\0") + b"".join(entries)
    body = bytearray(body.ljust(4092, b"\0"))
    for offset, data in patch:
        body[offset : offset + len(data)] = data
    return sealed(bytes(body))


def ring(writes, units=32, region_id=REGION_ID):
    """A journal by the rules of section 5; each of `writes` is a list of entries.

    Returns the units, and the page that the last write filled.
    """
    pages, held, at, serial = [bytes(4096)] * units, [], 0, 0
    for entries in writes:
        while entries:
            serial += 1
            if serial > 1 and len(held) + len(entries) <= 62:
                at ^= 1
            else:
                at = (at // 2 * 2 + 2) % units if serial > 1 else 0
                held = []
            room = 62 - len(held)
            held, entries = held + entries[:room], entries[room:]
            pages[at] = page(serial, held, region_id)
    return pages, at


def journal_disk(pages, index=0, region_id=REGION_ID, **header):
    """A disk whose whole content is a region with that journal."""
    end = 4096 + SECTORS * 512
    data = bytearray(end)
    journal = header.pop("journal", (AFTER_SLOTS, len(pages)))
    for at in (4096, end - 8192, end - 4096):
        data[at : at + 4096] = region(index=index, region_id=region_id, journal=journal, **header)
    start = 4096 + AFTER_SLOTS
    content = b"".join(pages)
    data[start : start + len(content)] = content
    return bytes(data)


def disk(size=1 << 20, start_lba=8, slots=()):
    """A disk with a region; slots: (number, generation, blocks, keywords of manifest())."""
    data = bytearray(size)
    start = start_lba * 512
    end = start + SECTORS * 512
    for at in (start, end - 8192, end - 4096):
        data[at : at + 4096] = region(start_lba)
    for number, generation, blocks, keywords in slots:
        raw = manifest(blocks, **keywords)
        at = start + 4096 + number * SLOT_SIZE
        data[at : at + 4096] = commit(raw, number, generation)
        data[at + 4096 : at + 4096 + len(raw)] = raw
        content = b"".join(blocks)
        data[at + 69632 : at + 69632 + len(content)] = content
    return data


def parity(blocks, raw, slot=0, region_id=REGION_ID, patch=()):
    """Record and parity blocks behind a copy with the manifest raw; patch as in manifest()."""
    size = len(blocks[0])
    groups = -(-len(blocks) // 16)
    data = []
    for group in range(groups):
        total = 0
        for block in blocks[group::groups]:
            total ^= int.from_bytes(block, "big")
        data.append(total.to_bytes(size, "big"))
    body = b"LBPARITY" + bytes([1, 2]) + struct.pack("<HI", 128, slot) + region_id
    body = (body + build_id(raw) + u32(groups) + u32(size)).ljust(128, b"\0")
    body = bytearray((body + b"".join(u32(zlib.crc32(x)) for x in data)).ljust(4092, b"\0"))
    for offset, new in patch:
        body[offset : offset + len(new)] = new
    return sealed(bytes(body)) + b"".join(data)


def evidence(
    was, right, serial=1, block=0, raw=False, region_id=REGION_ID, build=bytes(32), session=1,
    time=0, reason=b"power-on", most=483, patch=(),
):  # fmt: skip
    """An entry about a block of which these bytes were damaged; with its raw units."""
    pairs = [(i, a, b) for i, (a, b) in enumerate(zip(was, right)) if a != b]
    body = b"LBEVIDEN" + bytes([1, 2]) + struct.pack("<HI", 224, serial) + region_id + build
    body += struct.pack("<IIIII", zlib.crc32(was), block, len(was), time, session)
    body += reason.ljust(12, b"\0")
    body += u32(sum((a & ~b).bit_count() for _, a, b in pairs))
    body += u32(sum((b & ~a).bit_count() for _, a, b in pairs))
    body += u32(len(pairs)) + u32(sum(a == 255 for _, a, _ in pairs))
    body += u32(pairs[0][0]) + u32(pairs[-1][0])
    body += u32(min(len(pairs), most)) + u32(len(was) // 4096 if raw else 0)
    body = body.ljust(224, b"\0") + b"".join(struct.pack("<IBBH", *x, 0) for x in pairs[:most])
    body = bytearray(body.ljust(4092, b"\0"))
    for offset, data in patch:
        body[offset : offset + len(data)] = data
    return sealed(bytes(body)) + (was if raw else b"")


# --- the controller's memory ---------------------------------------------------------------


def memory_header(epoch=1, page_size=256, mirror_size=16384, uid=b"", patch=()):
    body = b"LBMEMORY" + bytes([1, 2]) + struct.pack("<HIII", 256, epoch, page_size, mirror_size)
    body += bytes(8) + bytes([len(uid)]) + uid.ljust(32, b"\0") + bytes(187)
    body = bytearray(body)
    for offset, data in patch:
        body[offset : offset + len(data)] = data
    return sealed(bytes(body)).ljust(page_size, b"\xff")


def memory_record(kind, sequence, payload, page_size=256):
    body = b"LBMR" + bytes([kind, 0, 0, 0]) + u32(sequence) + payload.ljust(240, b"\0")
    return sealed(body).ljust(page_size, b"\xff")


def member_payload(index, count=1, set_id=SET_ID, region_id=REGION_ID, name=b"sata0"):
    place = struct.pack("<QQIHH", 8, SECTORS, 512, index, count)
    return (set_id + region_id + place + name.ljust(24, b"\0")).ljust(240, b"\0")


def set_payload(*members, set_id=SET_ID):
    """The record that closes a set of these payloads."""
    crc = zlib.crc32(b"".join(members))
    return set_id + struct.pack("<HHI", len(members), 0, crc)


def build_payload(build_id, version=b"1.0", counter=0):
    return build_id + u32(counter) + version.ljust(24, b"\0")


def mirror(*pages, size=16384, **header):
    """A mirror: its header, and the pages of its log."""
    data = memory_header(mirror_size=size, **header) + b"".join(pages)
    return data.ljust(size, b"\xff")
