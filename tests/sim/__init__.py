"""Simulated devices whose power fails, and sweeps that let it fail at every instant.

nor, disk and power run on MicroPython, too; the rest is CPython's. docs/reliability.md tells what
the devices do that hardware does, and where the facts come from.
"""
