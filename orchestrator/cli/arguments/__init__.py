"""The command line as click sees it: each verb's arguments and help, joined to its command and its view."""
