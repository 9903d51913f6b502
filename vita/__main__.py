"""Run the command line as `python -m vita`."""

from vita.cli import main

if __name__ == "__main__":
    main()
