# Runs before everything else, at power-on and on every soft reset; Ctrl-C is off.
import gc

import board

import lifeboat

if lifeboat.start(board).runs:
    try:
        lifeboat.mount(board)
    except Exception as error:
        print("[lifeboat] not mounted:", repr(error))

del board, lifeboat
gc.collect()
