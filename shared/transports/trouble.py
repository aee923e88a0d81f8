"""What keeps a transport from working, told once for each kind of trouble."""

from shared.transports.options import Report


class Trouble:
    """Remembers the present trouble and reports each new one, not every time that it comes back.

    Args:
        report: gets the line.
    """

    def __init__(self, report: Report) -> None:
        self._report = report
        self._told: set[str] = set()
        self.current: str | None = None
        """In one line, None while there is none."""

    def note(self, line: str) -> None:
        """There is trouble."""
        self.current = line
        if line not in self._told:
            self._told.add(line)
            self._report(line)

    def over(self) -> None:
        """It is over."""
        self.current = None
