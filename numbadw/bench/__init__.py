"""Workloads, rivals and measuring: what the benchmarks and the report share."""
