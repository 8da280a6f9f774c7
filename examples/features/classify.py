"""Fits scikit-learn's random forest and k nearest neighbours on what `python -m train features` has written."""

import sys

import numpy as np
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import accuracy_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer


def main(path: str) -> None:
    stored = np.load(path)
    # Of a layer with tokens, their average.
    features = stored['features'].reshape(len(stored['features']), -1, stored['features'].shape[-1]).mean(1)
    labels, classes, train = stored['labels'], stored['classes'], stored['split'] == 'train'
    if train.all() or not train.any():
        sys.exit(f'{path} has one split only: write it with --split both')
    print(f'{train.sum()} images to fit on, {(~train).sum()} held out, {features.shape[1]} features')

    models = {
        'random forest': RandomForestClassifier(300, random_state=0, n_jobs=-1),
        # Neighbours by angle, as is usual for embeddings.
        '5 nearest neighbours': make_pipeline(Normalizer(), KNeighborsClassifier(5)),
    }
    for name, model in models.items():
        said = model.fit(features[train], labels[train]).predict(features[~train])
        missed = np.bincount(labels[~train][said != labels[~train]], minlength=len(classes))
        print(
            f'{name}: {accuracy_score(labels[~train], said):.2%} of the held-out images right, '
            f'most mistakes with {classes[missed.argmax()]!s}'
        )


if __name__ == '__main__':
    if len(sys.argv) != 2:
        sys.exit('usage: python classify.py FEATURES.npz')
    main(sys.argv[1])
