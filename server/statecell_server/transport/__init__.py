"""How messages come and go: gRPC, and calls with many messages. Knows no message of ours and no other room."""
