"""gRPC over HTTP/2 on the event loop, in place of grpcio's own server."""
