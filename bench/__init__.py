"""Measures the server against what it is built on: ONNX Runtime alone, and an empty gRPC server."""
