"""Where durable sessions are kept between their steps. Knows bytes and records, no session."""
