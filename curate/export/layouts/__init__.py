"""The selected pairs as other trainers read them: one file a layout, each a function that writes samples in rank order.

Begin at stage.py. store.py: all images in rank order in one file; output.py: what a layout is given; found.py: which
layouts there are, of other packages, too.
"""
