"""What an operator sees: counters, read when they are asked for. Stands on `engine` and `transport`. Needs the extra `http`."""
