"""Holdfast beside its peers: `python -m benchmarks [GROUP …] [--quick] [--write]`.

Law: a ratio is only taken between contestants that ran interleaved (A B A B …) in the same run,
as the median of the ratios of each round. Absolute figures drift with the machine; they are shown, not judged,
except where a bar is an absolute one.
"""
