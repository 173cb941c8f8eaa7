"""Pseudo-random numbers that are the same on CPython and MicroPython."""

from hashlib import sha256


class Rng:
    """A stream of pseudo-random bytes that depends on its seed only."""

    def __init__(self, seed):
        self._seed = str(seed)
        self._n = 0
        self._pool = b""

    def bytes(self, size):
        """Return the next size bytes."""
        pieces = [self._pool]
        missing = size - len(self._pool)
        while missing > 0:
            pieces.append(sha256(("%s/%d" % (self._seed, self._n)).encode()).digest())
            self._n += 1
            missing -= 32
        pool = b"".join(pieces)
        self._pool = pool[size:]
        return pool[:size]

    def below(self, n):
        """Return a number from 0 to n - 1."""
        return int.from_bytes(self.bytes(4), "little") % n

    def choice(self, items):
        """Return one of a sequence."""
        return items[self.below(len(items))]
