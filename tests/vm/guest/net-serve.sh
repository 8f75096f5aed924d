# The peer of another guest: serves until it is told to stop.
address "$(given own)"
[ -z "$(given mtu)" ] || ip link set $nic mtu "$(given mtu)"
serves 16
ask serving
no_network_errors
say complete
