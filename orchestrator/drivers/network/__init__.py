"""Networks, service names and published ports, and the links of groups: kinds network and service, and `GroupNetwork`.

Routed, not bridged: a group has one veth, a /32 per network that it joins, and nftables decides every packet.
"""
