"""Faults put into the firmware on purpose: a test must fail for each."""
