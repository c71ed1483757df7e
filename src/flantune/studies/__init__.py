"""Grids of recipes whose points are run once, resumed, shared between studies and read together."""
