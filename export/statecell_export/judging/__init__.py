"""The last word: the user's own module, unpatched, run as its user runs it. Stands on the example; lifts nothing."""
