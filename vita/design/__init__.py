"""Planning of a training run: scaling rules, predictions and throughput, and the comparison with the actual run."""
