"""One model at work: what waits runs together, and sessions move on. Stands on `sessions` and `runtimes`."""
