"""Workers: the processes of one server behind one port, and what they pass on to each other. It may import protocols and below."""
