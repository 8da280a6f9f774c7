"""One file per architecture, named as upstream and vit_flax name it."""
