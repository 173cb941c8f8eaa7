"""Disks, and what partition tables and signatures say is on them."""
