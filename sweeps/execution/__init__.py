"""Running the trials of a plan, and surviving what happens to them."""
