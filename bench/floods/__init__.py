"""What a client that steps one session waits while others flood the server: `python -m bench.floods`."""
