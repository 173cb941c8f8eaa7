"""Tests that MicroPython's unix port runs."""
