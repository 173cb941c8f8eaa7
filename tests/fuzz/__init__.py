"""Inputs that coverage leads, for every parser of the device and of the host."""
