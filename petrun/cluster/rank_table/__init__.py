"""Read HCCL rank tables with every check, make and convert them, and start ranks by one."""
