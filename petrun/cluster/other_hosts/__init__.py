"""The petruns of a job's other hosts: connections, what the hosts agree on, and how each watches the others. No rank is started here."""
