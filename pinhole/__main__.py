"""`python -m pinhole` does what `pinhole` does."""

from pinhole.cli import main

if __name__ == "__main__":
    main()
