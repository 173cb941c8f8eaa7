# Runs in place of the REPL while the console is locked, again and again. Whether it is was decided
# at the start, when the application had not yet had the heap.
import board
import machine

from lifeboat import lock

if lock.serve(board):
    machine.console_open()
