"""The selected pairs as tars and as other trainers read them, written from one store of images in the pairs' order.

Begin at store.py. shards.py: WebDataset tars. Each other layout is one file with a function that writes samples;
output.py: what it is given; found.py: which there are, of other packages, too.
"""
