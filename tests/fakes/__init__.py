"""Devices in RAM for the tests of the firmware; they run on CPython and on the unix port."""
