"""What clients speak: unpack, one await, pack. Stands on `engine`, and on `transport` for calls of many messages."""
