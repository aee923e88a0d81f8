"""UDP datagrams, one packet each."""
