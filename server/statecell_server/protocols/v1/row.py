"""Rows: the steps that nearly all requests of statecell.v1 are, one session and one time step, on their short way."""
