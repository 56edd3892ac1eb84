"""Name the tasks that rows are read for, in groups that share what is done with them."""

PREFERENCE = "preference"
"""The task of rows that hold two answers to one prompt, the better one first; or one answer, and whether it is desirable."""
UNPAIRED = "unpaired"
"""Name of the task PREFERENCE where each row holds one answer, which has metrics of its own."""
TOKENS = "tokens"
"""The task of rows of words with a tag for each, as of people and places in a text."""
CLASS_TASKS = ("classify", TOKENS)
"""Tasks of a net whose head gives classes."""
PROMPTED_TASKS = ("instruct", PREFERENCE)
"""Tasks whose rows have prompts."""
IMAGE = "image"
"""The task of a net that makes pictures from texts: rows are pictures with captions."""
DECODER_TASKS = ("lm", *PROMPTED_TASKS)
"""Tasks of a family that continues texts."""
