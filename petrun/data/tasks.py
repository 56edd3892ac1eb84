"""Name the tasks that rows are read for, in groups that share what is done with them."""

PREFERENCE = "preference"
"""The task of rows that hold two answers to one prompt, the better one first."""
PROMPTED_TASKS = ("instruct", PREFERENCE)
"""Tasks whose rows have prompts."""
IMAGE = "image"
"""The task of a net that makes pictures from texts: rows are pictures with captions."""
DECODER_TASKS = ("lm", *PROMPTED_TASKS)
"""Tasks of a family that continues texts."""
