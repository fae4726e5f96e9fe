"""What `make release` does: the version everywhere, the changelog, the bill of materials, checksums, the tag."""
