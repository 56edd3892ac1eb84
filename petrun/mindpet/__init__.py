"""MindPet's own import tree: code written for MindPet runs after `mindpet` is changed into `petrun.mindpet`.

Holds MindPet's interfaces and what only they need; the algorithms are in petrun.delta. No other package imports it, but for the names
that petrun.delta and petrun.graph export.
"""
