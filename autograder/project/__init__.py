"""The final project: what its handbook asks for, and what is not in order in a folder of one."""
