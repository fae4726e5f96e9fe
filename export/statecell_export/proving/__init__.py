"""Artifacts run as a server runs them, and compared. Stands on `reading` and `writing`."""
