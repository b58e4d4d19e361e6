"""Candidates, tie-exact metrics, significance and leak counters."""
