"""What quantisation costs: reports, sensitivity, confidence intervals."""
