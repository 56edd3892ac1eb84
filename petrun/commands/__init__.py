"""One use case a file, to be read from top to bottom: the table of contents of petrun.

What takes more than a page is in the packages below.
"""
