"""The page of `moevit report`: one file with everything about one image."""
