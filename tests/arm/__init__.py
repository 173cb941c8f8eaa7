"""Tests that MicroPython's qemu port runs on an emulated Cortex-M3."""
