"""Plans before a run: scaling rules, forecasts and throughput; and the comparison with the run afterwards."""
