"""Name the tasks that rows are read for, in groups that share what is done with them."""

PREFERENCE = "preference"
"""The task of rows that hold two answers to one prompt, the better one first."""
PROMPTED_TASKS = ("instruct", PREFERENCE)
"""Tasks whose rows have prompts."""
DECODER_TASKS = ("lm", *PROMPTED_TASKS)
"""Tasks of a family that continues texts."""
