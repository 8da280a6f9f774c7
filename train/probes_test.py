"""The probes find what scikit-learn finds."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from train.probes import TEMPERATURE, Features, chosen, knn, linear, probe
from train.sources.digits import Digits


@pytest.fixture(scope='module')
def splits():
    """Digits as 24 random features with a dead one, which is no worse a network than many."""
    project = np.random.default_rng(0).normal(size=(64, 24)) / 8
    project[:, 5] = 0

    def features(split):
        records = Digits().records(split)
        pixels = np.stack([record['image'].ravel() for record in records]) / 255
        return Features(np.maximum(pixels @ project, 0).astype(np.float32), np.array([r['label'] for r in records]))

    return features('train'), features('val')


def test_nearest_neighbours_vote_by_similarity(splits):
    train, held_out = splits
    judge = KNeighborsClassifier(
        20, metric='cosine', algorithm='brute', weights=lambda distance: np.exp((1 - distance) / TEMPERATURE)
    ).fit(train.features, train.labels)
    expected = judge.predict(held_out.features)
    assert (knn(train, held_out.features, 10) == expected).mean() > 0.995
    assert 0.6 < (expected == held_out.labels).mean() < 0.99
    few = Features(train.features[:3], train.labels[:3])
    assert set(knn(few, held_out.features, 10)) <= set(few.labels)


def test_the_linear_probe_is_logistic_regression(splits):
    train, held_out = splits
    judge = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(train.features, train.labels)
    said, expected = linear(train, held_out.features, 10), judge.predict(held_out.features)
    assert (said == expected).mean() > 0.99
    assert abs((said == held_out.labels).mean() - judge.score(held_out.features, held_out.labels)) < 0.01


def test_numbers_of_both_and_of_collapse(splits):
    train, held_out = splits
    found = probe(train, held_out, 10)
    assert found['knn_accuracy'] > 0.6 and found['linear_accuracy'] > 0.6
    assert found == probe(train, held_out, 10)
    spread = np.random.default_rng(0).normal(size=held_out.features.shape)
    assert probe(train, Features(spread, held_out.labels), 10)['feature_std'] == pytest.approx(1, abs=0.05)
    same = np.tile(held_out.features[:1], (360, 1))
    assert probe(train, Features(same, held_out.labels), 10)['feature_std'] < 1e-5


def test_the_same_few_images_are_probed_from_everywhere():
    records = [{'label': i} for i in range(1000)]
    few = [record['label'] for record in chosen(records, 100)]
    assert few == [record['label'] for record in chosen(records, 100)] == sorted(set(few)) and len(few) == 100
    assert np.mean(few) == pytest.approx(500, abs=80)
    assert chosen(records, 1000) is records
