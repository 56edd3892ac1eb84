"""MindPet's tasks: start a boot script with the arguments that MindPet gives it, watch it to its end, read its result.

Holds what `petrun mindpet` and `petrun.mindpet.mindpet_sdk` share. What the script does is its own affair.
"""
