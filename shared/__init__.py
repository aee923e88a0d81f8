"""What both ends agree on: the codec, the link and the transports. Nothing here imports torch by itself."""
