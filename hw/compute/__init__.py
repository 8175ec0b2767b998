"""The compute engine: operand loader, array, epilogue, softmax, gate and norm."""
