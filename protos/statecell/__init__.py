"""What exporter, server and clients share: the wire, the tensors on it, and ModelSpec."""
