"""The CUDA backend: thread bodies of unrolled words, compiled by numba-cuda.

Read in this order: `rows.py` and `tiles.py` (know registers), `forward.py`,
`input_grad.py` and `kernel_grad.py` (know memory), `table.py` and `plan.py` (know
numbers), `compile.py` (machine code).  Importing any of them needs no CUDA.
"""
