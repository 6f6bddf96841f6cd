"""The personality encoder of PSA-MF's teacher: text to Big-Five traits, of which only the last [CLS] vector is used."""
