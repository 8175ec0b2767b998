"""Board targets and the devices that run on them."""
