"""The memory plan: the peak memory of a training step, from the cells of a net without values. Nothing is computed or compiled.

`tape` holds the tensors of a step in the order in which they come and go; `operators` says what each operator keeps; `kernels`, `deltas`
and `nets` follow the `construct` of the cells, in the order of their packages; `plan` adds weights, optimizer and the process itself.
"""
