"""Calibration of the confidence on validation predictions: `calibrate` fits and judges it, `apply` folds it in."""

from psamf_edge.compile.calibration.calibrate import Calibration, apply, calibrate, calibrate_clips

__all__ = ["Calibration", "apply", "calibrate", "calibrate_clips"]
