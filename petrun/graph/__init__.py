"""What petrun does to a net: find sites, swap cells, freeze parameters."""
