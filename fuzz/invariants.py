"""What holds of a station's memory whatever it was sent; for harnesses and for the stateful tests of the link."""

from fuzz.harness import demand
from shared.link import delivered, station_session
from shared.link import station as limits
from shared.link.reassembly import COST_OF_A_PART
from shared.link.station import Station
from shared.link.station_session import StationSession

_MOST_NUMBERS = 65536
"""Of anything that is remembered by number, whatever the module's own limits."""


def check_station(station: Station) -> None:
    """Demand that a station's accounts are right and within its bounds."""
    sessions = station._sessions.values()
    for session in sessions:
        _check_session(session)
    demand(station._buffered == sum(session.buffered_bytes for session in sessions), "bytes are counted wrong")
    demand(station._buffered <= limits.MOST_BUFFERED_BYTES, "the senders together have too many bytes")
    demand(len(sessions) <= limits.MOST_SESSIONS, "there are too many sessions")
    demand(station._timers.keys() <= station._sessions.keys(), "a timer is nobody's")
    demand(len(station._answers) <= limits._ANSWERS_REMEMBERED, "too many answers wait")
    demand(len(station._answer_times) <= limits._ANSWERS_REMEMBERED, "too many answers are remembered")


def check_totals(station: Station) -> None:
    """Demand that no counter has run backwards."""
    for counter, value in vars(station.totals).items():
        demand(value >= 0, f"{counter} is below 0")


def _check_session(session: StationSession) -> None:
    blocks, layers = session._blocks, session._layers
    cost = station_session._COST_OF_AN_ENTRY
    expected = sum(block.bytes + cost for block in blocks.values()) + sum(
        layer.bytes + cost for layer in layers.values()
    )
    expected += station_session._COST_OF_A_NAME * sum(map(len, session._block_layers.values()))
    demand(session.buffered_bytes == expected, "a sender's bytes are counted wrong")
    demand(session.buffered_bytes <= limits.MOST_BUFFERED_BYTES_OF_ONE, "a sender has too many bytes")
    demand(len(blocks) <= limits.MOST_UNFINISHED_BLOCKS, "a sender has too many blocks")
    parts = sum(len(layer._parts) for layer in layers.values())
    demand(parts * COST_OF_A_PART <= session.buffered_bytes, "parts of layers cost memory that is not counted")
    for block in blocks.values():
        demand(block.bytes == sum(map(len, block._symbols.values())), "a block's bytes are counted wrong")
    demand(session._block_layers.keys() == blocks.keys(), "layers of a block are kept without it")
    demand(session._asked <= blocks.keys(), "a block that is not there counts as asked for")
    demand(not session._completed.keys() & blocks.keys(), "a block is whole and unfinished")
    demand(session._complete <= session._completed.keys(), "a block is to be called whole that is not remembered")
    demand(len(session._completed) <= station_session._BLOCKS_REMEMBERED, "too many blocks are remembered")
    names = sum(map(len, session._completed.values()))
    demand(names == session._completed_names <= station_session._NAMES_REMEMBERED, "blocks name too many layers")
    known = session._delivered
    demand(len(known._layers) <= delivered._LAYERS_REMEMBERED, "too many layers are remembered")
    demand(len(known._taken) <= delivered._LAYERS_REMEMBERED, "too many numbers are remembered")
    demand(known._acknowledgements <= known._layers.keys(), "a layer is acknowledged that is not remembered")
    demand(known._refusals <= known._taken.keys(), "a number is called taken that is not remembered")
    demand(known._highest >= max(known._taken, default=0), "a number is above the highest")
    demand(len(session._requests) <= _MOST_NUMBERS, "too many blocks are asked for")
    demand(not any(key in known for key in layers), "a layer is delivered and unfinished")
