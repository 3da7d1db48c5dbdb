"""Training of the committed networks on real frames, pasted objects and rendered scenes."""
