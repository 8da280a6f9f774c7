"""One file for each kind of file of weights; `vit_flax.weights.files` chooses among them by content.

Each offers `listing(path)`, `read(path)` and `write(path, arrays)`, stays within limits that follow from the file's
size, and raises nothing but `FileError`. orbax reads its own folders and msgpack its own maps, the others are read by
code of ours and numpy's.
"""
