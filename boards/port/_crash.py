# Runs after the application ended with an exception that nobody at the console sent it. A new
# build that is tried has failed then: the board resets, and the one before comes back.
import lifeboat

try:
    lifeboat.reject("crash")
except lifeboat.LifeboatError:
    pass  # nothing is tried
del lifeboat
