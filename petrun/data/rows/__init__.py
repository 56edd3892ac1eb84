"""What rows mean: columns, labels, numbers to predict, templates, and the rows that cannot be used."""
