"""What looks at each step and sets the next: beta that aims, fp16's loss scale, and the guard that ends a lost run."""
