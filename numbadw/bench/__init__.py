"""Workloads, peers and measuring: what the benchmarks and the report share."""
