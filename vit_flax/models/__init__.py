"""One file per architecture, named as upstream names it."""
