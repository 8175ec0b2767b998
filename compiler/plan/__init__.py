"""Planning: where everything lies, in what pieces it is cut, which experts are streamed."""
