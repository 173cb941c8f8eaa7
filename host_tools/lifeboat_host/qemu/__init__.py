"""Boards that are emulated: what they are, and how they run."""
