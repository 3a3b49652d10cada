"""The slow parts of the networks done faster, with the results that their layers give."""
