"""Uses the encoder in scikit-learn: cross-validates a classifier of your pictures, which need one folder per class.

For 8-bit pictures without transparency; `python -m stages predict --embed` also reads others.
Run from the root of the repository, after `dvc repro`: python examples/scikit_learn.py FOLDER
"""

import sys
from collections import Counter
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score

if len(sys.argv) != 2:
    sys.exit(__doc__)
model = onnxruntime.InferenceSession("models/simclr.onnx")


def features(files: list[Path]) -> np.ndarray:
    pictures = (np.array(ImageOps.exif_transpose(Image.open(file)).convert("RGB")) for file in files)
    return np.concatenate([model.run(["features"], {"images": picture[None]})[0] for picture in pictures])


root = Path(sys.argv[1])
files = sorted(file for file in root.glob("*/**/[!.]*") if file.is_file())
classes = [file.relative_to(root).parts[0] for file in files]
if len(set(classes)) < 2:
    sys.exit(f"{root}: must have at least two folders with pictures, one per class")
classifier = LogisticRegression(max_iter=1000)
scores = cross_val_score(classifier, features(files), classes, cv=min(5, *Counter(classes).values()))
print(f"accuracy {scores.mean():.3f} +- {scores.std():.3f}")
