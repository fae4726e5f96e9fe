"""The demo: a server of one's own, driven with the example models. `python -m statecell_examples.demo`."""
