"""What people read: tables, reports, advice. The command line prints it, and so does the console of a server.

Text in, lines out: nothing here prints, and nothing here knows where its lines go. Names and texts may come from
clients, so whatever is shown goes through :func:`hotfd.display.text.printable`.
"""
