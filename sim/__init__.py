"""Simulated channels, scenarios and reports; drives the link core on a virtual clock."""
