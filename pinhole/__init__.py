"""The `pinhole` command: finds the command asked for in one of the rooms and runs it."""
