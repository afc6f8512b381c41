"""When: one pass at a time under the stack's lock, repeated until settled; probing; health."""
