"""Post-training quantisation: from a float network and its calibration to integers."""
