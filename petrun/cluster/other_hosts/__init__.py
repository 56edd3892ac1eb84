"""Connect to petrun on the job's other hosts: exchange values, and watch each other. No rank is started here."""
