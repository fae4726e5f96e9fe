"""Who calls, and what is whose. Touches nothing but files of its own."""
