"""Training: data, losses, the loop, and fine-tuning of quantised networks."""
