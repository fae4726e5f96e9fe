"""How messages come and go. Knows no message of ours, and no other room."""
