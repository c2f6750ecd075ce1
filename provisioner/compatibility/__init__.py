"""What each dataplane can do, and the gates that refuse the rest: one matrix of data, and pure functions over documents."""
