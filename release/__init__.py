"""What `make release` does: the version in every place that has it, the changelog, the bill of materials, checksums, the tag."""
