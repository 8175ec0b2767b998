"""Queues, pipelines, memories and tables: what the units are made of."""
