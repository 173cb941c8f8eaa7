"""What JSON from a board must look like before it is believed."""

from __future__ import annotations

import re
from typing import Any


class Maybe:
    """The shape of a key that may be missing: older boards do not tell it."""

    def __init__(self, shape: Any) -> None:
        self.shape = shape


def fits(value: Any, shape: Any) -> bool:
    """Whether a value out of JSON has that shape.

    A shape is a type, a range of numbers, a pattern of text, None, a tuple of shapes of which one
    has to fit, a dictionary of keys that must be there but for those that are a Maybe, a list with
    the shape of all elements, or a longer one with that of each.
    """
    if isinstance(shape, Maybe):
        return fits(value, shape.shape)
    if isinstance(shape, tuple):
        return any(fits(value, one) for one in shape)
    if isinstance(shape, dict):
        return isinstance(value, dict) and all(
            fits(value[key], part) if key in value else isinstance(part, Maybe)
            for key, part in shape.items()
        )
    if isinstance(shape, list):
        if not isinstance(value, list) or (len(shape) > 1 and len(value) != len(shape)):
            return False
        parts = shape if len(shape) > 1 else shape * len(value)
        return all(map(fits, value, parts))
    if isinstance(shape, range):
        return type(value) is int and value in shape
    if isinstance(shape, re.Pattern):
        return isinstance(value, str) and shape.fullmatch(value) is not None
    return value is None if shape is None else type(value) is shape
