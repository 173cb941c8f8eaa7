"""The CRC-32 of all of lifeboat's formats (docs/format.md, section 1)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Union

import crcmod.predefined

Buffer = Union[bytes, bytearray, memoryview]

crc32: Callable[[Buffer], int] = crcmod.predefined.mkCrcFun("crc-32")
