"""A model for others: float parameters, ONNX, QDQ."""
