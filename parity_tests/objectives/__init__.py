"""One file per objective, named as upstream names it, with its cases."""
