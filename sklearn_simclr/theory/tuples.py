r"""Draw the tuples of images that the theory of contrastive learning is about.

The framework is that of Arora et al. (2019), "CURL". Each class c has a probability :math:`\rho(c)` and a
distribution of images :math:`D_c`. Contrastive training sees an anchor x and a positive x+ of one class, and
k negatives of classes that are drawn anew, perhaps the same. Here the images at hand stand for the
distributions: :math:`D_c` is the uniform distribution on the rows of class c. Then every inequality of the
paper holds exactly, up to the sampling of tuples.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from sklearn.utils import check_random_state

from .._utils.types import Labels, RandomState
from ._arguments import check_count, class_numbers, prior_of

__all__ = ["ContrastiveTuples", "sample_tuples"]


class ContrastiveTuples(NamedTuple):
    """Tuples of an anchor, its positives and its negatives, as row numbers.

    Parameters
    ----------
    anchor : ndarray of shape (M,)
        Rows of the anchors x.
    positive : ndarray of shape (M, b)
        Rows of the b positives x+ of each anchor.
    negative : ndarray of shape (M, k, b)
        Rows of the k blocks of b negatives x-.
    positive_class : ndarray of shape (M,)
        Number of the class of anchor and positives, an index of the sorted labels.
    negative_class : ndarray of shape (M, k)
        Numbers of the classes of the negatives.

    See Also
    --------
    sample_tuples : Draws them.

    Examples
    --------
    >>> from sklearn_simclr.theory import sample_tuples
    >>> tuples = sample_tuples([0, 0, 1, 1], 3, n_negatives=2, random_state=0)
    >>> tuples.anchor.shape, tuples.positive.shape, tuples.negative.shape
    ((3,), (3, 1), (3, 2, 1))
    """

    anchor: np.ndarray
    positive: np.ndarray
    negative: np.ndarray
    positive_class: np.ndarray
    negative_class: np.ndarray


def sample_tuples(
    y: Labels,
    n_tuples: int,
    *,
    n_negatives: int = 1,
    block_size: int = 1,
    class_prior: ArrayLike | None = None,
    random_state: RandomState = None,
) -> ContrastiveTuples:
    r"""Draw anchors, positives and negatives by latent class.

    For each tuple, classes :math:`c^+, c^-_1, \dots, c^-_k` are drawn independently from the prior, then the
    anchor and b positives from the images of :math:`c^+`, and b negatives from those of each :math:`c^-_i`.
    All draws are independent and with replacement, as the theory asks: the positive may be the anchor itself,
    and a negative may be of the anchor's class (a *collision*).

    Parameters
    ----------
    y : array-like of shape (n,)
        Class of each row.
    n_tuples : int
        M >= 1.
    n_negatives : int, default=1
        k >= 1.
    block_size : int, default=1
        b >= 1; 1 is pairs.
    class_prior : array-like of shape (n_classes,) or None, default=None
        :math:`\rho`, in the order of the sorted labels, >= 0 and of sum 1. None is the share of each class in
        `y`.
    random_state : int, RandomState or None, default=None
        Seed.

    Returns
    -------
    ContrastiveTuples
        Row numbers and classes.

    Raises
    ------
    ValueError
        If `y` is no vector of labels, or a number or the prior is out of range.

    See Also
    --------
    unsupervised_loss : The loss of the tuples.
    ContrastiveTuples : What is returned.

    References
    ----------
    Arora et al., 2019, arXiv:1902.09229, section 2 (pairs), 6.1 (k negatives) and 6.3 (blocks).

    Examples
    --------
    >>> from sklearn_simclr.theory import sample_tuples
    >>> tuples = sample_tuples(["cat", "cat", "dog"], 4, block_size=2, random_state=0)
    >>> tuples.positive.shape, tuples.negative.shape
    ((4, 2), (4, 1, 2))
    """
    codes, n_classes = class_numbers(y)
    prior = prior_of(class_prior, codes, n_classes)
    for name, value in (("n_tuples", n_tuples), ("n_negatives", n_negatives), ("block_size", block_size)):
        check_count(name, value)
    rng = check_random_state(random_state)
    drawn = rng.choice(n_classes, size=(n_tuples, 1 + n_negatives), p=prior)
    order = np.argsort(codes, kind="stable")
    counts = np.bincount(codes, minlength=n_classes)
    starts = np.cumsum(counts) - counts

    def rows(classes: np.ndarray) -> np.ndarray:
        return order[starts[classes] + rng.randint(counts[classes])]

    plus, minus = drawn[:, 0], drawn[:, 1:]
    return ContrastiveTuples(
        rows(plus),
        rows(np.repeat(plus[:, None], block_size, axis=1)),
        rows(np.repeat(minus[:, :, None], block_size, axis=2)),
        plus,
        minus,
    )
