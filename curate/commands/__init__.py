"""The commands, one file per wing: parse, call the wing's verb, print its lines. Heavy packages load inside them."""
