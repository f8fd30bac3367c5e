"""Prompts as points of the plane: near points are prompts with alike embeddings."""

import warnings

import numpy as np

SEED = 0
FEWEST_FOR_TSNE = 30
PRINCIPAL_COMPONENTS = 50
PERPLEXITY = 30
LEAST_DIFFERENCE = 1e-6
"""Coordinates of normalised embeddings that differ by less differ by rounding."""


def project(embeddings: np.ndarray) -> tuple[np.ndarray, str]:
    """(n, d) embeddings -> (n, 2) coordinates, and the method in words. n is at least 1.

    t-SNE (van der Maaten and Hinton, JMLR 9, 2008) on the first principal components, with a fixed seed; for few
    points, or where all lie on a line, the two first principal components.
    """
    from sklearn.decomposition import PCA  # loads in a second, and few commands need it
    from sklearn.manifold import TSNE

    centred = embeddings.astype(np.float64)
    centred -= centred.mean(axis=0)
    most = min(PRINCIPAL_COMPONENTS, *centred.shape)
    if np.abs(centred).max() < LEAST_DIFFERENCE or most < 2:
        return np.zeros((len(centred), 2)), "all prompts alike"
    components = PCA(most, svd_solver="full").fit_transform(centred)
    if len(components) < FEWEST_FOR_TSNE:
        return components[:, :2], "principal component analysis"
    perplexity = min(PERPLEXITY, (len(components) - 1) / 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the cores of the machine, of no use to the reader of a report
        points = TSNE(2, perplexity=perplexity, init="pca", random_state=SEED).fit_transform(components)
    return points.astype(np.float64), f"t-SNE, perplexity {perplexity:g}, seed {SEED}; far distances mean little"
