"""Random changes to training images: augment.py applies all of them to a batch; the other files have one kind each."""
