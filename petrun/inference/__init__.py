"""Compute scores and text with a base and its deltas. Nothing is trained here.

assembly, base_info, stored_base                  open a base, fit a delta to it, attach it
settings, rows                                    resolve a command's settings, and read its rows
evaluator, prediction, comparison                 score a net, predict its rows, compare several deltas
multi_adapter, adapter_tensors, virtual_tables    several deltas in one graph
generation/                                       text: sessions, which commands and the HTTP server use
merging/                                          merges on files, their proof, and the prompts of a merged folder
"""
