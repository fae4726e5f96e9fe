"""Where states are: rows that are written once. Knows no session and no runtime."""
