"""Photo digits, the detection dataset that gn_det builds by itself on the user's machine."""
