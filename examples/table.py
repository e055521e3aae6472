"""A small real table, measurements of 569 cell nuclei in 30 columns, and what simpler models make of it.

    pip install scikit-learn
    python examples/table.py
    python -m vae_fast.train --preset tabular --data breast-cancer.npz

The data are Wisconsin Diagnostic Breast Cancer (Wolberg, Street, Mangasarian 1995), as scikit-learn ships them. Every
fifth row becomes the test part. The likelihoods that are printed are those of standardized columns, as the run's are.
"""

import sys
from pathlib import Path

import numpy as np

OUT = Path("breast-cancer.npz")


def main() -> None:
    try:
        from sklearn.covariance import LedoitWolf
        from sklearn.datasets import load_breast_cancer
        from sklearn.decomposition import FactorAnalysis
        from threadpoolctl import threadpool_limits
    except ModuleNotFoundError:
        sys.exit("error: scikit-learn is not installed: pip install scikit-learn")
    table = load_breast_cancer().data.astype(np.float32)
    is_test = np.arange(len(table)) % 5 == 0
    train, test = table[~is_test], table[is_test]
    np.savez(OUT, train=train, test=test)
    print(f"{OUT}: {len(train)} training and {len(test)} test rows of {table.shape[1]} columns; now simpler models:")
    train, test = ((part - train.mean(0)) / train.std(0) for part in (train, test))
    independent = 0.5 * (test.astype(np.float64) ** 2 + np.log(2 * np.pi)).sum(1).mean()
    with threadpool_limits(1):  # so small products are slower on several threads
        factors = max(FactorAnalysis(n, random_state=0).fit(train).score(test) for n in range(1, 16))
    print(f"test, nats per row: independent Gaussians {independent:.2f}, factor analysis at its best {-factors:.2f}")
    print(f"one Gaussian with a shrunk covariance {-LedoitWolf().fit(train).score(test):.2f}")


if __name__ == "__main__":
    main()
