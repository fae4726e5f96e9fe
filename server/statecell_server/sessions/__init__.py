"""What a client's recurrence is between steps. Stands on `arena` and `durability`; knows no step and no model at work."""
