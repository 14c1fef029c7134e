"""Programs of one launch that wait for each other: those that hold slices of the same memory meet once a chunk.

A program takes its number from a counter as it starts, so whoever waits, waits for programs that run already or are
the next to start; nothing can block for good as long as the programs of one memory fit the chip together, beside those
of other launches that wait for a last one of theirs (platform/wavefront.py counts them). What was written before
arriving (a release at gpu scope) is seen by everyone after the meeting, read past the first-level cache, which does
not hear of it.
"""

from functools import cache

import torch
import triton
import triton.language as tl


@cache
def multiprocessors(device: torch.device) -> int:
    """Of a GPU: so many programs run at once for sure."""
    return torch.cuda.get_device_properties(device).multi_processor_count


@triton.jit
def arrive(counter, P: tl.constexpr):  # type: ignore[no-untyped-def]
    """Says that this program, one of P, has written what the others wait for."""
    tl.debug_barrier()
    if P > 1:
        tl.atomic_add(counter, 1, sem="release", scope="gpu")


@triton.jit
def wait(counter, arrivals, P: tl.constexpr):  # type: ignore[no-untyped-def]
    """Waits until so many arrivals were counted since the launch."""
    if P > 1:
        # relaxed, as acquiring empties the first-level cache at every look; `fresh` reads past that cache instead
        while tl.atomic_add(counter, 0, sem="relaxed", scope="gpu") < arrivals:
            pass
        tl.debug_barrier()


@triton.jit
def summed(parts, stride, places, mask, P: tl.constexpr, WHOLE: tl.constexpr):  # type: ignore[no-untyped-def]
    """The sum of P programs' parts, always in the same order."""
    total = fresh(parts + places, mask, WHOLE)
    for other in tl.static_range(1, P):
        total += fresh(parts + other * stride + places, mask, WHOLE)
    return total


@triton.jit
def fresh(places, mask, WHOLE: tl.constexpr):  # type: ignore[no-untyped-def]
    """What another program wrote there, 0 where the mask is off; WHOLE: it is off nowhere."""
    if WHOLE:
        return tl.load(places, cache_modifier=".cg")
    else:
        return tl.load(places, mask, 0.0, cache_modifier=".cg")
