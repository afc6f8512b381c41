"""The only writers: values of commands in, text on a terminal or a JSON document out."""
