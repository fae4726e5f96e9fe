"""One model at work: steps that wait are run together, and sessions move on. Stands on `sessions` and `runtimes`."""
