"""Frozen matrices in 8 and 4 bits: how they are made, and how the files of other tools hold them. numpy alone; nothing here trains."""
