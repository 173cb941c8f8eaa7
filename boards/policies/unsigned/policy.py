"""A development board: it runs what nobody signed, and its console is open."""

UNSIGNED = True
