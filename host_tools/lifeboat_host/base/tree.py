"""Where the source tree and its cache are."""

from __future__ import annotations

import os
from pathlib import Path

from lifeboat_host.base.errors import LifeboatError


def root() -> Path:
    """The project's source tree: LIFEBOAT_ROOT, or the tree this file stands in."""
    tree = Path(os.environ.get("LIFEBOAT_ROOT", Path(__file__).resolve().parents[3]))
    if not (tree / "boards").is_dir():
        raise LifeboatError(
            "no-tree",
            f"{tree}: no boards/ folder, so this is not lifeboat's source tree",
            "set LIFEBOAT_ROOT to a checkout; the image and region commands work without one",
        )
    return tree


def cache() -> Path:
    """Folder of everything that is fetched or built: LIFEBOAT_CACHE, or <tree>/.lifeboat."""
    return Path(os.environ.get("LIFEBOAT_CACHE") or root() / ".lifeboat")
