"""A simulated log with a known answer."""
