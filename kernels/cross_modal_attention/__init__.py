"""PSA-MF's cross-modal attention block for one text query. The float64 oracle is in `reference`."""
