"""The processes of one server behind one port, and what they pass on. It may import protocols and below."""
