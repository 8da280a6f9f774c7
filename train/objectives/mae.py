"""Masked autoencoder (arXiv:2111.06377): most of an image is masked, and a small decoder predicts its pixels."""

from train.objectives.options import trains
from train.objectives.pretraining import Pretraining
from vit_flax.objectives.mae import MAE


@trains(MAE, without=('class_token',))
class Mae(Pretraining):
    """Mean squared error of masked patches, predicted from the visible ones."""

    reconstructs = True
