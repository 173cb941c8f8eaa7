# Runs after _boot.py and before the application: is the console open? Whoever types already may
# open it now, since the application may never end.
import board
import machine

from lifeboat import lock

if not lock.closed(board):
    machine.console_open()
else:
    machine.console_lock()
    if lock.knock(board):
        machine.console_open()
