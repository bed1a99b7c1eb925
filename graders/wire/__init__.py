"""What the oracle and the worker say to each other: plain data only, never pickle.

``codec`` turns values into a msgpack tree and back, ``messages`` names the requests and replies,
``channel`` moves frames and file descriptors over a Unix socket with a deadline.
"""
