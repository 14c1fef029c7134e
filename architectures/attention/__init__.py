"""Attention for the architectures: backends behind one interface, rotary positions, layers with a cache."""
