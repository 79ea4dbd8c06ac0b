"""Benchmarks: what is measured is what is run, with the composition that `make up` starts."""
