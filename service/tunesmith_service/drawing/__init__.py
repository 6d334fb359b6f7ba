"""Figures as SVG, for what has no browser's charts: the report, and files that `tunesmith plot` writes."""
