"""Times our train step against the same network in PyTorch over FBGEMM's tables, on a CPU.

Only `twins`, `torch_layers`, `torch_step` and `comparison` import PyTorch; it comes with the extra `peers`.
"""
