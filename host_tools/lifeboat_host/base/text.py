"""Text that a terminal may show."""

from __future__ import annotations


def clean(text: str) -> str:
    """The text without what could steer a terminal; lines stay lines.

    Control characters, ESC and C1 among them, and those that turn the direction of writing: what
    disks, images and boards tell is not to be trusted.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\u00a0\u3000" else "\ufffd" for c in text)
