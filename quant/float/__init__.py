"""The network before quantisation, in float parameters."""
