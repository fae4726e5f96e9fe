"""The Open Inference Protocol over REST: HTTP's bodies as the messages of the gRPC protocol, and its answers back."""
