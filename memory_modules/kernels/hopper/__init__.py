"""Kernels that say what lies where on a Hopper GPU, in Gluon, Triton's lower level: memories of two matrices."""
