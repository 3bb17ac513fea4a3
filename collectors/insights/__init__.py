"""What the numbers mean: pure functions over the ledger's sums."""
