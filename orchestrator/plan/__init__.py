"""Stack x Observed -> Plan. Pure: no clock, no driver, no log."""
