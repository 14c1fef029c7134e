"""What is measured here and printed as one table: layers, whole models, decoding, streaming; and older scripts."""
