"""One use case a file, to be read from top to bottom: the table of contents of petrun.

Steps that take more than a page are in the packages below.
"""
