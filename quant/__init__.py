"""Number formats, calibration and the integer reference of every operator."""
