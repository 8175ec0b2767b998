"""A page and a JSON API over one model and its devices, and the backend that is a client of it."""
