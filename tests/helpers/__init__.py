"""What several tests share: inputs, small runs, servers."""
