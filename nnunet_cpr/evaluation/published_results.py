"""The paper's own segmentation results (Franke et al. 2024, Table J.1 and the text on AMOS22), to stand beside ours."""

import pandas as pd

_WEIGHT_DECAYS = ("1e-5", "1e-4", "1e-3", "1e-2", "1e-1")
_WARM_STARTS = ("1k", "2k", "3k", "4k")
# Mean Dice in percent over 5 folds (BTCV: 3), weight decays first, then warm starts.
_TABLE_J1 = {
    "BTCV": (83.04, 83.10, 83.17, 83.99, 73.92, 81.17, 84.14, 84.23, 55.41),
    "Heart": (92.92, 92.75, 92.88, 92.90, 92.85, 92.77, 93.18, 93.16, 74.44),
    "BraTS2020": (75.85, 76.01, 76.22, 76.12, 75.42, 75.29, 76.46, 76.65, 75.63),
}
_SETTINGS = [f"SGD, weight decay {w}" for w in _WEIGHT_DECAYS] + [f"SGD + CPR, Kappa-WS {s}" for s in _WARM_STARTS]


def published(datasets: list[str]) -> pd.DataFrame:
    """Return the paper's rows for datasets with these nnU-Net names: dataset, setting, dice (0 to 1), source.

    They are of 3d_fullres, on the Heart of the Medical Segmentation Decathlon, BraTS 2020, BTCV and AMOS22.
    """
    rows: list[tuple[str, str, float, str]] = []
    for dataset in datasets:
        name = dataset.partition("_")[2].lower()
        for known, values in _TABLE_J1.items():
            if known.lower() == name:
                means = "mean over 3 folds" if known == "BTCV" else "mean over 5 folds"
                rows += [(dataset, s, v / 100, f"Table J.1, {means}") for s, v in zip(_SETTINGS, values, strict=True)]
        if name.startswith("amos"):
            rows.append((dataset, "nnU-Net default (SGD, weight decay 3e-5)", 0.8945, "AMOS22"))
            rows.append((dataset, "SGD + CPR, Kappa-WS 1k, no warmup", 0.8959, "AMOS22"))
    return pd.DataFrame(rows, columns=["dataset", "setting", "dice", "source"])
