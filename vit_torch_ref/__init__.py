"""The reference: small PyTorch models with vit-pytorch's state_dict names, to which the Flax models are proved equal.

They share little on purpose, so that a mistake in a shared Flax block has no twin here. Random
draws (which layers run, which patches are masked) are arguments. Images are `[b c h w]`.
"""
