"""Face features of one frame of the sample clip, against a recorded file: python tests/test_face_golden.py remakes it.

The model was trained on these numbers. If this test fails, the weights no longer fit the features.
"""

from pathlib import Path

import av
import numpy as np
import pytest

from psamf_edge.face.features import VISION_FEATURES, FacePath

ROOT = Path(__file__).parents[1]
GOLDEN = Path(__file__).parent / "golden" / "face_features.npz"
WEIGHTS = ROOT / "compile" / "weights" / "default"

# Another CPU rounds the networks' sums differently, about 1e-5; a landmark then moves by a hundredth of a pixel, which
# moves a measure by a hundredth of an eye distance of 60 pixels, and a grey level of the crop by one.
MEASURES, EXPRESSION = 5e-3, 5e-2


def first_frame_features() -> np.ndarray:
    """(69,) of the first frame."""
    with av.open(str(ROOT / "psamf_edge" / "data" / "sample.mp4")) as container:
        image = next(container.decode(video=0)).to_ndarray(format="rgb24")
    path = FacePath.open(lambda name: (WEIGHTS / name).read_bytes())
    path.start()
    assert path.observe(image, 0)
    return path.features(0, 1).values[0]


def test_features_of_a_known_face():
    golden = np.load(GOLDEN, allow_pickle=False)
    names = [feature.name for feature in VISION_FEATURES]
    assert list(golden["names"]) == names
    values = first_frame_features()
    measures = names.index("mesh_found") + 1
    assert values[:measures] == pytest.approx(golden["values"][:measures], abs=MEASURES)
    assert values[measures:] == pytest.approx(golden["values"][measures:], abs=EXPRESSION)


if __name__ == "__main__":
    np.savez_compressed(GOLDEN, values=first_frame_features(), names=[feature.name for feature in VISION_FEATURES])
