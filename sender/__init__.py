"""The sending side: sources, encoder, spool, rate control and the node. Never imports torch."""
