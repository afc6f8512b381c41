"""Order: what needs what, in which layers it comes up, and where it runs in a circle. Pure; the only user of networkx."""
