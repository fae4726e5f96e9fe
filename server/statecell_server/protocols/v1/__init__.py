"""statecell.v1, our own protocol."""
