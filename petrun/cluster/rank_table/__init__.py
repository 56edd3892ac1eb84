"""HCCL rank tables: reading with every check, making, converting, and the start-up that uses one."""
