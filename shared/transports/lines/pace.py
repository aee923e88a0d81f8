"""When a slow line may be given the next frame. No clock: time is an argument, in seconds."""


class LinePace:
    """Keeps little waiting in a line's driver, for what waits there can neither be recalled nor overtaken.

    Drivers and USB adapters do not all tell what they hold, so this reckons with the speed of the line.

    Args:
        bytes_per_second: above 0.
        depth: bytes that may wait when another frame is given to the driver.
    """

    def __init__(self, bytes_per_second: float, depth: int) -> None:
        self.bytes_per_second = bytes_per_second
        self.depth = depth
        self._allowed = depth / bytes_per_second
        self._busy_until = float("-inf")

    def written(self, size: int, now: float) -> None:
        """The driver took ``size`` bytes."""
        self._busy_until = max(now, self._busy_until) + size / self.bytes_per_second

    def ready_at(self, now: float) -> float:
        """When the driver may be given another frame; at least ``now``."""
        return max(now, self._busy_until - self._allowed)

    @property
    def idle_at(self) -> float:
        """When the last byte has left."""
        return self._busy_until


class Turns:
    """Taking turns on a half-duplex channel: listen before talking, and let others have their say.

    Args:
        quiet: seconds without a byte after which the channel is free.
        talk: seconds that one end may talk at a stretch.
        gap: seconds that it then listens, longer than ``quiet`` so that another end notices.
    """

    def __init__(self, *, quiet: float, talk: float, gap: float) -> None:
        self._quiet = quiet
        self._talk = talk
        self._gap = gap
        self._heard_at = float("-inf")
        self._began: float | None = None
        self._ended = float("-inf")

    def heard(self, now: float) -> None:
        """Bytes came in."""
        self._heard_at = now
        self._began = None

    def talked(self, now: float, until: float) -> None:
        """A frame was given to the line, which will have left it at ``until``."""
        if self._began is None or now >= self._ended + self._gap:
            self._began = now
        self._ended = until

    def ready_at(self, now: float) -> float:
        """When a frame may be sent; at least ``now``."""
        ready = max(now, self._heard_at + self._quiet)
        if self._began is not None and self._ended - self._began >= self._talk:
            ready = max(ready, self._ended + self._gap)
        return ready
