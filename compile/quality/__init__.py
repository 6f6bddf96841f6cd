"""What a lower precision costs: the same utterances through both models, and a bound on what lies between."""
