"""One file for each kind of file of weights; `vit_flax.weights.files` chooses among them by content.

Each reads with code of its own or numpy's, within limits that follow from the file's size, and raises nothing but
`FileError`.
"""
