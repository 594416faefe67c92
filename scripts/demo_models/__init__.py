"""Pieces of the demo model trainer: data, networks, GGUF export."""
