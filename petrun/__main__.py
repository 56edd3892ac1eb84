"""`python -m petrun` is the same program as `petrun`."""

from petrun.cli.app import main

if __name__ == "__main__":
    main()
