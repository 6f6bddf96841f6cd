"""From one or several PSA-MF teachers to a student of any number of text blocks: `psamf-edge distill`."""
