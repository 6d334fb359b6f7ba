"""Callbacks for other people's training loops: Lightning's, Hugging Face's, Keras's. One module each, which
imports its framework; docs/frameworks.md shows them."""
