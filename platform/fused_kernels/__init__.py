"""Elementwise work of a layer by Triton kernels of one pass: what torch does in several, each reading and writing all.

Each module here is one function and its gradient, for tensors on a GPU; whoever calls it has the same in plain torch
and asks `choice.kernels_take` which of the two it is. Only what that function sends here imports Triton.
"""
