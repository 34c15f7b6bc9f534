"""Random changes of training images, on the training device, a whole batch at once."""
