"""The benchmark's CUDA target: everything that differs from the CPU's.

clock.py      events, and a queue that is full before they begin
ceilings.py   copies and multiply-adds of the device
passes.py     numbadw's calls, on arrays that stay there and on NumPy arrays
peers.py      PyTorch, JAX and CuPy on the device
tasks.py      layers, dtypes and batches
rehearsal.py  what is checked before anything is timed
"""
