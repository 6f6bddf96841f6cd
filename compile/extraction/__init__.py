"""Features of labelled clips, by the code that scores clips, for training here and with MMSA."""
