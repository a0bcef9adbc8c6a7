"""The command line `glinthawk`: above the services, it starts them, asks them and reports.

Owns: nothing that outlives a command, except the processes of a cluster on this machine.
Receives: the user's words, and HTTP answers of the router.
Sends: HTTP requests to the router; signals to processes that it started.
"""
