"""Checkpoints of other projects made ours: M3ViT, Edge-MoE's weight folder, timm."""
