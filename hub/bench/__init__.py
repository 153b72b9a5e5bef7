"""The load generator of `push-hub bench`. `tests/bench` compares the hub with other servers by the same code.

Invariant: every published event that did not reach a viewer is counted and reported beside the figures. The
benchmark sets no targets, because figures of two machines, or of two runs, cannot be compared.
"""

from hub.bench.command import bench, capacity, run

__all__ = ["bench", "capacity", "run"]
