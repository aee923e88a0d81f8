"""The ground station: ingest, decoding and archive of pictures (Pinhole's receiving side)."""
