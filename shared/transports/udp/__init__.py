"""UDP transport: one packet a datagram, where packets really get lost.

To a single host, a multicast group that several stations may hear, or a broadcast address; answers come from a station
to where the packets came from. Whatever the network says against a packet makes it a lost packet, which the link
repairs: a modem that is not up yet, or an interface that comes and goes, never ends a sender.

    client   sender's end                                     lookup    which address of a host it uses
    station  station's end                                    sockets   datagram sockets in an event loop
    settings options of addresses, sockets made by them
"""
