"""Serve recurrent models over gRPC and keep their state between calls: `statecell-server --models models`."""

__version__ = "0.1.0"
