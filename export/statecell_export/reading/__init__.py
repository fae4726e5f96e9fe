"""What a module takes, gives and remembers, read from the module itself. Writes nothing and proves nothing."""
