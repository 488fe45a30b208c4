"""The command `python -m numbadw selftest`: random calls against the reference.

draws.py    what is called: kinds of kernels, then calls of each kind
families.py calls of sequences, pixels and separable convolutions
check.py    one call, compared with the float64 reference
batch.py    the calls of some kinds, in a process of their own
long.py     all kinds of a long test: child processes, and a file to resume from
command.py  the options and the verdict
"""
