"""The operators for GPUs, in Triton: kernels, and the functions that launch them.

`import triton` takes time and is not possible everywhere, so nothing imports this package before one of its kernels is
called. Under TRITON_INTERPRET=1 the kernels run on a CPU, in NumPy: slowly, and step by step.
"""
