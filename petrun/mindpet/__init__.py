"""MindPet's own import tree: code written for MindPet runs after `mindpet` is changed into `petrun.mindpet`.

Holds MindPet's interfaces and what only they need; the algorithms are petrun.delta's. Nothing else of petrun imports it, but for the
names that petrun.delta and petrun.graph export.
"""
