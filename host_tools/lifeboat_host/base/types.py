"""Types of arguments that many functions take."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Union

PathLike = Union[str, "os.PathLike[str]"]
Progress = Callable[[int, int], None]  # called with (done, total)
