"""What a run of the sender node did, in numbers."""

from dataclasses import dataclass


@dataclass
class NodeCounters:
    """What this run of the node did; numbers of pictures, and bytes of layers taken.

    Attributes:
        taken: put into the spool.
        taken_bytes: their layers' bytes.
        done: acknowledged whole (simplex: sent), pictures of earlier runs among them.
        refused: could not be read or encoded.
        expired: given up for their age.
        renumbered: went on under new numbers, because the station had others under theirs.
    """

    taken: int = 0
    taken_bytes: int = 0
    done: int = 0
    refused: int = 0
    expired: int = 0
    renumbered: int = 0
