"""The load generator behind `push-hub bench`; `tests/bench` holds the hub against its peers with the same pieces.

Invariant: whatever was published and did not reach a viewer is counted and said; a figure is never printed beside it as
if nothing were missing. It does not judge: figures of two machines, or of two runs, do not compare.
"""

from hub.bench.command import bench, run

__all__ = ["bench", "run"]
