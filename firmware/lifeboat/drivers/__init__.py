"""Drivers of flashes and disks: MicroPython block devices that raise OSError and never hang."""
