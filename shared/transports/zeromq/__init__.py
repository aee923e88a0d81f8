"""ZeroMQ transport: a DEALER at each sender, a ROUTER at the station, one packet a message, over TCP.

ZeroMQ frames messages and seals connections; what it must not do is pile packets up, neither while the station is away
(they would all leave in one burst when it returns, past every budget) nor while it is slow. So packets are only given
to a connection that stands, and only as many bytes as the station has room for: `credit`. ``send`` waits until
both are so. What a connection loses when it breaks, the link repairs.

    client   sender's end: one connection after the other     connection   one of them, from try to end
    station  station's end                                    peers        what it remembers of senders
    credit   the transport's own messages and counters        curve        CURVE and the allow list
    sockets  socket options: bounds, heartbeats, back-off
"""

from shared.transports.zeromq.client import ZeroMQClient, check_zeromq_client, open_zeromq_client
from shared.transports.zeromq.station import ZeroMQStation, check_zeromq_station, open_zeromq_station

__all__ = [
    "ZeroMQClient",
    "ZeroMQStation",
    "check_zeromq_client",
    "check_zeromq_station",
    "open_zeromq_client",
    "open_zeromq_station",
]
