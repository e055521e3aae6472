"""The streams of the noise, one for each use, so that no two uses share a random number. 16 and up are for users."""

TRAINING = 0
EVALUATION = 1  # step 0, row = the image's index: independent of the batch size
SAMPLING = 2
BINARIZATION = 3
SHUFFLE = 4
