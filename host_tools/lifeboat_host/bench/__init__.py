"""`lifeboat bench` and `lifeboat demo`: boards in emulators, measured and healed."""
