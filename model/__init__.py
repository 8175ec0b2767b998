"""M3ViT in PyTorch: the multi-task mixture-of-experts vision transformer, its data and training."""
