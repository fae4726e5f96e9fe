"""The Open Inference Protocol, and its sequences."""
