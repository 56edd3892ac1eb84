"""The command line: one command a file, whose options become one call into petrun.commands. The only package that ends the process."""
