"""Where durable sessions are kept. Knows bytes and records, no session."""
